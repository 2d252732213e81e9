"""A data set as arrays in memory, every example addressed by its published index."""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxpure.errors import UserError

MAX_INDEX = 2**31  # indices are folded into keys as int32


class DataError(UserError):
    """A data set is unknown, not prepared, or holds what it should not."""


@dataclass(frozen=True)
class Dataset:
    """Some examples of a published split.

    Attributes:
      name: what messages and reports call it.
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
        """`(H, W, C)`."""
        return self.images.shape[1:]

    def floats(self) -> np.ndarray:
        """All images as float32 in [0, 1], converted once; not to be written to."""
        return self._floats

    @cached_property
    def _floats(self) -> np.ndarray:
        if self.images.dtype == np.uint8:
            return self.images.astype(np.float32) / np.float32(255)
        return self.images


Source = Callable[[], Dataset]
"""Where examples come from: a frozen dataclass of options that loads when it is called."""


def from_arrays(
    images: Any,
    labels: Any,
    *,
    name: str = "arrays",
    num_classes: int | None = None,
    indices: Any = None,
) -> Dataset:
    """A data set of one's own arrays.

    Args:
      images: `(n, H, W, C)`, floats in [0, 1] or uint8 in [0, 255].
      labels: `(n,)` integers.
      name: what messages and reports call it.
      num_classes: None means the largest label and one; give it where the examples may
        lack the last classes.
      indices: `(n,)` distinct integers that name the examples and choose their noise;
        None means 0 to n - 1.

    Raises:
      DataError: something does not have that form (see `check`).
    """
    images, labels = np.asarray(images), np.asarray(labels)
    _check_images(name, images)
    _check_integers(name, "labels", labels, len(images))
    indices = np.arange(len(images)) if indices is None else np.asarray(indices)
    _check_integers(name, "indices", indices, len(images))
    if num_classes is None:
        num_classes = int(labels.max()) + 1
    if images.dtype != np.uint8:
        images = images.astype(np.float32)
    dataset = Dataset(name, images, labels, indices, num_classes)
    check(dataset)  # before labels and indices are narrowed
    return dataclasses.replace(
        dataset, labels=labels.astype(np.int32), indices=indices.astype(np.int64)
    )


def take(dataset: Dataset, positions: Any) -> Dataset:
    """The examples at these positions, which keep their indices.

    Args:
      dataset: to choose from.
      positions: a slice, integers, or a mask `(n,)`; places in the arrays, not indices.
    """
    return dataclasses.replace(
        dataset,
        images=dataset.images[positions],
        labels=dataset.labels[positions],
        indices=dataset.indices[positions],
    )


def check(dataset: Dataset) -> None:
    """Checks all that an evaluation relies on.

    Raises:
      DataError: no examples, arrays of the wrong rank, length or type, an index that is
        given twice or outside `[0, 2**31)`, a label outside `[0, num_classes)`, or an
        image outside [0, 1] or not finite; names the first example that is wrong.
    """
    name, images, labels = dataset.name, dataset.images, dataset.labels
    indices = dataset.indices
    _check_images(name, images)
    if images.dtype not in (np.uint8, np.float32):
        raise DataError(f"images of {name} are {images.dtype}, expected float32 or uint8")
    _check_integers(name, "labels", labels, len(images))
    _check_integers(name, "indices", indices, len(images))
    far = (indices < 0) | (indices >= MAX_INDEX)
    if far.any():
        raise DataError(f"index {indices[far][0]} of {name} is outside [0, 2**31)")
    found, counts = np.unique(indices, return_counts=True)
    if (counts > 1).any():
        raise DataError(
            f"index {found[counts > 1][0]} of {name} is given {counts[counts > 1][0]} "
            "times; every example needs an index of its own, which chooses its noise"
        )
    wrong = (labels < 0) | (labels >= dataset.num_classes)
    if wrong.any():
        raise DataError(
            f"label {labels[wrong][0]} of example {indices[wrong][0]} of {name} is outside "
            f"[0, {dataset.num_classes})"
        )
    if images.dtype != np.uint8:
        outside = ~((images >= 0) & (images <= 1)).all(axis=(1, 2, 3))  # NaN is outside
        if outside.any():
            raise DataError(
                f"image {indices[outside][0]} of {name} has values outside [0, 1] or not "
                "finite; scale images to [0, 1] first"
            )


def check_choice(
    num_examples: int | None, indices: Sequence[int] | None
) -> tuple[int, ...] | None:
    """Checks the two options by which every source chooses examples.

    Args:
      num_examples: the first so many; None means all.
      indices: published indices, in the order in which they are wanted.

    Returns:
      `indices` as a tuple, which makes sources equal and hashable.

    Raises:
      DataError: both are given, or one of them is nothing to choose by.
    """
    if num_examples is not None:
        if not _is_integer(num_examples) or num_examples < 1:
            raise DataError(f"{num_examples=}, expected a whole number of at least 1")
        if indices is not None:
            raise DataError(
                f"{num_examples=} and {len(indices)} indices: choose examples by one of "
                "num_examples and indices"
            )
    if indices is None:
        return None
    for index in indices:
        if not _is_integer(index) or not 0 <= index < MAX_INDEX:
            raise DataError(f"indices: {index!r}, expected whole numbers of 0 to 2**31 - 1")
    chosen = tuple(operator.index(index) for index in indices)
    if not chosen:
        raise DataError("indices is empty, expected at least one")
    if len(set(chosen)) < len(chosen):
        twice = next(index for i, index in enumerate(chosen) if index in chosen[:i])
        raise DataError(f"indices: {twice} is given twice")
    return chosen


def choose(
    name: str,
    published: np.ndarray,
    num_examples: int | None,
    indices: Sequence[int] | None,
) -> np.ndarray:
    """Which rows to load, in the order in which they are to come.

    Args:
      name: of the data set, for messages.
      published: `(rows,)` the published index of each row.
      num_examples: the first so many by published index; None means all.
      indices: published indices, instead.

    Raises:
      DataError: there are fewer examples, or there is none of such an index.
    """
    if indices is None:
        if num_examples is not None and len(published) < num_examples:
            raise DataError(
                f"{name} has {len(published)} examples, {num_examples} were asked for"
            )
        return np.argsort(published, kind="stable")[:num_examples]
    row_of = {index: row for row, index in enumerate(published.tolist())}
    for index in indices:
        if index not in row_of:
            raise DataError(
                f"{name} has no example {index}; its {len(published)} indices are "
                f"{published.min()} to {published.max()}"
            )
    return np.array([row_of[index] for index in indices], np.int64)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_images(name: str, images: np.ndarray) -> None:
    """Checks what can be told of images before their values are looked at."""
    shape = images.shape
    if images.ndim != 4:
        raise DataError(
            f"images of {name} have shape {shape}, expected (n, height, width, channels); "
            "grey ones too: images[..., None]"
        )
    if not len(images):
        raise DataError(f"{name} has no examples")
    if not images.size:
        raise DataError(f"images of {name} have shape {shape}, which holds no pixels")
    if shape[1] in (1, 3) and shape[3] not in (1, 3) and shape[2] == shape[3]:
        raise DataError(
            f"images of {name} have shape {shape}, expected (n, height, width, channels): "
            "images.transpose(0, 2, 3, 1)"
        )
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise DataError(
            f"images of {name} are {images.dtype}, expected float32 in [0, 1] or uint8 in "
            "[0, 255]"
        )


def _check_integers(name: str, what: str, values: np.ndarray, length: int) -> None:
    if values.shape != (length,):
        raise DataError(
            f"{what} of {name} have shape {values.shape}, expected ({length},), one for "
            "each image"
        )
    if values.dtype.kind not in "iu":
        raise DataError(f"{what} of {name} are {values.dtype}, expected integers")
