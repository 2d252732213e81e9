"""Image classification sets of TensorFlow Datasets, read without TensorFlow.

TFDS stores its rows shuffled: where rows carry an `id` (`test_00042`) or a file name, the
number in it tells the index; where they carry none but were stored by their number
(MNIST), TFDS's shuffle is undone; else the index is the row's place in TFDS's own fixed
order.
"""

import contextlib
import difflib
import functools
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpure.data import archives
from jaxpure.data.dataset import DataError, Dataset, check_choice, choose
from jaxpure.data.images import check_size, decode_all
from jaxpure.pytrees import set_derived

# Without `id`, but with the published number as the key that TFDS shuffles by.
NUMBERED = ("mnist", "fashion_mnist", "kmnist")

NAME = re.compile(r"(?P<set>[A-Za-z]\w*)(/[\w.-]+)?(:[\d.*]+)?")  # set/config:version


class UnknownSetError(DataError):
    """TFDS has no data set of that name."""


@dataclass(frozen=True)
class Tfds:
    """A set of TFDS that has images and labels; those of `archives` are prepared at need.

    Attributes:
      name: TFDS's, "cifar10" or with its config "cifar10_corrupted/fog_1".
      split: "train", "test", or another that the set has.
      num_examples: the first so many in published order; None means all.
      data_dir: TFDS's data_dir, `~` the user's home; None means `TFDS_DATA_DIR` or TFDS's
        own default.
      image_size: images are resized and cropped to it (see `images.decode`); None leaves
        them as they are.
      indices: the examples of these published indices instead, in this order.
    """

    name: str
    split: str = "test"
    num_examples: int | None = None
    data_dir: str | os.PathLike[str] | None = None
    image_size: int | None = None
    indices: tuple[int, ...] | None = None

    def __post_init__(self):
        check_size(self.image_size)
        indices = check_choice(self.num_examples, self.indices)
        data_dir = os.fspath(self.data_dir) if self.data_dir else None
        set_derived(self, data_dir=data_dir, indices=indices)

    def __call__(self) -> Dataset:
        import tensorflow_datasets as tfds

        data_dir = os.path.expanduser(self.data_dir) if self.data_dir else None
        builder = _prepared_builder(self.name, data_dir)
        info = builder.info
        if not {"image", "label"} <= set(info.features):
            raise DataError(
                f"{self.name} has features {sorted(info.features)}, expected an image "
                "classification set with 'image' and 'label'"
            )
        if self.split not in info.splits:
            raise DataError(
                f"{self.name} has no split {self.split!r}; it has {', '.join(info.splits)}"
            )
        name = f"{self.name}/{self.split}"
        skip = {"image": tfds.decode.SkipDecoding()}
        named = next((key for key in ("id", "file_name") if key in info.features), None)
        with _reading(name, builder.data_dir):
            source = builder.as_data_source(split=self.split, decoders=skip)
            published = _published_indices(info.name, self.split, source, named)
            chosen = choose(name, published, self.num_examples, self.indices)
            rows = [source[int(i)] for i in chosen]
        files = (
            (f"example {index} of {name}", io.BytesIO(row["image"]))
            for index, row in zip(published[chosen], rows, strict=True)
        )
        return Dataset(
            self.name,
            decode_all(name, files, self.image_size),
            np.array([row["label"] for row in rows], np.int32),
            published[chosen],
            info.features["label"].num_classes,
        )


def unknown_set(name: str, others: Iterable[str] = ()) -> UnknownSetError:
    """The error for an unknown name, with the known ones that are like it.

    Args:
      name: what was asked for.
      others: what is known beside TFDS's sets.
    """
    others = list(others)
    close = " or ".join(map(repr, _close_names(name, others)))
    hint = f" Did you mean {close}?" if close else ""
    known = "".join(f"{other}, " for other in others)
    return UnknownSetError(
        f"unknown data set {name!r}. Known: {known}and the image classification sets of "
        f"TFDS (cifar10, mnist, ...).{hint}"
    )


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
        # In ImageNet's training set they count within a class, and tell no index.
        if len(np.unique(found)) == len(found):
            return found - (named == "file_name")
    elif name in NUMBERED:
        from tensorflow_datasets.core import hashing

        # Rows lie sorted by this hash of their number.
        hasher = hashing.Hasher(split)
        return np.array(sorted(range(len(source)), key=hasher.hash_key), np.int64)
    return np.arange(len(source), dtype=np.int64)


@functools.cache
def _known_names() -> list[str]:
    import tensorflow_datasets as tfds

    # Community data sets would be looked up over the network.
    return tfds.list_builders(with_community_datasets=False)


def _close_names(name: str, others: Iterable[str] = ()) -> list[str]:
    """Up to three of `others` and the image classification sets that are like `name`."""
    import tensorflow_datasets as tfds

    def folded(text):
        return text.replace("_", "").lower()

    # The classes' names: to get the classes themselves would print a warning for each.
    classes = set(map(folded, dir(tfds.image_classification)))
    names = [known for known in _known_names() if folded(known) in classes]
    return difflib.get_close_matches(name.lower(), [*others, *names])


def _prepared_builder(name: str, data_dir: str | None) -> Any:
    """The builder of a set that lies prepared on disk, preparing it where we can."""
    import tensorflow_datasets as tfds

    parts = NAME.fullmatch(name)
    if not parts:
        raise unknown_set(name)
    try:
        return _array_record_builder(name, data_dir)
    except tfds.core.DatasetNotFoundError:
        pass
    if name in archives.ARCHIVES:
        archives.prepare(name, data_dir)
        return _array_record_builder(name, data_dir)
    if parts["set"] not in _known_names():
        raise unknown_set(name)
    raise DataError(
        f"{name} is not prepared in {data_dir or 'the TFDS data_dir'}. Set data_dir "
        "(or TFDS_DATA_DIR) to where it is, or prepare it once with TensorFlow: pip "
        f"install -e '.[tensorflow]' and tfds build {name} "
        "--file_format=array_record"
    )


def _array_record_builder(name: str, data_dir: str | None) -> Any:
    from tensorflow_datasets.core import read_only_builder

    # Only what lies on disk is read: a builder of the code would want TensorFlow.
    with _reading(name, data_dir or "the TFDS data_dir"):
        builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    stored = getattr(builder.info.file_format, "value", "an unknown format")
    if stored != "array_record":
        raise DataError(
            f"{name} is prepared as {stored} in {builder.data_dir}, which only TensorFlow "
            f"reads; prepare it again: tfds build {name} --file_format=array_record"
        )
    return builder


@contextlib.contextmanager
def _reading(name: str, where: str | os.PathLike[str]) -> Iterator[None]:
    """Says what was read when TFDS fails, which raises all kinds for damaged files."""
    import tensorflow_datasets as tfds

    try:
        yield
    except (DataError, tfds.core.DatasetNotFoundError):
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(
            f"{name} in {os.fspath(where)} cannot be read: {reason}. If its files are "
            "damaged, remove them and prepare the set again"
        ) from error
