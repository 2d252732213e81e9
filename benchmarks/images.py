"""The images that everything is measured on, for either framework."""

import numpy as np


def uniform(count: int, shape: tuple[int, int, int] = (32, 32, 3)) -> np.ndarray:
    """`(count, H, W, C)` uniform noise in [0, 1], float32."""
    return np.random.default_rng(0).uniform(size=(count, *shape)).astype(np.float32)


def channels_first(images: np.ndarray) -> np.ndarray:
    """`(..., H, W, C)` as PyTorch has it, `(..., C, H, W)`."""
    return np.ascontiguousarray(np.moveaxis(images, -1, -3))


def channels_last(images: np.ndarray) -> np.ndarray:
    """`(..., C, H, W)` as jaxpure has it, `(..., H, W, C)`."""
    return np.ascontiguousarray(np.moveaxis(images, -3, -1))
