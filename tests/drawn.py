"""What the fixtures of tests/golden leave out, drawn again: weights and noise by name.

The reference networks were run with weights that numpy alone can draw from their names,
so no weights are stored. Noise was stored as arrays; here it is handed to the library
under the keys by which the library asks for it.
"""

import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure.pytrees import pytree


def rng(tag: str, seed: int = 1) -> np.random.Generator:
    """The generator of everything drawn under this name."""
    return np.random.default_rng([seed, zlib.crc32(tag.encode())])


def uniform(tag: str, low: float, high: float, shape: Sequence[int]) -> np.ndarray:
    return rng(tag).uniform(low, high, shape).astype(np.float32)


def normal(tag: str, shape: Sequence[int]) -> np.ndarray:
    return rng(tag).standard_normal(shape).astype(np.float32)


def fill(name: str, shape: Sequence[int], seed: int = 1) -> np.ndarray:
    """A tensor by its name in the reference, float32, in torch's layout."""
    last = name.rsplit(".", 1)[-1]
    z = rng(name, seed).standard_normal(shape).astype(np.float32)
    tenth, one = np.float32(0.1), np.float32(1)
    if len(shape) >= 2:
        is_in_out = "NIN" in name and last == "W"
        fan_in = shape[0] if is_in_out else math.prod(shape[1:])
        return z / np.float32(math.sqrt(fan_in))
    if last == "running_var":
        return one + tenth * np.abs(z)
    if last == "weight":
        return one + tenth * z
    return tenth * z  # biases and running means


def sha256(tensors: Mapping[str, np.ndarray]) -> str:
    """Digest of all tensors in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def nhwc(array: np.ndarray) -> np.ndarray:
    """Images `(..., C, H, W)` as the library wants them."""
    return np.moveaxis(array, -3, -1)


@pytree(eq=False)
class NoiseTable:
    """Stored noise by key, in place of a generator; NaN for a key it does not know.

    Attributes:
      keys: `(n, words)` uint32, the data of the keys.
      noise: `(n, ...)`, what each draws.
    """

    keys: Any
    noise: Any

    @classmethod
    def create(cls, keys: jax.Array, noise: np.ndarray, dtype: Any) -> "NoiseTable":
        """The table of typed keys `(...)` and their noise `(..., *shape)`."""
        data = jax.random.key_data(keys)
        shape = noise.shape[keys.ndim :]
        assert noise.shape[: keys.ndim] == keys.shape
        return cls(
            data.reshape(-1, data.shape[-1]),
            jnp.asarray(noise.reshape(-1, *shape), dtype),
        )

    def __call__(self, key: jax.Array) -> jax.Array:
        found = jnp.all(self.keys == jax.random.key_data(key)[None], -1)
        return jnp.where(jnp.any(found), self.noise[jnp.argmax(found)], jnp.nan)
