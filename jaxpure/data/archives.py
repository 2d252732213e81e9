"""CIFAR-10 and MNIST as TFDS array_record directories, without TensorFlow.

TFDS's own builders of these sets need TensorFlow to open and to encode the images.
The builder here hands TFDS images that are PNG already; name, version and order of the
rows are those of TFDS. Every row has an `id` (`test_00042`), which TFDS's MNIST lacks.
"""

import contextlib
import gzip
import hashlib
import http.client
import io
import os
import pathlib
import shutil
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxpure.data.dataset import DataError

Splits = dict[str, tuple[np.ndarray, np.ndarray]]
"""Images `(n, H, W, C)` uint8 and labels `(n,)` of each split, in published order."""


@dataclass(frozen=True)
class Archive:
    """Where a data set is published and how it is read.

    Attributes:
      version: of the data set in TFDS.
      mirrors: base URLs that hold the same files, tried in this order.
      md5: of each file, by its name.
      read: `(paths by file name) -> Splits`.
      image_shape: `(H, W, C)`.
      classes: names, in the order of the labels.
      homepage: of the data set.
    """

    version: str
    mirrors: tuple[str, ...]
    md5: dict[str, str]
    read: Callable[[dict[str, pathlib.Path]], Splits]
    image_shape: tuple[int, int, int]
    classes: list[str]
    homepage: str


def prepare(name: str, data_dir: str | None) -> None:
    """Downloads a data set and stores it where TFDS looks for it.

    A file that lies in `data_dir/downloads/manual` is not downloaded. Any number of
    processes may do this at once: the data set appears whole or not at all.

    Args:
      name: in `ARCHIVES`.
      data_dir: a local directory; None means `TFDS_DATA_DIR` or TFDS's own default.

    Raises:
      DataError: the data set cannot be downloaded, differs from what was published, or
        cannot be stored.
    """
    from tensorflow_datasets.core import constants

    archive = ARCHIVES[name]
    data_dir = os.fspath(data_dir or constants.DATA_DIR)
    if "://" in data_dir:
        raise DataError(
            f"{name} is not prepared in {data_dir}, and only a local directory can be "
            "prepared: set data_dir (or TFDS_DATA_DIR) to one"
        )
    root = pathlib.Path(data_dir)
    if _is_prepared(root / name / archive.version):
        return
    with tempfile.TemporaryDirectory(prefix="jaxpure-") as folder:
        paths = {f: _fetch(name, f, root, pathlib.Path(folder)) for f in archive.md5}
        splits = archive.read(paths)
    try:
        _store(name, splits, root)
    except OSError as error:
        raise DataError(f"{name} cannot be stored in {root}: {error}") from error


def _is_prepared(directory: pathlib.Path) -> bool:
    return (directory / "features.json").exists()


def _fetch(
    name: str, filename: str, root: pathlib.Path, folder: pathlib.Path
) -> pathlib.Path:
    """The path of a published file, its checksum verified; downloads go to `folder`."""
    archive = ARCHIVES[name]
    manual = root / "downloads" / "manual" / filename
    if manual.exists():
        _verify(manual, str(manual), archive.md5[filename])
        return manual
    failures = []
    for mirror in archive.mirrors:
        url, path = mirror + filename, folder / filename
        try:
            _download(url, path)
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{url}: {error}")
            continue
        _verify(path, url, archive.md5[filename])
        return path
    raise DataError(
        f"{name} is not prepared in {root} and cannot be downloaded "
        f"({'; '.join(failures)}). Set data_dir (or TFDS_DATA_DIR) to where it is "
        f"prepared; or fetch {', '.join(archive.mirrors[0] + f for f in archive.md5)} "
        f"by hand into {manual.parent} and try again."
    )


def _download(url: str, path: pathlib.Path) -> None:
    with urllib.request.urlopen(url, timeout=60) as response, path.open("wb") as file:
        size = int(response.headers.get("Content-Length", 0)) or None
        bar = tqdm.wrapattr(response, "read", total=size, desc=f"Downloading {path.name}")
        with bar as content:
            shutil.copyfileobj(content, file)


def _verify(path: pathlib.Path, origin: str, expected: str) -> None:
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "md5").hexdigest()
    if got != expected:
        raise DataError(
            f"{origin} is damaged or not what was published, and was not used: its md5 "
            f"is {got}, expected {expected}"
        )


def _store(name: str, splits: Splits, root: pathlib.Path) -> None:
    """Writes the data set beside its place, then moves it there in one step.

    Not left to TFDS, whose unfinished directory has a name drawn from `random`: two
    processes with the same seed would write into the same one.
    """
    target = root / name / ARCHIVES[name].version
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".jaxpure-", dir=root) as unfinished:
        builder = _builder(name, splits, unfinished)
        with contextlib.redirect_stdout(io.StringIO()):  # it would name `unfinished`
            builder.download_and_prepare(file_format="array_record")
        target.parent.mkdir(exist_ok=True)
        try:
            os.rename(builder.data_dir, target)
        except OSError:
            if not _is_prepared(target):  # else another process was faster
                raise


def _builder(name: str, splits: Splits, data_dir: str) -> Any:
    import tensorflow_datasets as tfds

    archive = ARCHIVES[name]

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(archive.version)

        def _info(self):
            features = {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=archive.image_shape),
                "label": tfds.features.ClassLabel(names=archive.classes),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                homepage=archive.homepage,
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            return _rows(split, *splits[split])

    Builder.name = name
    return Builder(data_dir=data_dir)


def _rows(split: str, images: np.ndarray, labels: np.ndarray) -> Iterator[Any]:
    # TFDS shuffles by the key, so the same keys as TFDS's own give the same order.
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        row = {"id": f"{split}_{index:05d}", "image": _png(image), "label": int(label)}
        yield index, row


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def _read_cifar10(paths: dict[str, pathlib.Path]) -> Splits:
    """Reads the binary version: rows of a label and 3 x 32 x 32 bytes of pixels."""
    (path,) = paths.values()
    batches = {
        "train": [f"data_batch_{i}.bin" for i in range(1, 6)],
        "test": ["test_batch.bin"],
    }
    content = {}
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None and member.name.endswith(".bin"):
                content[os.path.basename(member.name)] = file.read()
    splits = {}
    for split, files in batches.items():
        rows = np.frombuffer(b"".join(content[f] for f in files), np.uint8)
        rows = rows.reshape(-1, 1 + 3 * 32 * 32)
        images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        splits[split] = images, rows[:, 0]
    return splits


def _read_mnist(paths: dict[str, pathlib.Path]) -> Splits:
    return {
        split: (
            _read_idx(paths[f"{prefix}-images-idx3-ubyte.gz"])[..., None],
            _read_idx(paths[f"{prefix}-labels-idx1-ubyte.gz"]),
        )
        for split, prefix in (("train", "train"), ("test", "t10k"))
    }


def _read_idx(path: pathlib.Path) -> np.ndarray:
    """Reads bytes in idx: two zeros, type, rank, big-endian int32 sizes, then data."""
    with gzip.open(path) as file:
        content = file.read()
    rank = content[3]
    header = 4 + 4 * rank
    shape = np.frombuffer(content[4:header], ">i4")
    return np.frombuffer(content[header:], np.uint8).reshape(shape)


ARCHIVES = {
    "cifar10": Archive(
        version="3.0.2",
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        md5={"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        read=_read_cifar10,
        image_shape=(32, 32, 3),
        classes=[
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ],
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "mnist": Archive(
        version="3.0.1",
        mirrors=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        md5={
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        read=_read_mnist,
        image_shape=(28, 28, 1),
        classes=[str(digit) for digit in range(10)],
        homepage="http://yann.lecun.com/exdb/mnist/",
    ),
}
"""What can be prepared, by TFDS's names."""
