"""No test of data reaches the network: archives come from a folder of small ones."""

import dataclasses
import hashlib
import tempfile

import pytest
from data.published import files

from jaxpure.data.archives import ARCHIVES


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A folder with small archives in the official formats."""
    folder = tmp_path_factory.mktemp("published")
    for filename, content in files().items():
        (folder / filename).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def archives_of_folder(published, monkeypatch):
    """The mirrors are that folder."""
    small = {
        name: dataclasses.replace(
            archive,
            mirrors=(published.as_uri() + "/",),
            md5={
                filename: hashlib.md5((published / filename).read_bytes()).hexdigest()
                for filename in archive.md5
            },
        )
        for name, archive in ARCHIVES.items()
    }
    for name, archive in small.items():
        monkeypatch.setitem(ARCHIVES, name, archive)
    return small


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory, monkeypatch):
    """Where temporary files go; TFDS leaves an empty directory there every time."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Where sets are prepared once; the first test that uses one pays for it."""
    return str(tmp_path_factory.mktemp("prepared"))
