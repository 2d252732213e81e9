"""The vocabulary as types. Everything is written for one image; `vmap` makes a batch.

A *callable pytree* is a callable that is also a JAX pytree, so that it can be passed
to `jit` as an argument, its parameters never captured as constants. Networks, purifiers,
defenses, balls and attacks here are all of this kind; `jax.tree_util.Partial(function,
*args)` makes one of anything else.
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxpure.keys import AnyKey

Image = jax.Array
"""`(H, W, C)`, values in [0, 1] (diffusion works in [-1, 1] inside the purifier)."""

Label = jax.Array
"""`()`, an integer class."""

Logits = jax.Array
"""`(num_classes,)`."""

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]
"""`(x, t) -> predicted noise`: `x` is `(H, W, C)` in [-1, 1] plus noise, `t` is `()`.

Where the variance is learned the result is `(H, W, 2 C)`, predicted noise first.
"""

Purifier = Callable[[Any, Image], Image]
"""`(key, x) -> x`. The key is a `keys.Key`, or a `keys.PartKeys`.

A purifier may declare `noise_parts: tuple[str, ...]`, the named places where it draws
noise, and `denoiser_evaluations: int`, its cost in calls of its denoiser.
"""

Classifier = Callable[[Image], Logits]
"""`(x) -> logits`."""

Defense = Callable[[AnyKey, Image], Logits]
"""`(key, x) -> logits`: a purifier, then a classifier. All that is random is the key."""

LossFn = Callable[[Logits, Label], jax.Array]
"""`(logits, label) -> ()`: what an attack climbs; larger is worse for the defense."""
