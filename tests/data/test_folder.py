"""Folders of images: their order, what is passed over, and what is wrong with them."""

import numpy as np
import pytest
from PIL import Image

from jaxpure import data


@pytest.fixture
def folder(tmp_path):
    """Three classes, images of several sizes, numbered through the classes."""
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


def save(path, mode="RGB"):
    path.parent.mkdir(exist_ok=True)
    Image.new(mode, (4, 4)).save(path)


def test_a_folder_is_read_in_the_order_of_file_names(folder):
    loaded = data.load("folder", path=folder, num_examples=3, image_size=28)
    assert loaded.images.shape == (3, 28, 28, 3) and loaded.images.dtype == np.uint8
    assert loaded.labels.tolist() == [1, 0, 1]
    assert loaded.indices.tolist() == [0, 1, 2]
    assert loaded.num_classes == 3


def test_its_spec_takes_the_path_first(folder):
    loaded = data.load(f"folder({folder},num_examples=1)")
    assert loaded.images.shape == (1, 30, 40, 3)
    assert loaded.name == f"folder({folder})"


def test_the_home_folder_is_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    source = data.Folder(f"~/{folder.name}", indices=(3,))
    assert source().labels.tolist() == [2]
    assert source.path == f"~/{folder.name}"  # the same on every machine


def test_only_what_is_asked_for_is_read(folder):
    (folder / "n01" / "val_0004.png").write_bytes(b"damaged")
    assert len(data.load(data.Folder(folder, num_examples=4, image_size=8))) == 4


def test_hidden_and_system_folders_and_files_are_passed_over(tmp_path):
    save(tmp_path / "cat" / "0.png")
    save(tmp_path / "dog" / "1.png")
    save(tmp_path / "cat" / "._0.png")
    for name in (".git", ".thumbnails", "@eaDir", "__MACOSX"):
        save(tmp_path / name / "2.png")
    loaded = data.load(data.Folder(tmp_path))
    assert loaded.labels.tolist() == [0, 1] and loaded.num_classes == 2


def test_a_class_without_images_keeps_its_number(tmp_path):
    (tmp_path / "ant").mkdir()
    save(tmp_path / "bee" / "0.png")
    loaded = data.load(data.Folder(tmp_path))
    assert loaded.labels.tolist() == [1] and loaded.num_classes == 2


def test_images_of_several_sizes_need_one(folder):
    with pytest.raises(data.DataError, match="differ in size .*; set image_size") as error:
        data.load(data.Folder(folder))
    for part in ("val_0000.png is (30, 40, 3)", "val_0001.png is (40, 30, 3)"):
        assert part in str(error.value)


def test_grey_among_colour_becomes_colour_where_a_size_is_set(tmp_path):
    save(tmp_path / "cat" / "0.png")
    save(tmp_path / "cat" / "1.png", "L")
    with pytest.raises(data.DataError, match="differ in size"):
        data.load(data.Folder(tmp_path))
    assert data.load(data.Folder(tmp_path, image_size=3)).image_shape == (3, 3, 3)


def test_an_unreadable_image_is_named(folder):
    path = folder / "n02" / "val_0002.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(data.DataError, match=f"{path} cannot be read as an image"):
        data.load(data.Folder(folder, image_size=8))


def test_a_link_to_nothing_is_named(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(data.DataError, match="0.png cannot be read as an image: .*No such"):
        data.load(data.Folder(tmp_path))


def test_a_folder_that_is_not_as_expected(tmp_path):
    def message(path):
        with pytest.raises(data.DataError) as error:
            data.load(data.Folder(path))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "holds no folders; expected a folder for each class" in message(tmp_path)
    Image.new("L", (2, 2)).save(tmp_path / "0.png")
    assert "0.png is not a folder" in message(tmp_path / "0.png")
    assert "holds no folders" in message(tmp_path)
    for name in ("cat", "dog", ".git"):
        (tmp_path / name).mkdir()
    assert "holds 2 folders without images; expected" in message(tmp_path)
    (tmp_path / "cat" / "folder.png").mkdir()
    assert "holds 2 folders without images" in message(tmp_path)
    assert "none is not there" in message(tmp_path / "none")
    with pytest.raises(data.DataError, match="path is empty"):
        data.Folder("")


@pytest.mark.parametrize("size", [0, -224])
def test_an_image_size_that_is_none(size, tmp_path):
    with pytest.raises(data.DataError, match=f"image_size={size}, expected at least 1"):
        data.Folder(tmp_path, image_size=size)
