"""Norm balls: where an attack starts, which way is up, and the way back inside.

Images stay in [0, 1] too: a projection is onto the ball first and the box second, which
never leaves the ball, since the centre lies in the box.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.types import Image, Key

Radius = jax.Array | float


class Norm(NamedTuple):
    """What an attack needs to know of a norm.

    Attributes:
      random_point: `(key, x, eps) -> x` uniformly from the ball around x, in the box.
      ascent: `(gradient) -> direction` of unit norm; zero for a zero gradient.
      project: `(x, centre, eps) -> x` into the ball around centre and the box.
      distance: `(x, centre) -> ()`.
    """

    random_point: Callable[[Key, Image, Radius], Image]
    ascent: Callable[[jax.Array], jax.Array]
    project: Callable[[Image, Image, Radius], Image]
    distance: Callable[[Image, Image], jax.Array]


def _linf_random_point(key, x, eps):
    noise = jax.random.uniform(key, x.shape, x.dtype, -1, 1)
    return _linf_project(x + eps * noise, x, eps)


def _linf_project(x, centre, eps):
    return jnp.clip(jnp.clip(x, centre - eps, centre + eps), 0, 1)


def _linf_distance(x, centre):
    return jnp.max(jnp.abs(x - centre))


def _l2_random_point(key, x, eps):
    # A Gaussian in d + 2 dimensions, normalised, is uniform in the ball of its first d.
    noise = jax.random.normal(key, (x.size + 2,), x.dtype)
    point = (noise / jnp.linalg.norm(noise))[: x.size].reshape(x.shape)
    return _l2_project(x + eps * point, x, eps)


def _l2_ascent(gradient):
    # Scaled first: the squares of a confident classifier's gradients underflow.
    largest = jnp.max(jnp.abs(gradient))
    scaled = gradient / jnp.where(largest > 0, largest, 1)
    return scaled / jnp.maximum(jnp.linalg.norm(scaled.ravel()), 1)


def _l2_project(x, centre, eps):
    delta = x - centre
    length = jnp.linalg.norm(delta.ravel())
    factor = jnp.where(length > eps, eps / jnp.where(length > eps, length, 1), 1)
    return jnp.clip(centre + factor * delta, 0, 1)


def _l2_distance(x, centre):
    return jnp.linalg.norm((x - centre).ravel())


NORMS: dict[str, Norm] = {
    "linf": Norm(_linf_random_point, jnp.sign, _linf_project, _linf_distance),
    "l2": Norm(_l2_random_point, _l2_ascent, _l2_project, _l2_distance),
}
