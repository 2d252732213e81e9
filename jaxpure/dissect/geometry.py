"""The geometry of a purifier's randomness: is it the key that moves an image, or the image?

Correlations of purified minus original (seed paper's Fig. 2, `np.corrcoef`), spectra of
purified states (its Fig. 4, the 2025 submission's Fig. 5b), variance split into input,
randomness and both (the 2026 submission's Fig. 2f). All arrays of vectors are `(k, ...)`:
k vectors, whatever shape they have, flattened here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure.dissect.results import Estimate, require_finite, resampling_weights
from jaxpure.keys import Key
from jaxpure.types import Image, Purifier


def displacements_over_keys(purifier: Purifier, keys: Key, x: Image) -> jax.Array:
    """Purified minus original of one image under many keys: `(k, H, W, C)`.

    Args:
      purifier: `(key, x) -> x`.
      keys: `(k,)` keys, or keys by noise part (`draws.part_keys` varies one part alone).
      x: `(H, W, C)` in [0, 1].
    """
    return jax.vmap(lambda key: purifier(key, x) - x)(keys)


def displacements_over_starts(purifier: Purifier, key: Key, starts: Image) -> jax.Array:
    """Purified minus original of many starts `(k, H, W, C)` under one key: same shape."""
    return jax.vmap(lambda x: purifier(key, x) - x)(starts)


def correlations(vectors: jax.Array) -> jax.Array:
    """Pearson correlations `(k, k)` of vectors `(k, ...)`, as `np.corrcoef` has them.

    Each vector's own mean over its pixels is taken off first. A vector without variation
    has none with any: its row is NaN.
    """
    flat = vectors.reshape(len(vectors), -1)
    centred = flat - jnp.mean(flat, 1, keepdims=True)
    norms = jnp.sqrt(jnp.sum(jnp.square(centred), 1, keepdims=True))
    unit = centred / norms
    return jnp.clip(unit @ unit.T, -1, 1)


def mean_correlation(matrix: np.ndarray, *, seed: int = 0) -> Estimate:
    """The mean off-diagonal correlation of `(k, k)`, with its interval over the vectors.

    The bootstrap draws vectors, not pairs (pairs that share a vector go together), and
    leaves out the pairs of a vector with itself. `n` is the number of vectors.

    Raises:
      ValueError: fewer than three vectors, or a vector without variation, by its number.
    """
    matrix = require_finite("the correlation", matrix)
    k = len(matrix)
    if k < 3:
        raise ValueError(f"{k} vectors: an interval of their correlation needs at least 3")
    off = matrix * (1 - np.eye(k))
    weights = resampling_weights(k, seed=seed)
    sums = np.einsum("bi,ij,bj->b", weights, off, weights, optimize=True)
    pairs = k**2 - np.sum(weights**2, 1)
    usable = pairs > 0
    low, high = np.quantile(sums[usable] / pairs[usable], [0.025, 0.975])
    return Estimate(float(off.sum() / (k * (k - 1))), float(low), float(high), k)


def correlation_along(states: jax.Array, originals: jax.Array) -> jax.Array:
    """Mean off-diagonal correlation of state minus original at each state: `(m,)`.

    Args:
      states: `(k, m, H, W, C)`, m states of each of k purifications, in [0, 1] units
        (`denoising.path`).
      originals: `(H, W, C)` what all began at, or `(k, H, W, C)`.
    """
    if originals.ndim == states.ndim - 2:
        originals = originals[None]
    moved = jnp.moveaxis(states - originals[:, None], 1, 0)
    k = states.shape[0]

    def mean(vectors: jax.Array) -> jax.Array:
        matrix = correlations(vectors)
        return (jnp.sum(matrix) - jnp.trace(matrix)) / (k * (k - 1))

    return jax.lax.map(mean, moved)


class Spectrum(NamedTuple):
    """The principal components of a cloud of vectors.

    Attributes:
      variance: `(r,)` variance along each, largest first; r is min(k - 1, numbers).
      explained: `(r,)` share of the total.
      directions: `(r, ...)` the components, orthonormal, in the vectors' shape.
      participation: `()` (sum of variances)^2 / sum of their squares, 1 to r: how many
        directions carry the variance. Of k vectors it cannot exceed k - 1.
      participation_corrected: `()` the same from unbiased estimates of numerator and
        denominator for Gaussian vectors (Bai and Saranadasa 1996), which k does not bound;
        infinite where the estimated denominator is not positive.
    """

    variance: jax.Array
    explained: jax.Array
    directions: jax.Array
    participation: jax.Array
    participation_corrected: jax.Array


def spectrum(vectors: jax.Array) -> Spectrum:
    """PCA of vectors `(k, ...)` about their mean, k at least 3."""
    k, *shape = vectors.shape
    if k < 3:
        raise ValueError(f"{k} vectors: a spectrum with its correction needs at least 3")
    flat = vectors.reshape(k, -1)
    centred = flat - jnp.mean(flat, 0, keepdims=True)
    _, singular, directions = jnp.linalg.svd(centred, full_matrices=False)
    rank = min(k - 1, flat.shape[1])
    variance = jnp.square(singular[:rank]) / (k - 1)
    total, squares = jnp.sum(variance), jnp.sum(jnp.square(variance))
    n = k - 1  # degrees of freedom
    true_squares = n**2 / ((n + 2) * (n - 1)) * (squares - total**2 / n)
    true_total_squared = total**2 - 2 * true_squares / n
    return Spectrum(
        variance,
        variance / total,
        directions[:rank].reshape(rank, *shape),
        total**2 / squares,
        jnp.where(true_squares > 0, true_total_squared / true_squares, jnp.inf),
    )


class VarianceSplit(NamedTuple):
    """Variances of purified images, summed over pixels, all in squared [0, 1] units.

    Attributes:
      fixed_input: one input, many keys: `randomness + interaction`.
      fixed_randomness: one key, many inputs: `input + interaction`.
      both: both vary: the sum of the three parts below.
      input: what depends on the input alone.
      randomness: what depends on the key alone.
      interaction: what depends on which key meets which input.
    """

    fixed_input: jax.Array
    fixed_randomness: jax.Array
    both: jax.Array
    input: jax.Array
    randomness: jax.Array
    interaction: jax.Array


def variance_split(states: jax.Array) -> VarianceSplit:
    """Splits the variance of `(inputs, keys, ...)`: every input under every key.

    Two-way random effects without replication; the estimates are unbiased, so that a part
    that is zero may come out slightly negative. The inputs are whatever the question is
    about: perturbations of one image in a small ball, or images of a data set.

    Raises:
      ValueError: fewer than two inputs or keys.
    """
    inputs, keys = states.shape[:2]
    if min(inputs, keys) < 2:
        raise ValueError(f"{inputs} inputs under {keys} keys, expected at least 2 of each")
    y = states.reshape(inputs, keys, -1)
    y = y - jnp.mean(y, (0, 1), keepdims=True)
    by_input, by_key = jnp.mean(y, 1, keepdims=True), jnp.mean(y, 0, keepdims=True)
    rest = y - by_input - by_key
    mean_input = keys * jnp.sum(jnp.square(by_input)) / (inputs - 1)
    mean_key = inputs * jnp.sum(jnp.square(by_key)) / (keys - 1)
    interaction = jnp.sum(jnp.square(rest)) / ((inputs - 1) * (keys - 1))
    of_input = (mean_input - interaction) / keys
    of_key = (mean_key - interaction) / inputs
    return VarianceSplit(
        fixed_input=of_key + interaction,
        fixed_randomness=of_input + interaction,
        both=of_input + of_key + interaction,
        input=of_input,
        randomness=of_key,
        interaction=interaction,
    )
