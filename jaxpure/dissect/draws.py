"""Keys for dissecting: many draws of the same thing, or of one noise part alone.

The only file of this package that knows how the library's keys are made.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxpure.keys import Key, PartKeys, noise_at, part, stream

__all__ = ["PartKeys", "draw_keys", "noise_at", "part", "part_keys", "stream"]


def draw_keys(key: Key, name: str, n: int) -> Key:
    """`(n,)` keys of the stream `name`; a longer list begins with the shorter one.

    Args:
      key: a parent of named streams.
      name: what the keys are for.
      n: how many.
    """
    source = stream(key, name)
    return jax.vmap(lambda i: jax.random.fold_in(source, i))(jnp.arange(n))


def part_keys(fixed: Key, keys: Key, varied: Sequence[str]) -> PartKeys:
    """Keys that differ in some noise parts only: `(n,)` stacked, one for each of `keys`.

    Args:
      fixed: `()` key of every part that is not varied.
      keys: `(n,)` keys of the varied parts.
      varied: names of those parts.

    Raises:
      ValueError: no part is named.
    """
    if not varied:
        raise ValueError("varied=() leaves every noise part fixed: name at least one part")
    return jax.vmap(lambda key: PartKeys(fixed, {name: key for name in varied}))(keys)
