"""An example of every registered source, on which the properties of all are tested.

A case is given an empty folder to put files into and returns the source, with all its
examples (at least six). A new source needs one here.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from data.published import CONTENT
from PIL import Image

from jaxpure import data
from jaxpure.data import archives


def folder(root: Path) -> data.Source:
    """Two classes whose file names alternate."""
    random = np.random.default_rng(0)
    for i in range(7):
        of_class = root / ("cat", "dog")[i % 2]
        of_class.mkdir(exist_ok=True)
        pixels = random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(of_class / f"{i}.png")
    return data.Folder(root)


def tfds(root: Path) -> data.Source:
    archives._store("mnist", CONTENT["mnist"], root)
    return data.Tfds("mnist", data_dir=root)


CASES: dict[str, Callable[[Path], data.Source]] = {
    "digits": lambda root: data.Digits(),
    "folder": folder,
    "tfds": tfds,
}
