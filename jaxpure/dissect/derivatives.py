"""Derivatives of a purifier along directions, without its Jacobian.

Forward mode does not pass through a function with a `jax.custom_vjp`, and on the CPU the
library's convolutions carry one (its reason is in `jaxpure.models.layers.conv2d`). The
product with the transposed Jacobian is linear in the cotangent, so transposing *that* gives
the product with the Jacobian, by reverse mode alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Map = Callable[[jax.Array], jax.Array]


def jvp(f: Map, x: jax.Array, tangent: jax.Array) -> jax.Array:
    """The Jacobian of `f` at `x` times `tangent`, by reverse mode twice.

    `vjp(f, x)` is the linear map `u -> J^T u`; its own transpose is `v -> J v`. It works
    wherever `grad` does, costs about as much as two gradients, and is exact: nothing is
    differenced. (Known as the double-vjp trick, J. Townsend, 2017.)

    Args:
      f: `x -> y`, arrays of any shape.
      x: where.
      tangent: a direction, of `x`'s shape and dtype.

    Returns:
      `J tangent`, of `f(x)`'s shape.
    """
    y, pull_back = jax.vjp(f, x)
    return jax.vjp(lambda u: pull_back(u)[0], jnp.zeros_like(y))[1](tangent)[0]


def vjp(f: Map, x: jax.Array, cotangent: jax.Array) -> jax.Array:
    """The transposed Jacobian of `f` at `x` times `cotangent`, of `x`'s shape."""
    return jax.vjp(f, x)[1](cotangent)[0]


def normalise(direction: jax.Array) -> jax.Array:
    """`direction` at L2 length 1; zero stays zero."""
    norm = jnp.sqrt(jnp.sum(jnp.square(direction)))
    return direction / jnp.where(norm > 0, norm, 1)
