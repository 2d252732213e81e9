"""TFDS's sets: names, published order, and what is wrong on disk."""

import os
import pathlib
import shutil

import numpy as np
import pytest
from data.published import CONTENT

from jaxpure import data
from jaxpure.data import images, tfds


def test_unknown_name_suggests_image_sets():
    with pytest.raises(data.DataError, match="unknown data set 'cifar11'") as error:
        data.load("cifar11")
    hint = str(error.value).split("Did you mean")[1]
    assert "'cifar10'" in hint and "'cifar100'" in hint
    assert tfds._close_names("CIFAR10")[0] == "cifar10"
    assert tfds._close_names("digts", ["digits"]) == ["digits"]
    assert tfds._close_names("imdb_review") == []  # TFDS has it, as a set of texts


def test_set_that_is_not_prepared_says_how_to(tmp_path):
    with pytest.raises(data.DataError, match="cifar100 is not prepared in") as error:
        data.load("cifar100", data_dir=str(tmp_path))
    assert ".[tensorflow]" in str(error.value)
    assert "TFDS_DATA_DIR" in str(error.value)


@pytest.mark.parametrize("name", ["cifar 10", "no/such/thing", "huggingface:x", "ci?far"])
def test_a_name_that_tfds_cannot_read_is_unknown(name):
    with pytest.raises(
        data.DataError, match="unknown data set .*Known: digits, folder, and"
    ):
        data.load(data.Tfds(name))


def test_a_name_like_another_source_suggests_it():
    with pytest.raises(data.DataError, match="Did you mean 'folder'"):
        data.load("foldr(imgs)")


def test_published_numbers_are_read_off_ids_and_file_names():
    def rows(key, *texts):
        return [{key: text} for text in texts]

    names = rows(
        "file_name", b"ILSVRC2012_val_00000003.JPEG", b"ILSVRC2012_val_00000001.JPEG"
    )
    assert tfds._published_indices("x", "test", names, "file_name").tolist() == [2, 0]
    ids = rows("id", b"test_00042", b"test_00007")
    assert tfds._published_indices("x", "test", ids, "id").tolist() == [42, 7]
    with pytest.raises(data.DataError, match="'abc' ends in no number"):
        tfds._published_indices("x", "test", rows("id", b"abc"), "id")


def test_numbers_that_are_not_distinct_tell_no_order():
    """Those of ImageNet's training set count within a class."""
    names = [{"file_name": f"n0{c}_{i}.JPEG".encode()} for c in (1, 2) for i in (3, 1)]
    assert tfds._published_indices("x", "train", names, "file_name").tolist() == [
        0,
        1,
        2,
        3,
    ]


@pytest.mark.parametrize("name", ["mnist", "mnist:3.0.1"])
def test_where_rows_carry_no_number_the_shuffle_is_undone(name, prepared):
    data.load("mnist", data_dir=prepared)
    builder = tfds._array_record_builder(name, prepared)
    source = builder.as_data_source("test")
    got = tfds._published_indices(builder.info.name, "test", source, None)
    assert [f"test_{i:05d}".encode() for i in got] == [row["id"] for row in source]


def test_bad_split(prepared):
    with pytest.raises(data.DataError, match="no split 'valid'; it has .*train"):
        data.load("mnist", split="valid", data_dir=prepared)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"num_examples": 3}, [0, 1, 2]), ({"indices": [7, 4]}, [7, 4])],
)
def test_only_what_is_asked_for_is_decoded(options, expected, prepared, monkeypatch):
    decode, decoded = images.decode, []
    monkeypatch.setattr(images, "decode", lambda *a: decoded.append(a[0]) or decode(*a))
    loaded = data.load("cifar10", **options, data_dir=prepared)
    assert decoded == [f"example {i} of cifar10/test" for i in expected]
    np.testing.assert_array_equal(loaded.images, CONTENT["cifar10"]["test"][0][expected])
    np.testing.assert_array_equal(loaded.indices, expected)


def test_the_home_folder_is_found(prepared, monkeypatch):
    data.load("mnist", data_dir=prepared)
    monkeypatch.setenv("HOME", str(pathlib.Path(prepared).parent))
    at_home = f"~/{pathlib.Path(prepared).name}"
    assert len(data.load("mnist(num_examples=2)", data_dir=at_home)) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "junk", "gone"])
@pytest.mark.parametrize("pattern", ["dataset_info.json", "features.json", "*test*record*"])
def test_damaged_files_are_told_in_one_line(pattern, damage, prepared, tmp_path):
    data.load("mnist", data_dir=prepared)
    shutil.copytree(pathlib.Path(prepared) / "mnist", tmp_path / "mnist")
    (path,) = (tmp_path / "mnist" / "3.0.1").glob(pattern)
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        size = len(content)
        damaged = {"cut": content[: size // 2], "empty": b"", "junk": b"\xff\x00[5]" * 50}
        path.write_bytes(damaged[damage])
    with pytest.raises(data.DataError) as error:
        data.load("mnist", data_dir=str(tmp_path))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


REAL = os.environ.get("TFDS_DATA_DIR")


@pytest.mark.skipif(
    not REAL or not (pathlib.Path(REAL) / "cifar10").is_dir(),
    reason="TFDS_DATA_DIR holds no cifar10",
)
def test_real_cifar10_is_in_published_order():
    some = data.load("cifar10", num_examples=10, data_dir=REAL)
    np.testing.assert_array_equal(some.labels, [3, 8, 8, 0, 6, 6, 1, 6, 3, 1])
    np.testing.assert_array_equal(some.indices, np.arange(10))
    assert some.image_shape == (32, 32, 3)
