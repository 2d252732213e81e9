"""Gradient rules: transforms of a purifier that keep its value and choose its derivative.

`exact` is the purifier itself. The others change what an attack sees of it:

    bpda(purifier)(key, x)               value purifier(key, x), derivative the identity's
    surrogate(purifier, cheap)(key, x)   value purifier(key, x), derivative cheap(key, x)'s

The surrogate is called with the same key, so it meets the same noise at every timestep
that the two chains share.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from jaxpure.defense import denoiser_evaluations
from jaxpure.randomness import PartKeys
from jaxpure.types import Image, Key, Purifier, register_pytree


def exact(purifier: Purifier) -> Purifier:
    """The purifier with its own derivative."""
    return purifier


@partial(register_pytree, data_fields=["purifier"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class Bpda:
    """Backward pass differentiable approximation by the identity (Athalye et al. 2018).

    Attributes:
      purifier: whose value is taken; it must keep the image's shape.
    """

    purifier: Any

    @property
    def denoiser_evaluations(self) -> int | None:
        return denoiser_evaluations(self.purifier)

    def __call__(self, key: Key | PartKeys, x: Image) -> Image:
        value = jax.lax.stop_gradient(self.purifier(key, x))
        if value.shape != x.shape:
            raise ValueError(
                f"BPDA through a purifier from {x.shape} to {value.shape}: the identity "
                "has no such derivative; use the exact or a surrogate gradient"
            )
        return _with_derivative_of(x, value)


@partial(
    register_pytree,
    data_fields=["purifier", "cheap"],
    meta_fields=[],
)
@dataclass(frozen=True, eq=False)
class Surrogate:
    """The value of one purifier, the derivative of a cheaper one (Lee and Kim 2023).

    Attributes:
      purifier: whose value is taken.
      cheap: whose derivative is taken, under the same key.
    """

    purifier: Any
    cheap: Any

    @property
    def denoiser_evaluations(self) -> int | None:
        full = denoiser_evaluations(self.purifier)
        cheap = denoiser_evaluations(self.cheap)
        return None if full is None or cheap is None else full + cheap

    def __call__(self, key: Key | PartKeys, x: Image) -> Image:
        value = jax.lax.stop_gradient(self.purifier(key, x))
        return _with_derivative_of(self.cheap(key, x), value)


def bpda(purifier: Purifier) -> Bpda:
    """The purifier with the identity's derivative."""
    return Bpda(purifier)


def surrogate(purifier: Purifier, cheap: Purifier) -> Surrogate:
    """The purifier with the derivative of `cheap`."""
    return Surrogate(purifier, cheap)


def _with_derivative_of(x: jax.Array, value: jax.Array) -> jax.Array:
    """`value` to the bit (x - x is 0 for finite x), differentiated as `x`."""
    return value + (x - jax.lax.stop_gradient(x))
