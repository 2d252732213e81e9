"""Convolutions of each channel alone."""

import jax
import jax.numpy as jnp

from jaxpure.keys import drawn


def depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x` `(..., H, W, C)`, each channel with its own of `kernel` `(k, k, C)`, k odd.

    The size stays, zeros around. As a sum of k * k products: XLA:CPU runs grouped
    convolutions as naive loops.
    """
    height, width = x.shape[-3:-1]
    size = kernel.shape[0]
    around = (size // 2, size // 2)
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [around, around, (0, 0)])
    lead = (1,) * (x.ndim - 1)
    terms = [
        padded[..., i : i + height, j : j + width, :] * kernel[i, j].reshape(*lead, -1)
        for i in range(size)
        for j in range(size)
    ]
    return sum(terms[1:], terms[0])


def depthwise_init(key: jax.Array, size: int, channels: int) -> jax.Array:
    """A kernel `(size, size, channels)`, uniform with variance `1 / (3 size size)`."""
    shape = (size, size, channels)
    return drawn(jax.random.uniform, key, shape, jnp.float32, -1 / size, 1 / size)
