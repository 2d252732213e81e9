"""A bucket in this process's memory, behind the paths of a real one (gs://)."""

import contextlib
from unittest import mock

from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """Names are as of the drivers of buckets: without the protocol, and no slash first."""

    protocol = "gs"
    root_marker = ""
    store: dict = {}
    pseudo_dirs = [""]
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return str(path).removeprefix("gs://").strip("/")


@contextlib.contextmanager
def in_memory():
    """Within it `gs://...` is an empty bucket."""
    bucket = Bucket()
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
    with mock.patch.object(
        type(backend.fsspec_backend), "_get_filesystem", lambda self, name: bucket
    ):
        yield bucket
