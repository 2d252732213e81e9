"""Small random data sets, and archives of them in the official formats."""

import gzip
import io
import tarfile

import numpy as np

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


def files():
    """Content by file name of all archives."""
    return cifar10_files(CONTENT["cifar10"]) | mnist_files(CONTENT["mnist"])
