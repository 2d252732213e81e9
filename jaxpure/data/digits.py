"""scikit-learn's copy of the UCI handwritten digits, which needs no download."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxpure.data.dataset import DataError, Dataset, check_choice, choose
from jaxpure.errors import unknown
from jaxpure.pytrees import set_derived

TEST_SIZE = 500  # the last 500 of the 1,797, whose writers the others do not share


@dataclass(frozen=True)
class Digits:
    """Handwritten digits, grey images of 8x8 pixels in ten classes.

    Attributes:
      split: "train", the first 1,297, or "test", the last 500; each counts from 0.
      num_examples: the first so many; None means all.
      indices: the examples of these indices instead, in this order.
    """

    split: Literal["train", "test"] = "test"
    num_examples: int | None = None
    indices: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.split not in ("train", "test"):
            raise DataError(unknown("split of digits", self.split, ("train", "test")))
        set_derived(self, indices=check_choice(self.num_examples, self.indices))

    def __call__(self) -> Dataset:
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
        part = {"train": slice(None, -TEST_SIZE), "test": slice(-TEST_SIZE, None)}[
            self.split
        ]
        images = (bunch.images[part] / 16).astype(np.float32)[..., None]
        labels = bunch.target[part].astype(np.int32)
        published = np.arange(len(labels))
        name = f"digits/{self.split}"
        chosen = choose(name, published, self.num_examples, self.indices)
        return Dataset("digits", images[chosen], labels[chosen], published[chosen], 10)
