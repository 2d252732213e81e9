"""Norm balls: where an attack starts, which way is up, and the way back inside.

Images stay in [0, 1] too: in Linf and L2 a projection is onto the ball first and the box
second, which never leaves the ball, since the centre lies in the box. In L1 that order
would throw most of the ball's radius away, so the projection is onto what both share.
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


def _l1_random_point(key, x, eps):
    # Exponentials over their sum are uniform in the simplex; one more than there are
    # pixels leaves the others uniform in its inside. Every orthant is as likely.
    sizes, signs = jax.random.split(key)
    sizes = jax.random.exponential(sizes, (x.size + 1,), x.dtype)
    signs = jax.random.rademacher(signs, x.shape, x.dtype)
    point = signs * (sizes / jnp.sum(sizes))[: x.size].reshape(x.shape)
    return jnp.clip(x + eps * point, 0, 1)


def _l1_ascent(gradient):
    size = jnp.abs(gradient.ravel())
    largest = jnp.arange(size.size) == jnp.argmax(size)
    return jnp.sign(gradient) * largest.reshape(gradient.shape)


def _l1_project(x, centre, eps):
    """The nearest point of ball and box together (Croce and Hein 2021, section 3.1).

    It takes from every pixel's change the same threshold, and cuts what is left at the
    box. The length of that falls with the threshold, linearly between the thresholds
    where a pixel leaves the box's edge and those where it is back at the centre; it is
    found where the length is eps.
    """
    delta = (x - centre).ravel()
    size = jnp.abs(delta)
    room = jnp.where(delta > 0, 1 - centre.ravel(), centre.ravel())
    leaves = jnp.maximum(size - room, 0)
    slopes = jnp.concatenate([-jnp.ones_like(size), jnp.ones_like(size)])
    thresholds = jnp.concatenate([leaves, size])
    order = jnp.argsort(thresholds)
    thresholds, slopes = thresholds[order], jnp.cumsum(slopes[order])
    drops = jnp.diff(thresholds, append=thresholds[-1:]) * slopes
    total = jnp.sum(size - leaves)
    lengths = total + jnp.concatenate([jnp.zeros_like(drops[:1]), jnp.cumsum(drops)[:-1]])
    last = jnp.maximum(jnp.sum(lengths >= eps) - 1, 0)  # the last one that is too low
    falls = jnp.maximum(-slopes[last], 1)
    threshold = thresholds[last] + (lengths[last] - eps) / falls
    kept = jnp.minimum(jnp.maximum(size - threshold, 0), room)
    length = jnp.sum(kept)  # eps, but for the rounding of the running sums
    kept = kept * jnp.where(length > eps, eps / jnp.where(length > eps, length, 1), 1)
    moved = centre + (jnp.sign(delta) * kept).reshape(x.shape)
    return jnp.clip(jnp.where(total > eps, moved, x), 0, 1)


def _l1_distance(x, centre):
    return jnp.sum(jnp.abs(x - centre))


NORMS: dict[str, Norm] = {
    "linf": Norm(_linf_random_point, jnp.sign, _linf_project, _linf_distance),
    "l2": Norm(_l2_random_point, _l2_ascent, _l2_project, _l2_distance),
    "l1": Norm(_l1_random_point, _l1_ascent, _l1_project, _l1_distance),
}


def random_direction(norm: str, key: Key, like: Image) -> Image:
    """Noise of unit length in the norm: uniform noise in Linf, Gaussian in L2 and L1."""
    if norm == "linf":
        noise = jax.random.uniform(key, like.shape, like.dtype, -1, 1)
    else:
        noise = jax.random.normal(key, like.shape, like.dtype)
    return noise / NORMS[norm].distance(noise, jnp.zeros_like(noise))
