"""Keys: which noise is whose.

The key of a data set's example i is `example_key(root, i)`, wherever and in whatever
batch it runs. From it come named streams, and from a stream, by index, keys:

    example -> judge             -> n            the defense's own draws
            -> attack/start                      an attack's random start
            -> attack/gradient   -> step, sample drawn anew for every gradient
            -> attack/selection  -> step, sample drawn anew for choosing an iterate
            -> attack/fixed      -> sample       one fixed set for all steps

In JAX `fold_in(k, i)` and `split(k, n)[i]` are the same key, so a key is either a parent
of named streams or a source of indices, never both.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import field
from typing import Any

import jax

from jaxpure.pytrees import pytree

Key = jax.Array
"""A typed PRNG key, shape `()`."""


def stream(key: Key, name: str) -> Key:
    """The key of a named purpose. Never fold integers into a key that has streams."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def example_key(root: Key, index: jax.Array | int) -> Key:
    """The key of the example with this index in the published set."""
    return jax.random.fold_in(stream(root, "example"), index)


def defense_key(key: Key, n: jax.Array | int) -> Key:
    """The n-th key of the defense itself for the example with this key."""
    return jax.random.fold_in(stream(key, "judge"), n)


@pytree(eq=False)
class PartKeys:
    """A key for each part of a purifier's noise, in place of one key for all.

    Attributes:
      rest: key of every part that `named` does not name.
      named: keys by noise part.
    """

    rest: Key
    named: dict[str, Key] = field(default_factory=dict)


AnyKey = Key | PartKeys
"""What a purifier is called with."""


def part(key: AnyKey, name: str) -> Key:
    """The stream of one noise part of a purification.

    Every purifier draws through this function, which is what lets a policy replay
    some parts and not others.
    """
    if isinstance(key, PartKeys):
        key = key.named.get(name, key.rest)
    return stream(key, name)


def map_draws(f: Callable[[Any], Any], keys: Any, at_once: int) -> Any:
    """`f` of every draw's keys, stacked: one after the other, or so many side by side.

    Args:
      f: of the keys of one draw.
      keys: a pytree of keys with a leading axis.
      at_once: draws side by side; memory grows with it.
    """
    if at_once == 1:  # and not a batch of one, which might round differently
        return jax.lax.map(f, keys)
    count = len(jax.tree.leaves(keys)[0])
    return jax.lax.map(f, keys, batch_size=min(at_once, count))


def noise_at(key: Key, index: jax.Array | int, like: jax.Array) -> jax.Array:
    """Standard normal noise of `like`'s shape and dtype, addressed by an index."""
    key = jax.random.fold_in(key, index)
    return drawn(jax.random.normal, key, like.shape, like.dtype)


def drawn(
    sampler: Callable[..., jax.Array], key: Key, shape: tuple[int, ...], *args: Any
) -> jax.Array:
    """`sampler(key, shape, *args)` of `jax.random`, drawn flat: the same numbers.

    On a CPU, XLA takes seconds to compile a draw of four axes, and a tenth of that to
    compile a flat one; JAX numbers random bits along the flat array in both.
    """
    return sampler(key, (math.prod(shape),), *args).reshape(shape)
