"""Frozen dataclasses that are JAX pytrees, so that they pass through `jit` as arguments.

    @pytree
    class Pgd:
        step_size: float = 2 / 255              # a leaf: changing it compiles nothing anew
        random_start: Static[bool] = True       # part of the structure, and compiled for

`jax.tree_util.register_dataclass` makes structures that are equal (in jax 0.10) for any two
classes of as many fields and equal static fields, so that `jit` now and then runs for an
object of one class what it compiled for the other; the structures made here know their
class. `__post_init__` checks what a user gives. It does not run when JAX rebuilds an
object around tracers.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    dataclass_transform,
    get_origin,
    overload,
)

import jax
import jax.numpy as jnp

Class = TypeVar("Class", bound=type)
T = TypeVar("T")


_STATIC, _UNRECORDED = "static", "unrecorded"

Static = Annotated[T, _STATIC]
"""The type of a field that is part of the structure: hashable, and compiled for."""

Unrecorded = Annotated[T, _STATIC, _UNRECORDED]
"""A static field that changes no value: no part of what an evaluation is."""


class _Values(tuple):
    """Static values, of which the first `shown` are in its text, and so in digests."""

    shown: int

    def __new__(cls, values: Iterable[Any], shown: int) -> "_Values":
        self = super().__new__(cls, values)
        self.shown = shown
        return self

    def __repr__(self) -> str:
        return repr(tuple(self[: self.shown]))


def derived(*, init: Literal[False] = False) -> Any:
    """A leaf that `__post_init__` computes (by `set_derived`) from the other fields."""
    return dataclasses.field(init=init, repr=False, compare=False)


def set_derived(thing: Any, **values: Any) -> None:
    """Sets derived fields of a frozen dataclass, inside its `__post_init__`."""
    for name, value in values.items():
        object.__setattr__(thing, name, value)


@overload
@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, derived))
def pytree(cls: Class) -> Class: ...
@overload
@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, derived))
def pytree(*, eq: bool = True, repr: bool = True) -> Callable[[Class], Class]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, derived))
def pytree(cls: Any = None, *, eq: bool = True, repr: bool = True) -> Any:
    """Makes a class a frozen dataclass and a pytree; fields are leaves unless `Static`.

    Args:
      cls: the class.
      eq: whether objects compare by their fields; False for those that hold arrays.
      repr: whether to make a `__repr__` of all fields.
    """
    if cls is None:
        return functools.partial(_pytree, eq=eq, repr=repr)
    return _pytree(cls, eq=eq, repr=repr)


def _pytree(cls: Any, *, eq: bool, repr: bool) -> Any:
    cls = dataclasses.dataclass(frozen=True, eq=eq, repr=repr)(cls)
    fields = dataclasses.fields(cls)
    static = [f for f in fields if is_static(f.type)]
    static.sort(key=_is_unrecorded)
    meta = tuple(f.name for f in static)
    shown = sum(not _is_unrecorded(f) for f in static)
    data = tuple(f.name for f in fields if not is_static(f.type))

    def flatten(x):
        values = _Values((getattr(x, n) for n in meta), shown)
        return tuple(getattr(x, n) for n in data), values

    def flatten_with_keys(x):
        leaves, values = flatten(x)
        keys = map(jax.tree_util.GetAttrKey, data)
        return tuple(zip(keys, leaves, strict=True)), values

    def unflatten(values, leaves):
        x = object.__new__(cls)
        set_derived(x, **dict(zip(data, leaves, strict=True)))
        set_derived(x, **dict(zip(meta, values, strict=True)))
        return x

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def is_static(kind: Any) -> bool:
    """Whether a field of this type is part of the structure."""
    return get_origin(kind) is Annotated and _STATIC in kind.__metadata__


def _is_unrecorded(field: dataclasses.Field) -> bool:
    return _UNRECORDED in getattr(field.type, "__metadata__", ())


def choose(condition: jax.Array, a: Any, b: Any) -> Any:
    """`a` where `condition` `()` holds, else `b`: pytrees, which may hold keys.

    `jnp.where` selects keys too, but to JAX's key-reuse checker that uses them up.
    """

    def one(x, y):
        if x is y:
            return x
        if not is_key(x):
            return jnp.where(condition, x, y)
        data = jnp.where(condition, jax.random.key_data(x), jax.random.key_data(y))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))

    return jax.tree.map(one, a, b)


def is_key(x: Any) -> bool:
    """Whether an array holds typed PRNG keys."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
