"""A folder that holds a folder of image files for each class."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxpure.data.dataset import DataError, Dataset, check_choice, choose
from jaxpure.data.images import check_size, decode_all
from jaxpure.pytrees import set_derived

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")
NO_CLASSES = ("@eaDir", "__MACOSX", "lost+found")  # what systems leave in folders


@dataclass(frozen=True)
class Folder:
    """A folder with a folder of images for each class.

    Classes are in the order of their folders' names, images in the order of their file
    names whatever the class; an image's place in that order is its index. What is hidden
    (`.git`, `._0.png`) is passed over.

    Attributes:
      path: of the folder; `~` is the user's home.
      num_examples: the first so many; None means all.
      image_size: images are resized and cropped to it (see `images.decode`); None leaves
        them as they are.
      indices: the examples of these indices instead, in this order.
    """

    path: str | os.PathLike[str]
    num_examples: int | None = None
    image_size: int | None = None
    indices: tuple[int, ...] | None = None

    def __post_init__(self):
        if not os.fspath(self.path):
            raise DataError("path is empty, expected a folder with a folder for each class")
        check_size(self.image_size)
        indices = check_choice(self.num_examples, self.indices)
        set_derived(self, path=os.fspath(self.path), indices=indices)

    def __call__(self) -> Dataset:
        folder = Path(self.path).expanduser()
        name = f"folder({self.path})"
        try:
            classes, files = _scan(folder)
        except OSError as error:
            raise DataError(f"{folder} cannot be read: {error}") from error
        published = np.arange(len(files))
        chosen = choose(name, published, self.num_examples, self.indices)
        paths = [files[i][2] for i in chosen]
        images = decode_all(name, ((str(path), path) for path in paths), self.image_size)
        labels = np.array([files[i][1] for i in chosen], np.int32)
        return Dataset(name, images, labels, published[chosen], len(classes))


def _scan(folder: Path) -> tuple[list[Path], list[tuple[str, int, Path]]]:
    """Class folders, and `(file name, label, path)` of all images, both in order."""
    if not folder.is_dir():
        raise DataError(f"{folder} is {'not a folder' if folder.exists() else 'not there'}")
    classes = sorted(
        path for path in _visible(folder) if path.is_dir() and path.name not in NO_CLASSES
    )
    files = sorted(
        (path.name, label, path)
        for label, of_class in enumerate(classes)
        for path in _visible(of_class)
        if path.suffix.lower() in SUFFIXES and not path.is_dir()
    )
    if not files:
        found = f"{len(classes)} folders without images" if classes else "no folders"
        raise DataError(
            f"{folder} holds {found}; expected a folder for each class, with files that "
            f"end in {', '.join(SUFFIXES)}"
        )
    return classes, files


def _visible(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if not path.name.startswith("."))
