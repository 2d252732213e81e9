"""Data sets: published order, exact pixels, and errors that say what to do."""

import dataclasses
import gzip
import hashlib
import io
import os
import pathlib
import pickle
import subprocess
import sys
import tarfile
import tempfile

import numpy as np
import pytest

from jaxpure import data, data_prepare

SIZES = {"train": 50, "test": 12}


def random_set(seed, shape):
    rng = np.random.default_rng(seed)
    return {
        split: (
            rng.integers(0, 256, (n, *shape), dtype=np.uint8),
            rng.integers(0, 10, n, dtype=np.uint8),
        )
        for split, n in SIZES.items()
    }


CONTENT = {"cifar10": random_set(0, (32, 32, 3)), "mnist": random_set(1, (28, 28, 1))}


def cifar10_files(splits):
    def batch(images, labels):
        pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        return np.concatenate([labels[:, None], pixels], axis=1).tobytes()

    images, labels = splits["train"]
    batches = {"test_batch.bin": batch(*splits["test"]), "readme.html": b"<html>"}
    for i in (0, 3, 1, 2, 4):  # archives need not be sorted
        part = slice(10 * i, 10 * i + 10)
        batches[f"data_batch_{i + 1}.bin"] = batch(images[part], labels[part])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in batches.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return {"cifar-10-binary.tar.gz": buffer.getvalue()}


def mnist_files(splits):
    def idx(array):
        sizes = np.array(array.shape, ">i4").tobytes()
        return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())

    files = {}
    for prefix, split in (("train", "train"), ("t10k", "test")):
        images, labels = splits[split]
        files[f"{prefix}-images-idx3-ubyte.gz"] = idx(images[..., 0])
        files[f"{prefix}-labels-idx1-ubyte.gz"] = idx(labels)
    return files


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A directory with small archives in the official formats."""
    folder = tmp_path_factory.mktemp("published")
    files = cifar10_files(CONTENT["cifar10"]) | mnist_files(CONTENT["mnist"])
    for filename, content in files.items():
        (folder / filename).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def archives(published, monkeypatch):
    """No test may reach the network: the mirrors are that directory."""
    small = {
        name: dataclasses.replace(
            archive,
            mirrors=(published.as_uri() + "/",),
            md5={
                filename: hashlib.md5((published / filename).read_bytes()).hexdigest()
                for filename in archive.md5
            },
        )
        for name, archive in data_prepare.ARCHIVES.items()
    }
    for name, archive in small.items():
        monkeypatch.setitem(data_prepare.ARCHIVES, name, archive)
    return small


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory, monkeypatch):
    """Where temporary files go; TFDS leaves an empty directory there every time."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Where `data.load` prepares, once; the first test that uses it pays for it."""
    return str(tmp_path_factory.mktemp("prepared"))


def replace(monkeypatch, name, **changes):
    archive = dataclasses.replace(data_prepare.ARCHIVES[name], **changes)
    monkeypatch.setitem(data_prepare.ARCHIVES, name, archive)


def files_in(folder):
    return [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]


# digits


def test_digits_are_images_in_the_unit_interval():
    digits = data.load("digits")
    assert digits.image_shape == (8, 8, 1)
    assert digits.images.dtype == np.float32
    assert (digits.images.min(), digits.images.max()) == (0, 1)
    assert digits.labels.dtype == np.int32
    assert set(digits.labels) == set(range(10))
    assert digits.num_classes == 10
    assert digits.floats() is digits.images


def test_digits_splits_are_the_whole_set_in_its_order():
    from sklearn.datasets import load_digits

    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert (len(train), len(test)) == (1297, 500)
    images = np.concatenate([train.images, test.images])
    np.testing.assert_array_equal(images[..., 0] * 16, load_digits().images)
    np.testing.assert_array_equal(
        np.concatenate([train.labels, test.labels]), load_digits().target
    )
    for split in (train, test):
        np.testing.assert_array_equal(split.indices, np.arange(len(split)))


def test_digits_are_the_same_every_time_and_num_examples_takes_the_first():
    some, again = data.load("digits", num_examples=7), data.load("digits")
    assert len(some) == 7
    for field in ("images", "labels", "indices"):
        np.testing.assert_array_equal(getattr(some, field), getattr(again, field)[:7])


# errors


def test_unknown_name_suggests_image_sets():
    with pytest.raises(data.DataError, match="unknown data set 'cifar11'") as error:
        data.load("cifar11")
    hint = str(error.value).split("Did you mean")[1]
    assert "'cifar10'" in hint and "'cifar100'" in hint
    assert data._close_names("CIFAR10")[0] == "cifar10"
    assert data._close_names("digts") == ["digits"]
    assert data._close_names("imdb_review") == []  # TFDS has it, as a set of texts


def test_set_that_is_not_prepared_says_how_to(tmp_path):
    with pytest.raises(data.DataError, match="cifar100 is not prepared in") as error:
        data.load("cifar100", data_dir=str(tmp_path))
    assert "jaxpure[tensorflow]" in str(error.value)
    assert "TFDS_DATA_DIR" in str(error.value)


def test_too_many_examples(prepared):
    with pytest.raises(data.DataError, match="digits/test has 500 examples, 501 were"):
        data.load("digits", num_examples=501)
    with pytest.raises(data.DataError, match="mnist/test has 12 examples, 13 were"):
        data.load("mnist", num_examples=13, data_dir=prepared)


@pytest.fixture
def folder(tmp_path):
    """Three classes, images of several sizes, numbered through the classes."""
    from PIL import Image

    random = np.random.default_rng(0)
    for name in ("n01", "n02", "n03"):
        (tmp_path / name).mkdir()
    sizes = [(40, 30), (30, 40), (56, 32), (32, 32)]  # width, height
    for i, (label, size) in enumerate(
        zip(("n02", "n01", "n02", "n03"), sizes, strict=True)
    ):
        pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / label / f"val_{i:04d}.png")
    (tmp_path / "n01" / "notes.txt").write_text("not an image")
    return tmp_path


def test_a_folder_is_read_in_the_order_of_file_names(folder):
    loaded = data.load(f"folder:{folder}", num_examples=3, image_size=28)
    assert loaded.images.shape == (3, 28, 28, 3) and loaded.images.dtype == np.uint8
    assert loaded.labels.tolist() == [1, 0, 1]
    assert loaded.indices.tolist() == [0, 1, 2]
    assert loaded.num_classes == 3


def test_resizing_and_cropping_keep_the_middle(folder):
    from PIL import Image

    image = Image.open(folder / "n03" / "val_0003.png")  # 32 pixels: only cropped
    loaded = data.load(f"folder:{folder}", image_size=28)
    np.testing.assert_array_equal(loaded.images[3], np.asarray(image)[2:30, 2:30])
    wide = Image.open(folder / "n02" / "val_0002.png")  # 56x32: the sides are cut off
    np.testing.assert_array_equal(loaded.images[2], np.asarray(wide)[2:30, 14:42])


def test_images_of_several_sizes_need_one(folder):
    with pytest.raises(data.DataError, match="differ in size.*set image_size"):
        data.load(f"folder:{folder}")


def test_a_folder_without_images(tmp_path):
    with pytest.raises(data.DataError, match="holds no images: a folder for each class"):
        data.load(f"folder:{tmp_path}")
    with pytest.raises(data.DataError, match="is not a folder"):
        data.load(f"folder:{tmp_path}/none")


def test_published_numbers_are_read_off_ids_and_file_names():
    def rows(key, *texts):
        return [{key: text} for text in texts]

    names = rows(
        "file_name", b"ILSVRC2012_val_00000003.JPEG", b"ILSVRC2012_val_00000001.JPEG"
    )
    assert data._published_indices("x", "test", names, "file_name").tolist() == [2, 0]
    ids = rows("id", b"test_00042", b"test_00007")
    assert data._published_indices("x", "test", ids, "id").tolist() == [42, 7]
    with pytest.raises(data.DataError, match="'abc' ends in no number"):
        data._published_indices("x", "test", rows("id", b"abc"), "id")


def test_bad_split(prepared):
    with pytest.raises(data.DataError, match="no split 'valid'; it has train and test"):
        data.load("digits", "valid")
    with pytest.raises(data.DataError, match="no split 'valid'; it has .*train"):
        data.load("mnist", "valid", data_dir=prepared)


def handmade(images, labels):
    indices = np.arange(100, 100 + len(labels))
    return data.Dataset("handmade", images, np.array(labels, np.int32), indices, 10)


@pytest.mark.parametrize("value", [-0.01, 1.01, 255, np.nan, np.inf, -np.inf])
def test_check_names_the_first_image_out_of_range(value):
    images = np.zeros((4, 2, 2, 1), np.float32)
    images[2, 1, 0, 0] = images[3, 0, 0, 0] = value
    with pytest.raises(data.DataError, match=r"image 102 of handmade .* \[0, 1\]"):
        data.check(handmade(images, [0, 1, 2, 3]))


@pytest.mark.parametrize("label", [-1, 10])
def test_check_names_the_first_label_out_of_range(label):
    images = np.zeros((3, 2, 2, 1), np.uint8)
    with pytest.raises(data.DataError, match=f"label {label} of example 101 of handmade"):
        data.check(handmade(images, [0, label, label]))


def test_check_accepts_what_is_in_range():
    data.check(handmade(np.array([0, 1], np.float32).reshape(2, 1, 1, 1), [0, 9]))
    data.check(handmade(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1), [0, 9]))


# prepared sets


@pytest.mark.parametrize("split", SIZES)
@pytest.mark.parametrize("name", CONTENT)
def test_prepared_set_has_exact_pixels_in_published_order(name, split, prepared):
    images, labels = CONTENT[name][split]
    loaded = data.load(name, split, data_dir=prepared)
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
    source = data._array_record_builder(name, prepared).as_data_source("test")
    hasher = hashing.Hasher("test")
    order = sorted(range(SIZES["test"]), key=hasher.hash_key)
    assert order != sorted(order)
    assert [row["id"] for row in source] == [f"test_{i:05d}".encode() for i in order]


def test_only_the_first_examples_are_decoded(prepared, monkeypatch):
    decode, decoded = data._decode, []
    monkeypatch.setattr(data, "_decode", lambda *a: decoded.append(a) or decode(*a))
    loaded = data.load("cifar10", num_examples=3, data_dir=prepared)
    assert len(decoded) == 3
    np.testing.assert_array_equal(loaded.images, CONTENT["cifar10"]["test"][0][:3])
    np.testing.assert_array_equal(loaded.indices, [0, 1, 2])


def test_preparing_and_reading_never_import_tensorflow(archives, tmp_path, scratch):
    poison = tmp_path / "poison" / "tensorflow"
    poison.mkdir(parents=True)
    (poison / "__init__.py").write_text("raise AssertionError('it was imported')")
    script = """
import pickle, sys
from jaxpure import data, data_prepare

assert "tensorflow_datasets" not in sys.modules
data_prepare.ARCHIVES.update(pickle.load(sys.stdin.buffer))
for name in data_prepare.ARCHIVES:
    data.load(name, data_dir=sys.argv[1])
try:
    data.load("cifar11", data_dir=sys.argv[1])
except data.DataError:
    pass
assert "tensorflow" not in sys.modules
"""
    root = pathlib.Path(data.__file__).parents[1]
    paths = [str(poison.parent), str(root), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "data")],
        input=pickle.dumps(archives),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(scratch)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b""


def test_default_directory_is_that_of_tfds(tmp_path, monkeypatch):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "default"))
    data_prepare.prepare("mnist", None)
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
    archive = data_prepare.ARCHIVES["cifar10"]
    ((filename, got),) = archive.md5.items()
    replace(monkeypatch, "cifar10", md5={filename: "0" * 32})
    with pytest.raises(data.DataError) as error:
        data.load("cifar10", data_dir=str(tmp_path / "data"))
    for part in (archive.mirrors[0] + filename, f"is {got}", "expected " + "0" * 32):
        assert part in str(error.value)
    assert not files_in(scratch) and not (tmp_path / "data").exists()


def test_interruption_leaves_nothing_half_written(tmp_path, monkeypatch):
    png, encoded = data_prepare._png, []

    def interrupted(image):
        encoded.append(image)
        if len(encoded) == 20:
            raise KeyboardInterrupt
        return png(image)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(data_prepare, "_png", interrupted)
        data_prepare.prepare("mnist", str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert len(data.load("mnist", data_dir=str(tmp_path))) == SIZES["test"]


def test_another_process_may_be_faster(tmp_path, monkeypatch):
    data_prepare._store("mnist", CONTENT["mnist"], tmp_path)
    before = {path: path.read_bytes() for path in files_in(tmp_path)}
    data_prepare._store("mnist", CONTENT["mnist"], tmp_path)
    assert {path: path.read_bytes() for path in files_in(tmp_path)} == before
    replace(monkeypatch, "mnist", mirrors=())
    data_prepare.prepare("mnist", str(tmp_path))  # nothing is left to be done


def test_directory_that_is_in_the_way(tmp_path):
    target = tmp_path / "mnist" / "3.0.1"
    target.mkdir(parents=True)
    (target / "notes.txt").touch()
    with pytest.raises(data.DataError, match="mnist cannot be stored in .*3.0.1"):
        data.load("mnist", data_dir=str(tmp_path))
    assert files_in(tmp_path) == [target / "notes.txt"]


def test_remote_directory_cannot_be_prepared():
    with pytest.raises(data.DataError, match="only a local directory"):
        data_prepare.prepare("mnist", "gs://bucket/data")


# the real thing

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
