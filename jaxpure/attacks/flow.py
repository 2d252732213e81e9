"""Flows: a ball of images whose pixels are fetched from a little way off.

No pixel is given a new value; each is taken from where a flow points, by bilinear
interpolation (Xiao et al. 2018, arXiv:1801.02612, eq. 1). The ball bounds the flow, as
Laidlaw, Singla and Feizi 2021 and Nie et al. 2022 (Table 4) do.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure.errors import check_range
from jaxpure.keys import Key, drawn
from jaxpure.pytrees import pytree
from jaxpure.types import Image


@pytree
class Flow:
    """No component of the flow is longer than `eps`, in units of half the image's side.

    0.05 in the papers, which at 32 pixels is 0.8 of a pixel.
    """

    eps: float = 0.05

    name: ClassVar[str] = "flow"

    def __post_init__(self):
        check_range(0, 2, eps=self.eps)

    def start(self, key: Key, x: Image) -> jax.Array:
        """A random flow `(H, W, 2)`, rows and columns, in pixels."""
        flow = drawn(jax.random.uniform, key, (*x.shape[:2], 2), x.dtype, -1, 1)
        return flow * self.bound(x)

    def bound(self, x: Image) -> jax.Array:
        """The longest components in pixels: `(1, 1, 2)`."""
        sides = jnp.asarray(x.shape[:2])[None, None]
        return (self.eps * sides / 2).astype(x.dtype)

    def ascend(self, flow: jax.Array, x: Image, gradient: jax.Array, step_size: Any):
        """A signed step in the flow and back into the ball; `step_size` in bounds."""
        bound = self.bound(x)
        return jnp.clip(flow + step_size * bound * jnp.sign(gradient), -bound, bound)

    def excess(self, images: np.ndarray, originals: np.ndarray) -> np.ndarray:
        """How far images are, at least, from any that a flow of the ball can make.

        A channel of a pixel can take every value between the least and the largest that
        the interpolation reaches within the bound, and no other: the interpolation is
        bilinear between pixels, so these are met at whole pixels and at the bound's
        corners. Each channel is looked at by itself: with one it is the distance, with
        more a lower bound.
        """
        reach = [_offsets(float(self.eps) * s / 2) for s in originals.shape[1:3]]
        low, high = np.full(originals.shape, np.inf), np.full(originals.shape, -np.inf)
        for down in reach[0]:
            for right in reach[1]:
                rows = _fetch(originals.astype(np.float64), down, 1)
                fetched = _fetch(rows, right, 2)
                low, high = np.minimum(low, fetched), np.maximum(high, fetched)
        outside = np.maximum(low - images, images - high)
        return np.maximum(outside.reshape(len(images), -1).max(1), 0)

    def largest(self, shape: tuple[int, ...]) -> float:
        del shape
        return 2.0

    def __str__(self) -> str:
        return f"flow {self.eps:.4g}"


def warp(x: Image, flow: jax.Array) -> Image:
    """The image whose pixels are fetched from where the flow points (eq. 1).

    Bilinear between the four pixels around; beyond the edge, the edge's own pixels.

    Args:
      x: `(H, W, C)`.
      flow: `(H, W, 2)` rows and columns, in pixels.
    """
    height, width = x.shape[:2]
    flow = jnp.asarray(flow, x.dtype)
    here = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    limit = jnp.asarray([height - 1, width - 1])[None, None]
    # The way between two pixels is the flow's own: as part of a place among hundreds of
    # pixels it would be rounded.
    whole = jnp.floor(flow)
    low = jnp.stack(here, -1) + whole.astype(jnp.int32)
    low, high = jnp.clip(low, 0, limit), jnp.clip(low + 1, 0, limit)
    down, right = jnp.split(flow - whole, 2, -1)

    def row(i):
        return (1 - right) * x[i, low[..., 1]] + right * x[i, high[..., 1]]

    return (1 - down) * row(low[..., 0]) + down * row(high[..., 0])


def roughness(flow: jax.Array) -> jax.Array:
    """Distances of each pixel's flow from its four neighbours', summed (eq. 4)."""
    total = jnp.zeros((), flow.dtype)
    for axis in (0, 1):
        squared = jnp.sum(jnp.square(jnp.diff(flow, axis=axis)), -1)
        total += 2 * jnp.sum(jnp.sqrt(squared + 1e-10))  # each pair is met from both ends
    return total


def _offsets(bound: float) -> np.ndarray:
    whole = np.arange(-np.floor(bound), np.floor(bound) + 1)
    return np.unique(np.concatenate([[-bound], whole, [bound]]))


def _fetch(images: np.ndarray, offset: float, axis: int) -> np.ndarray:
    """Images moved along an axis by linear interpolation, edges repeated."""
    side = images.shape[axis]
    place = np.clip(np.arange(side) + offset, 0, side - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, side - 1)
    shape = [1] * images.ndim
    shape[axis] = side
    rest = (place - low).reshape(shape)
    return (1 - rest) * np.take(images, low, axis) + rest * np.take(images, high, axis)
