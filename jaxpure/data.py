"""Data sets as arrays in memory, every example addressed by its published index.

`digits` is scikit-learn's copy of the UCI handwritten digits and needs no download.
Any other name is a TFDS image classification set, read through `tfds.data_source`
without TensorFlow. TFDS stores its rows shuffled: where rows carry an `id`
(`test_00042`) or a file name, the number in it tells the index; where they carry none
but were stored by their number (MNIST), TFDS's shuffle is undone; else the index is the
row's place in TFDS's own fixed order. `folder:PATH` is a folder of images for each class.
"""

import difflib
import functools
import io
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Without `id`, but with the published number as the key that TFDS shuffles by.
NUMBERED = ("mnist", "fashion_mnist", "kmnist")

FOLDER = "folder:"
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")
DIGITS_TEST = 500  # the last 500 of the 1,797, whose writers the others do not share


class DataError(ValueError):
    """A data set is unknown, not prepared, or holds what it should not."""


@dataclass(frozen=True)
class Dataset:
    """Some examples of a published split.

    Attributes:
      name: as it was asked for.
      images: `(n, H, W, C)` float32 in [0, 1], or uint8 in [0, 255] (see `floats`).
      labels: `(n,)` int32 in `[0, num_classes)`.
      indices: `(n,)` int64, each example's index in the published split.
      num_classes: number of classes.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    num_classes: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.images.shape[1:]

    def floats(self) -> np.ndarray:
        """All images as float32 in [0, 1]."""
        if self.images.dtype == np.uint8:
            return self.images.astype(np.float32) / np.float32(255)
        return self.images


def load(
    name: str,
    split: str = "test",
    *,
    num_examples: int | None = None,
    data_dir: str | None = None,
    image_size: int | None = None,
) -> Dataset:
    """Loads the first `num_examples` of a split, or all of it, in published order.

    Args:
      name: "digits", the name of a TFDS image classification set, or "folder:PATH": a
        folder with a folder of images for each class, in the order of their names;
        images in the order of their file names whatever the class.
      split: "train" or "test", or another that the set has; a folder has none.
      num_examples: how many; None means all.
      data_dir: TFDS's data_dir; None means `TFDS_DATA_DIR` or TFDS's own default.
      image_size: resizes each image (bilinear, antialiased) so that its shorter side is
        8/7 of this, and crops the middle: 256 and 224, as evaluations on ImageNet do.
        None leaves images as they are.

    Raises:
      DataError: unknown name, set not prepared, or too few examples.
    """
    if num_examples is not None and num_examples < 1:
        raise DataError(f"{num_examples=}, expected at least 1")
    data_dir = os.path.expanduser(data_dir) if data_dir else None
    if name == "digits":
        dataset = _load_digits(name, split, num_examples)
        if image_size not in (None, dataset.image_shape[0]):
            raise DataError(f"{image_size=}: digits have {dataset.image_shape[0]} pixels")
    elif name.startswith(FOLDER):
        dataset = _load_folder(name, num_examples, image_size)
    else:
        dataset = _load_tfds(name, split, num_examples, data_dir, image_size)
    if num_examples is not None and len(dataset) < num_examples:
        raise DataError(
            f"{name}/{split} has {len(dataset)} examples, {num_examples} were asked for"
        )
    check(dataset)
    return dataset


def check(dataset: Dataset) -> None:
    """Raises DataError naming the first example that is out of range or not finite."""
    images = dataset.images
    if images.dtype != np.uint8:
        outside = ~((images >= 0) & (images <= 1)).all(axis=(1, 2, 3))  # NaN is outside
        if outside.any():
            raise DataError(
                f"image {dataset.indices[outside][0]} of {dataset.name} has values "
                "outside [0, 1] or not finite; scale images to [0, 1] first"
            )
    wrong = (dataset.labels < 0) | (dataset.labels >= dataset.num_classes)
    if wrong.any():
        raise DataError(
            f"label {dataset.labels[wrong][0]} of example {dataset.indices[wrong][0]} "
            f"of {dataset.name} is outside [0, {dataset.num_classes})"
        )


def _load_digits(name, split, num_examples) -> Dataset:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = (bunch.images / 16).astype(np.float32)[..., None]
    first_test = len(images) - DIGITS_TEST
    chosen = {"train": slice(0, first_test), "test": slice(first_test, None)}
    if split not in chosen:
        raise DataError(f"digits has no split {split!r}; it has train and test")
    images, labels = images[chosen[split]], bunch.target[chosen[split]]
    n = len(images) if num_examples is None else num_examples
    indices = np.arange(len(images), dtype=np.int64)
    return Dataset(name, images[:n], labels[:n].astype(np.int32), indices[:n], 10)


def _load_tfds(name, split, num_examples, data_dir, image_size) -> Dataset:
    import tensorflow_datasets as tfds

    builder = _prepared_builder(name, data_dir)
    features = builder.info.features
    if not {"image", "label"} <= set(features):
        raise DataError(
            f"{name} has features {sorted(features)}, expected an image classification "
            "set with 'image' and 'label'"
        )
    if split not in builder.info.splits:
        raise DataError(
            f"{name} has no split {split!r}; it has {', '.join(builder.info.splits)}"
        )
    skip = {"image": tfds.decode.SkipDecoding()}
    source = builder.as_data_source(split=split, decoders=skip)
    named = next((key for key in ("id", "file_name") if key in features), None)
    published = _published_indices(name, split, source, named)
    chosen = np.argsort(published)[:num_examples]
    rows = [source[int(i)] for i in chosen]
    return Dataset(
        name,
        _decode_all(name, (io.BytesIO(row["image"]) for row in rows), image_size),
        np.array([row["label"] for row in rows], np.int32),
        published[chosen],
        features["label"].num_classes,
    )


def _load_folder(name, num_examples, image_size) -> Dataset:
    folder = Path(name.removeprefix(FOLDER)).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    classes = sorted(p for p in folder.iterdir() if p.is_dir())
    files = [
        (path.name, label, path)
        for label, of_class in enumerate(classes)
        for path in of_class.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not files:
        raise DataError(
            f"{folder} holds no images: a folder for each class is expected, with files "
            f"that end in {', '.join(IMAGE_SUFFIXES)}"
        )
    chosen = sorted(files)[:num_examples]
    images = _decode_all(name, (path for _, _, path in chosen), image_size)
    labels = np.array([label for _, label, _ in chosen], np.int32)
    return Dataset(name, images, labels, np.arange(len(chosen)), len(classes))


def _published_indices(name: str, split: str, source: Any, named: str | None) -> np.ndarray:
    """The published index of every row, in the order in which TFDS stores them.

    `named` is the feature whose number is the index: an id counts from 0, a file name
    (`ILSVRC2012_val_00000001.JPEG`) from 1.
    """
    if named:
        texts = [row[named].decode() for row in source]
        numbers = [re.findall(r"\d+", text.rsplit("_", 1)[-1]) for text in texts]
        if not all(numbers):
            text = next(t for t, n in zip(texts, numbers, strict=True) if not n)
            raise DataError(f"{name}: {named} {text!r} ends in no number to order rows by")
        found = np.array([int(n[0]) for n in numbers], np.int64)
        return found - (named == "file_name")
    if name in NUMBERED:
        from tensorflow_datasets.core import hashing

        # Rows lie sorted by this hash of their number.
        hasher = hashing.Hasher(split)
        return np.array(sorted(range(len(source)), key=hasher.hash_key), np.int64)
    return np.arange(len(source), dtype=np.int64)


def _decode_all(name: str, files: Iterable[Any], image_size: int | None) -> np.ndarray:
    """Images `(n, H, W, C)` uint8 of encoded files."""
    images = [_decode(file, image_size) for file in files]
    if len({image.shape for image in images}) > 1:
        raise DataError(
            f"images of {name} differ in size ({images[0].shape}, ...); set image_size to "
            "bring them to one"
        )
    return np.stack(images)


def _decode(file: Any, image_size: int | None) -> np.ndarray:
    from PIL import Image

    with Image.open(file) as image:
        if image_size is not None:
            image = _resize_and_crop(image.convert("RGB"), image_size)
        pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _resize_and_crop(image: Any, size: int) -> Any:
    shorter = round(size * 8 / 7)
    width, height = image.size
    scale = shorter / min(width, height)
    # The longer side is cut to whole pixels, as torchvision does.
    width, height = max(int(width * scale), shorter), max(int(height * scale), shorter)
    image = image.resize((width, height), resample=2)  # bilinear
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


@functools.lru_cache
def _known_names() -> list[str]:
    import tensorflow_datasets as tfds

    # Community data sets would be looked up over the network.
    return ["digits", *tfds.list_builders(with_community_datasets=False)]


def _close_names(name: str) -> list[str]:
    """Up to three image classification sets whose names are like `name`."""
    import tensorflow_datasets as tfds

    def folded(text):
        return text.replace("_", "").lower()

    # The classes' names: to get the classes themselves would print a warning for each.
    classes = {"digits", *map(folded, dir(tfds.image_classification))}
    names = [known for known in _known_names() if folded(known) in classes]
    return difflib.get_close_matches(name.lower(), names)


def _prepared_builder(name: str, data_dir: str | None) -> Any:
    """The builder of a set that lies prepared on disk, preparing it where we can."""
    import tensorflow_datasets as tfds

    try:
        return _array_record_builder(name, data_dir)
    except tfds.core.DatasetNotFoundError:
        pass
    from jaxpure import data_prepare

    if name in data_prepare.ARCHIVES:
        data_prepare.prepare(name, data_dir)
        return _array_record_builder(name, data_dir)
    if name not in _known_names():
        close = " or ".join(map(repr, _close_names(name)))
        hint = f" Did you mean {close}?" if close else ""
        raise DataError(
            f"unknown data set {name!r}. Known: digits, and the image classification "
            f"sets of TFDS (cifar10, mnist, ...).{hint}"
        )
    raise DataError(
        f"{name} is not prepared in {data_dir or 'the TFDS data_dir'}. Set data_dir "
        "(or TFDS_DATA_DIR) to where it is, or prepare it once with TensorFlow: pip "
        f"install 'jaxpure[tensorflow]' and tfds build {name} "
        "--file_format=array_record"
    )


def _array_record_builder(name: str, data_dir: str | None) -> Any:
    from tensorflow_datasets.core import read_only_builder

    # Only what lies on disk is read: a builder of the code would want TensorFlow.
    builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    stored = getattr(builder.info.file_format, "value", "an unknown format")
    if stored != "array_record":
        raise DataError(
            f"{name} is prepared as {stored} in {builder.data_dir}, which only TensorFlow "
            f"reads; prepare it again: tfds build {name} --file_format=array_record"
        )
    return builder
