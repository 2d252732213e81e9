"""What the fixtures of tests/golden leave out: weights by a rule, noise by its key.

The reference networks were run with weights that numpy alone can draw again from their
names, so no weights are stored. Noise was stored as arrays; here it is handed to the
library under the keys by which the library asks for it.
"""

import dataclasses
import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from checkpoints_convert import rules
from checkpoints_convert.families import FAMILIES
from checkpoints_convert.family import Contents
from jaxpure import models, weights
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


def filled(fixture: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All tensors of a reference network that its function uses, by name."""
    tensors = json.loads(str(fixture["tensors"]))
    return {
        name: fill(name, shape, int(fixture["seed"]))
        for name, shape, kind in tensors
        if kind not in ("counter", "fixed")
    }


def sha256(tensors: Mapping[str, np.ndarray]) -> str:
    """Digest of all tensors in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def converted(
    fixture: Mapping[str, np.ndarray],
    family: str,
    dtype: Any = np.float32,
    **changes: Any,
) -> models.Network:
    """The reference's network as the converter's table of this family makes it.

    `changes` are what names and shapes cannot tell, as the command's `--set` has them.
    """
    tensors = filled(fixture)
    assert sha256(tensors) == str(fixture["weights_sha256"])
    shapes = {name: shape for name, shape, _ in json.loads(str(fixture["tensors"]))}
    shapes = {name: tuple(shape) for name, shape in shapes.items()}
    settings = json.loads(str(fixture["config"]))
    contents = Contents(shapes, tensors.__getitem__, settings)
    config = FAMILIES[family].architecture(contents)
    config = dataclasses.replace(config, **changes)
    like = models.abstract(config)
    targets = {name: x.shape for name, x in weights.flatten(like.params).items()}
    assigned = rules.assign(FAMILIES[family].layers(config), shapes, targets)
    values = dict(rules.fill(assigned, tensors.__getitem__))
    leaves = [jnp.asarray(values[name], dtype) for name in targets]
    params = jax.tree.unflatten(jax.tree.structure(like.params), leaves)
    return models.Network(config, params)


def nhwc(array: np.ndarray) -> np.ndarray:
    """Images `(..., C, H, W)` as the library wants them."""
    return np.moveaxis(array, -3, -1)


def max_error(got: Any, want: np.ndarray) -> float:
    """Largest difference, in units of the reference's standard deviation."""
    return float(np.max(np.abs(np.asarray(got) - want)) / np.std(want))


def l2_error(got: Any, want: np.ndarray) -> float:
    """Length of the difference, in units of the centred reference's."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want - want.mean()))


@pytree(eq=False)
class NoiseTable:
    """Stored noise by key, in place of a generator; NaN for a key it does not know.

    Attributes:
      keys: `(n, words)` uint32, the data of the keys.
      noise: `(n, ...)`, what each draws.
    """

    keys: jax.Array
    noise: jax.Array

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
