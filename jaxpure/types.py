"""The vocabulary as types. Everything is written for one image; `vmap` makes a batch.

A *callable pytree* is a callable that is also a JAX pytree, so that it can be passed
to `jit` as an argument, its parameters never captured as constants. Networks, purifiers,
defenses and attacks here are all of this kind; `jax.tree_util.Partial(function, *args)`
makes one of anything else.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax

Key = jax.Array
"""A typed PRNG key, shape `()`; see jaxpure.randomness for what may be done with it."""

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
"""`(key, x) -> x`. The key is a `Key`, or a `randomness.PartKeys`.

A purifier may declare `noise_parts: tuple[str, ...]`, the named places where it draws
noise, and `denoiser_evaluations: int`, its cost in calls of its denoiser.
"""

Classifier = Callable[[Image], Logits]
"""`(x) -> logits`."""

Defense = Callable[[Any, Image], Logits]
"""`(key, x) -> logits`: a purifier, then a classifier. All that is random is the key."""

LossFn = Callable[[Logits, Label], jax.Array]
"""`(logits, label) -> ()`: what an attack climbs; larger is worse for the defense."""


@runtime_checkable
class Attack(Protocol):
    """A search for an adversarial image, all of its progress in its state.

    The state is any pytree of arrays with at least the fields of `AttackProgress`.
    `step` leaves a state whose `done` is set as it is.
    """

    def init(self, key: Key, x: Image, label: Label) -> Any: ...

    def step(self, state: Any) -> Any: ...


Class = TypeVar("Class", bound=type)


def register_pytree(
    cls: Class, data_fields: Sequence[str], meta_fields: Sequence[str]
) -> Class:
    """Makes a frozen dataclass a pytree of its data fields; the meta fields are static.

    Like `jax.tree_util.register_dataclass`, whose structures are equal (in jax 0.10) for
    any two classes of as many data fields and equal meta fields: now and then `jit` then
    runs for an object of one class what it compiled for the other.
    """
    data, meta = tuple(data_fields), tuple(meta_fields)
    missing = {f.name for f in dataclasses.fields(cls)} ^ {*data, *meta}
    if missing:
        raise ValueError(
            f"data_fields and meta_fields of {cls.__name__} must be its fields, each once; "
            f"wrong: {', '.join(sorted(missing))}"
        )

    def flatten(x):
        return tuple(getattr(x, n) for n in data), tuple(getattr(x, n) for n in meta)

    def flatten_with_keys(x):
        leaves, static = flatten(x)
        keys = map(jax.tree_util.GetAttrKey, data)
        return tuple(zip(keys, leaves, strict=True)), static

    def unflatten(static, leaves):
        return cls(
            **dict(zip(data, leaves, strict=True)), **dict(zip(meta, static, strict=True))
        )

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


class AttackProgress(Protocol):
    """What the engine reads of an attack's state.

    Attributes:
      adversarial: `(H, W, C)` the best image so far.
      done: `()` bool, nothing more to do for this image.
      step: `()` int32, evaluations made so far (one more than updates made).
      broken_at: `()` int32, the first evaluation that saw a misclassification, or -1.
      bad_gradients: `()` int32, evaluations whose gradient was not finite.
      zero_gradients: `()` int32, evaluations whose gradient was identically zero.
    """

    adversarial: jax.Array
    done: jax.Array
    step: jax.Array
    broken_at: jax.Array
    bad_gradients: jax.Array
    zero_gradients: jax.Array
