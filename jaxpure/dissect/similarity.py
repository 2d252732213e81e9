"""Structural similarity of two images (Wang, Bovik, Sheikh and Simoncelli 2004).

IEEE Transactions on Image Processing 13(4), eq. 13: Gaussian window of 11 pixels with
standard deviation 1.5, K1 = 0.01, K2 = 0.03, over places where the window lies wholly
inside. On images smaller than the window it shrinks to the largest odd size that fits.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

WINDOW, DEVIATION = 11, 1.5
K1, K2 = 0.01, 0.03


def ssim(a: jax.Array, b: jax.Array, *, value_range: float = 1.0) -> jax.Array:
    """Mean structural similarity of two images `(H, W, C)`: `()`, at most 1.

    Local means, variances and the covariance are weighted by the window (weights that sum
    to 1, no correction for bias, as in the paper); channels count alike. Differentiable.

    Args:
      a: an image.
      b: another of the same shape.
      value_range: largest minus smallest possible value.

    Raises:
      ValueError: the shapes differ, or are not `(H, W, C)`.
    """
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"SSIM of {a.shape} and {b.shape}, expected one shape (H, W, C)")
    rows, columns = (jnp.asarray(_window(side), a.dtype) for side in a.shape[:2])

    def local(x: jax.Array) -> jax.Array:
        return _slide(_slide(x, rows, 0), columns, 1)

    mean_a, mean_b = local(a), local(b)
    var_a = local(a * a) - mean_a**2
    var_b = local(b * b) - mean_b**2
    covariance = local(a * b) - mean_a * mean_b
    c1, c2 = (K1 * value_range) ** 2, (K2 * value_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return jnp.mean(luminance * structure)


def _window(side: int) -> np.ndarray:
    """Gaussian weights that fit into so many pixels, an odd number, summing to 1."""
    size = min(WINDOW, side if side % 2 else side - 1)
    weights = [math.exp(-((i - size // 2) ** 2) / (2 * DEVIATION**2)) for i in range(size)]
    return np.array(weights) / sum(weights)


def _slide(x: jax.Array, weights: jax.Array, axis: int) -> jax.Array:
    """Weighted sums along an axis, where the window fits."""
    count = x.shape[axis] - len(weights) + 1
    windows = [
        jax.lax.slice_in_dim(x, i, i + count, axis=axis) * weight
        for i, weight in enumerate(weights)
    ]
    return functools.reduce(jnp.add, windows)
