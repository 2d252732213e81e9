"""Convolutions of each channel alone."""

import jax
import jax.numpy as jnp

from jaxpure.keys import drawn


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
    size = kernel.shape[0]
    rows, columns = (-(-n // stride) for n in x.shape[-3:-1])
    around = [same_padding(n, size, stride) for n in x.shape[-3:-1]]
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [*around, (0, 0)])
    lead = (1,) * (x.ndim - 1)
    terms = [
        padded[..., i : i + rows * stride : stride, j : j + columns * stride : stride, :]
        * kernel[i, j].reshape(*lead, -1)
        for i in range(size)
        for j in range(size)
    ]
    return sum(terms[1:], terms[0])


def depthwise_init(key: jax.Array, size: int, channels: int) -> jax.Array:
    """A kernel `(size, size, channels)`, uniform with variance `1 / (3 size size)`."""
    shape = (size, size, channels)
    return drawn(jax.random.uniform, key, shape, jnp.float32, -1 / size, 1 / size)
