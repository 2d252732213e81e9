"""Convolutions of each channel alone."""

import math
import operator
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp

from jaxpure.keys import drawn
from jaxpure.models.bilinear import bilinear, summed_in_parts


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after for an output of `ceil(size / stride)`: TensorFlow's "SAME".

    Where they are odd in number, the one more is after.
    """
    wanted = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return wanted // 2, wanted - wanted // 2


def depthwise(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """`x` `(..., H, W, C)`, each channel with its own of `kernel` `(k, k, C)`, k odd.

    The size is divided by `stride` and rounded up, zeros around (`same_padding`). As a sum
    of k * k products: XLA:CPU runs grouped convolutions as naive loops.
    """
    y = _depthwise(x.reshape(-1, *x.shape[-3:]), kernel, stride=stride)
    return y.reshape(*x.shape[:-3], *y.shape[1:])


def _taps(x: jax.Array, size: int, stride: int) -> list[jax.Array]:
    """What each place of a kernel meets, row by row: k * k of `(..., H', W', C)`."""
    rows, columns = (-(-n // stride) for n in x.shape[-3:-1])
    around = [same_padding(n, size, stride) for n in x.shape[-3:-1]]
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [*around, (0, 0)])
    return [
        padded[..., i : i + rows * stride : stride, j : j + columns * stride : stride, :]
        for i in range(size)
        for j in range(size)
    ]


def _plain(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    each = kernel.reshape(-1, *(1,) * (x.ndim - 1), kernel.shape[-1])
    terms = [tap * k for tap, k in zip(_taps(x, len(kernel), stride), each, strict=True)]
    return reduce(operator.add, terms)


def _to_image(g: jax.Array, x: Any, kernel: jax.Array, *, stride: int) -> jax.Array:
    if stride == 1:
        found = _depthwise(g, jnp.flip(kernel, (0, 1)), stride=1)
    else:
        along = partial(_plain, kernel=kernel, stride=stride)
        found = jax.linear_transpose(along, x.aval)(g)[0]
    # Where a matrix made `x`, its gradient is a product with this transposed, and XLA:CPU
    # would compute all of it again in that order, which takes longer than the product.
    return jax.lax.optimization_barrier(found)


def _to_kernel(g: jax.Array, x: jax.Array, kernel: Any, *, stride: int) -> jax.Array:
    shape = kernel.aval.shape

    def sums(g, x):
        """Over all but the first axis and the last."""
        axes = tuple(range(1, x.ndim - 1))
        taps = _taps(x, shape[0], stride)
        return jnp.stack([jnp.sum(tap * g, axes) for tap in taps], 1)

    def on_cpu(g, x):
        # XLA:CPU writes out each product before it sums it.
        return summed_in_parts(sums, g, x, math.prod(shape[:2]) * math.prod(x.shape[1:]))

    def others(g, x):
        # Else the taps of the forward pass would be kept for here, k * k times the image.
        return sums(g[None], jax.lax.optimization_barrier(x)[None])[0]

    return jax.lax.platform_dependent(g, x, cpu=on_cpu, default=others).reshape(shape)


_depthwise = bilinear("depthwise", _plain, _to_image, _to_kernel, ("stride",))


def depthwise_init(key: jax.Array, size: int, channels: int) -> jax.Array:
    """A kernel `(size, size, channels)`, uniform with variance `1 / (3 size size)`."""
    shape = (size, size, channels)
    return drawn(jax.random.uniform, key, shape, jnp.float32, -1 / size, 1 / size)
