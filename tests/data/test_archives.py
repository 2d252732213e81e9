"""Sets prepared without TensorFlow: exact content, whole or not at all."""

import dataclasses
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from data.published import CONTENT, SIZES

from jaxpure import data
from jaxpure.data import archives, tfds


def replace(monkeypatch, name, **changes):
    archive = dataclasses.replace(archives.ARCHIVES[name], **changes)
    monkeypatch.setitem(archives.ARCHIVES, name, archive)


def files_in(folder):
    return [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]


@pytest.mark.parametrize("split", SIZES)
@pytest.mark.parametrize("name", CONTENT)
def test_prepared_set_has_exact_pixels_in_published_order(name, split, prepared):
    images, labels = CONTENT[name][split]
    loaded = data.load(name, split=split, data_dir=prepared)
    np.testing.assert_array_equal(loaded.images, images)
    np.testing.assert_array_equal(loaded.labels, labels)
    np.testing.assert_array_equal(loaded.indices, np.arange(SIZES[split]))
    assert loaded.num_classes == 10
    assert loaded.images.dtype == np.uint8
    floats = loaded.floats()
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(np.rint(floats * 255), images)
    assert floats.min() >= 0 and floats.max() <= 1


@pytest.mark.parametrize("name", CONTENT)
def test_rows_lie_shuffled_on_disk_as_tfds_shuffles_them(name, prepared):
    from tensorflow_datasets.core import hashing

    data.load(name, data_dir=prepared)
    source = tfds._array_record_builder(name, prepared).as_data_source("test")
    hasher = hashing.Hasher("test")
    order = sorted(range(SIZES["test"]), key=hasher.hash_key)
    assert order != sorted(order)
    assert [row["id"] for row in source] == [f"test_{i:05d}".encode() for i in order]


def test_preparing_and_reading_never_import_tensorflow(
    archives_of_folder, tmp_path, scratch
):
    poison = tmp_path / "poison" / "tensorflow"
    poison.mkdir(parents=True)
    (poison / "__init__.py").write_text("raise AssertionError('it was imported')")
    script = """
import pickle, sys
from jaxpure import data
from jaxpure.data import archives

assert "tensorflow_datasets" not in sys.modules
archives.ARCHIVES.update(pickle.load(sys.stdin.buffer))
for name in archives.ARCHIVES:
    data.load(name, data_dir=sys.argv[1])
try:
    data.load("cifar11", data_dir=sys.argv[1])
except data.DataError:
    pass
assert "tensorflow" not in sys.modules
"""
    root = pathlib.Path(data.__file__).parents[2]
    paths = [str(poison.parent), str(root), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "data")],
        input=pickle.dumps(archives_of_folder),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(scratch)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b""


def test_default_directory_is_that_of_tfds(tmp_path, monkeypatch):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "default"))
    archives.prepare("mnist", None)
    assert (tmp_path / "default" / "mnist" / "3.0.1" / "features.json").exists()


# what can go wrong while a set is prepared


def test_no_network_says_what_to_do(tmp_path, scratch, monkeypatch):
    gone = (tmp_path / "gone").as_uri() + "/"
    replace(monkeypatch, "cifar10", mirrors=(gone,))
    with pytest.raises(data.DataError, match="cifar10 is not prepared in") as error:
        data.load("cifar10", data_dir=str(tmp_path / "data"))
    message = str(error.value)
    assert "TFDS_DATA_DIR" in message
    assert f"fetch {gone}cifar-10-binary.tar.gz by hand" in message
    assert str(tmp_path / "data" / "downloads" / "manual") in message
    assert not files_in(scratch) and not (tmp_path / "data").exists()


def test_second_mirror_is_tried(tmp_path, published, monkeypatch):
    mirrors = ((tmp_path / "gone").as_uri() + "/", published.as_uri() + "/")
    replace(monkeypatch, "mnist", mirrors=mirrors)
    assert len(data.load("mnist", data_dir=str(tmp_path))) == SIZES["test"]


def test_file_fetched_by_hand_is_used(tmp_path, published, monkeypatch):
    replace(monkeypatch, "cifar10", mirrors=())
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "cifar-10-binary.tar.gz").symlink_to(published / "cifar-10-binary.tar.gz")
    assert len(data.load("cifar10", data_dir=str(tmp_path))) == SIZES["test"]


def test_wrong_checksum_names_file_expected_and_got(tmp_path, scratch, monkeypatch):
    archive = archives.ARCHIVES["cifar10"]
    ((filename, got),) = archive.md5.items()
    replace(monkeypatch, "cifar10", md5={filename: "0" * 32})
    with pytest.raises(data.DataError) as error:
        data.load("cifar10", data_dir=str(tmp_path / "data"))
    for part in (archive.mirrors[0] + filename, f"is {got}", "expected " + "0" * 32):
        assert part in str(error.value)
    assert not files_in(scratch) and not (tmp_path / "data").exists()


def test_interruption_leaves_nothing_half_written(tmp_path, monkeypatch):
    png, encoded = archives._png, []

    def interrupted(image):
        encoded.append(image)
        if len(encoded) == 20:
            raise KeyboardInterrupt
        return png(image)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(archives, "_png", interrupted)
        archives.prepare("mnist", str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert len(data.load("mnist", data_dir=str(tmp_path))) == SIZES["test"]


def test_another_process_may_be_faster(tmp_path, monkeypatch):
    archives._store("mnist", CONTENT["mnist"], tmp_path)
    before = {path: path.read_bytes() for path in files_in(tmp_path)}
    archives._store("mnist", CONTENT["mnist"], tmp_path)
    assert {path: path.read_bytes() for path in files_in(tmp_path)} == before
    replace(monkeypatch, "mnist", mirrors=())
    archives.prepare("mnist", str(tmp_path))  # nothing is left to be done


def test_directory_that_is_in_the_way(tmp_path):
    target = tmp_path / "mnist" / "3.0.1"
    target.mkdir(parents=True)
    (target / "notes.txt").touch()
    with pytest.raises(data.DataError, match="mnist cannot be stored in .*3.0.1"):
        data.load("mnist", data_dir=str(tmp_path))
    assert files_in(tmp_path) == [target / "notes.txt"]


def test_remote_directory_cannot_be_prepared():
    with pytest.raises(data.DataError, match="only a local directory"):
        archives.prepare("mnist", "gs://bucket/data")
