"""Compression: how much a purifier under one key shrinks distances between images.

The compression rate of f_k at x along d is ||f_k(x + d) - f_k(x)|| / ||d||, L2 throughout;
LOWER means stronger compression. Isotropic, infinitesimal directions are the papers'; the
estimators, their radius and their number of draws are this library's choice. Everything
here is about one map `f: x -> x`, a purifier under one key:
`jax.tree_util.Partial(purifier, key)`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure.dissect.derivatives import Map, jvp, normalise, vjp
from jaxpure.dissect.results import Result, bootstrap, require_finite
from jaxpure.keys import Key, drawn


def isotropic(key: Key, n: int, like: jax.Array) -> jax.Array:
    """`(n, ...)` directions of length 1, even over the sphere, in `like`'s shape."""
    noise = drawn(jax.random.normal, key, (n, *like.shape), like.dtype)
    return jax.vmap(normalise)(noise)


def rates(
    f: Map, x: jax.Array, directions: jax.Array, radius: float | jax.Array
) -> jax.Array:
    """Compression rates at a finite radius: `(n,)`.

    Args:
      f: the purifier under one key.
      x: `(H, W, C)`.
      directions: `(n, H, W, C)`, of any length but zero: they are brought to length 1.
      radius: L2 length of the step, in [0, 1] units. In float32 a step that is much
        shorter than 1e-3 of the image's length measures rounding: use `local_rates`.
    """
    centre = f(x)

    def rate(direction: jax.Array) -> jax.Array:
        moved = f(x + radius * normalise(direction)) - centre
        return jnp.sqrt(jnp.sum(jnp.square(moved))) / radius

    return jax.lax.map(rate, directions)


def local_rates(f: Map, x: jax.Array, directions: jax.Array) -> jax.Array:
    """Compression rates in the limit of no radius, ||J d|| / ||d||: `(n,)`."""

    def rate(direction: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(jnp.square(jvp(f, x, normalise(direction)))))

    return jax.lax.map(rate, directions)


class JacobianNorm(NamedTuple):
    """The local expected rate, from n Gaussian probes.

    Attributes:
      rate: `()` ||J||_F / sqrt(n), root mean square of the singular values.
      error: `()` its standard error over the probes (delta method).
    """

    rate: jax.Array
    error: jax.Array


def jacobian_norm(f: Map, x: jax.Array, key: Key, probes: int) -> JacobianNorm:
    """||J||_F / sqrt(numbers in x), without the Jacobian (Hutchinson's trick).

    E ||J^T u||^2 = ||J||_F^2 for standard normal u; a product with the transposed Jacobian
    is one gradient, half of what one with the Jacobian costs. The expected rate over
    isotropic directions is at most this (Jensen), and equal for a multiple of an isometry.

    Args:
      f: the purifier under one key.
      x: `(H, W, C)`.
      key: of the probes; consumed.
      probes: at least 2.
    """
    if probes < 2:
        raise ValueError(f"{probes=}, expected at least 2 for an error of the estimate")
    y = jax.eval_shape(f, x)
    cotangents = drawn(jax.random.normal, key, (probes, *y.shape), y.dtype)
    squares = jax.lax.map(lambda u: jnp.sum(jnp.square(vjp(f, x, u))), cotangents)
    mean = jnp.mean(squares) / x.size
    rate = jnp.sqrt(mean)
    deviation = jnp.std(squares, ddof=1) / x.size / probes**0.5
    return JacobianNorm(rate, deviation / (2 * jnp.where(rate > 0, rate, 1)))


class SingularValues(NamedTuple):
    """Leading singular values of the Jacobian, largest first.

    Attributes:
      values: `(k,)`.
      inputs: `(k, H, W, C)` right singular vectors: the directions that are stretched so.
      residuals: `(k,)` ||J^T J v - s^2 v||: how far each is from converged.
    """

    values: jax.Array
    inputs: jax.Array
    residuals: jax.Array


def leading_singular_values(
    f: Map, x: jax.Array, key: Key, k: int, *, iterations: int = 8, extra: int = 4
) -> SingularValues:
    """The k largest singular values by randomised subspace iteration (Halko et al. 2011).

    A block of k + `extra` directions goes through J^T J `iterations` times, orthonormalised
    in between; what is left is a small problem, solved exactly. It costs
    (k + extra) * (iterations + 2) products with J and as many with its transpose.

    Args:
      f: the purifier under one key.
      x: `(H, W, C)`.
      key: of the first block; consumed.
      k: how many.
      iterations: the ratio of neighbours s_(k+extra+1) / s_k to twice this power is the
        error that is left.
      extra: further directions, for speed of convergence.
    """
    size = min(k + extra, x.size)
    if not 1 <= k <= x.size:
        raise ValueError(f"{k=} singular values of an image of {x.size} numbers")

    def forward(v: jax.Array) -> jax.Array:
        return jax.lax.map(lambda d: jvp(f, x, d.reshape(x.shape)).reshape(-1), v.T).T

    y = jax.eval_shape(f, x)

    def backward(u: jax.Array) -> jax.Array:
        return jax.lax.map(lambda c: vjp(f, x, c.reshape(y.shape)).reshape(-1), u.T).T

    def improve(_, v: jax.Array) -> jax.Array:
        return jnp.linalg.qr(backward(forward(v)))[0]

    start = jnp.linalg.qr(jax.random.normal(key, (x.size, size), x.dtype))[0]
    v = jax.lax.fori_loop(0, iterations, improve, start)
    _, values, mixing = jnp.linalg.svd(forward(v), full_matrices=False)
    v = (v @ mixing.T)[:, :k]
    values = values[:k]
    off = backward(forward(v)) - v * jnp.square(values)[None]
    residuals = jnp.sqrt(jnp.sum(jnp.square(off), 0))
    return SingularValues(values, v.T.reshape(k, *x.shape), residuals)


def stability(
    rates: np.ndarray, radii: np.ndarray, *, indices: np.ndarray | None = None
) -> Result:
    """How the rate depends on radius, on the direction and on the key, over images.

    Args:
      rates: `(n, keys, directions, radii)`; at least two keys and directions. Radius 0
        stands for the local rate.
      radii: `(radii,)` L2 lengths in [0, 1] units.
      indices: `(n,)` images' indices, for messages.

    Returns:
      a row for each radius: `rate` with its ends over images; `over_directions`,
      `over_keys`, `over_images`: standard deviations, each of means over what is below it
      (directions within key and image, keys within image, images).
    """
    rates = require_finite("the compression rate", rates, indices)
    if min(rates.shape[1:3]) < 2:
        raise ValueError(
            f"{rates.shape[1]} keys and {rates.shape[2]} directions: their spread needs at "
            "least 2 of each"
        )
    mean, low, high = bootstrap(rates.mean((1, 2)))
    by_key = rates.mean(2)
    of_images = by_key.mean(1)
    spread = of_images.std(0, ddof=1) if len(rates) > 1 else np.full(len(radii), np.nan)
    columns = {
        "radius": np.asarray(radii),
        "rate": mean,
        "rate_low": low,
        "rate_high": high,
        "over_directions": np.sqrt(rates.var(2, ddof=1).mean((0, 1))),
        "over_keys": np.sqrt(by_key.var(1, ddof=1).mean(0)),
        "over_images": spread,
    }
    about = "compression rate (lower is stronger) against the radius, and its spread"
    images, keys, directions = rates.shape[:3]
    notes = {"images": images, "keys": keys, "directions": directions}
    return Result("compression_stability", about, columns, notes)
