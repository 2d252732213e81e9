"""The gradient that an attack used against the true one, and its signal against its noise.

The cosine between the exact gradient under the judging key and the one used (BPDA, a
surrogate, another key, an EOT mean) was asked for by the seed paper's reviewers; the signal
to noise over keys says how many EOT draws a gradient is worth.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure.dissect.results import (
    RESAMPLES,
    Result,
    bootstrap,
    require_finite,
    resampling_weights,
)
from jaxpure.types import Defense, Image, Label, LossFn


class Alignment(NamedTuple):
    """A gradient that was used against the true one.

    Attributes:
      cosine: of the two; 0 where either is zero (nothing is seen), NaN where either is not
        finite.
      norm_ratio: length of the used over that of the true one.
      zero: bool, whether the used one is zero.
    """

    cosine: jax.Array
    norm_ratio: jax.Array
    zero: jax.Array


def align(true: jax.Array, used: jax.Array) -> Alignment:
    """The cosine between two gradients of one image, of any one shape (relation 17).

    Both are divided by their largest entry first, so that short gradients keep a cosine.
    """
    largest_true, largest_used = jnp.max(jnp.abs(true)), jnp.max(jnp.abs(used))
    a = true.reshape(-1) / jnp.where(largest_true > 0, largest_true, 1)
    b = used.reshape(-1) / jnp.where(largest_used > 0, largest_used, 1)
    length_a, length_b = jnp.sqrt(jnp.sum(a * a)), jnp.sqrt(jnp.sum(b * b))
    lengths = length_a * length_b
    cosine = jnp.where(
        lengths == 0, 0.0, jnp.sum(a * b) / jnp.where(lengths == 0, 1, lengths)
    )
    true_norm = length_a * largest_true
    return Alignment(cosine, length_b * largest_used / true_norm, largest_used == 0)


def loss_gradient(
    defense: Defense, loss: LossFn, key: Any, x: Image, label: Label
) -> jax.Array:
    """The gradient `(H, W, C)` of the loss of a defense under one key.

    Under the judging key and with the exact derivative it is the true replayed gradient;
    of a defense under a gradient rule, or under another key, it is a used one.
    """
    return jax.grad(lambda x: loss(defense(key, x), label))(x)


def eot_gradient(
    defense: Defense, loss: LossFn, keys: Any, x: Image, label: Label
) -> jax.Array:
    """The mean gradient `(H, W, C)` over keys `(k,)`, one after another."""
    total, _ = jax.lax.scan(
        lambda total, key: (total + loss_gradient(defense, loss, key, x, label), None),
        jnp.zeros_like(x),
        keys,
    )
    return total / keys.shape[0]


def alignment_along(
    true: Any, used: Mapping[str, Any], images: Image
) -> dict[str, Alignment]:
    """Alignments with the true gradient at each image of an attack's path.

    Args:
      true: `(x) -> gradient`, of one image.
      used: by name (bpda, surrogate, other key, EOT mean), functions of the same kind.
      images: `(steps, H, W, C)` the iterates.

    Returns:
      by name, an Alignment of `(steps,)`.
    """

    def at(x: Image) -> dict[str, Alignment]:
        exact = true(x)
        return {name: align(exact, gradient(x)) for name, gradient in used.items()}

    return jax.lax.map(at, images)


def eot_alignment(true: jax.Array, gradients: jax.Array, sizes: Sequence[int]) -> jax.Array:
    """Cosine of the replayed gradient with EOT means of other keys: `(len(sizes),)`.

    Args:
      true: `(H, W, C)` the gradient under the judging key.
      gradients: `(k, H, W, C)` those under keys that are not the judging key.
      sizes: numbers of draws n, 1 to k; each mean is of the first n.
    """
    if max(sizes) > len(gradients) or min(sizes) < 1:
        raise ValueError(f"EOT sizes {tuple(sizes)}, expected 1 to {len(gradients)}")
    sums = jnp.cumsum(gradients, 0)  # the mean's direction is all that a cosine sees
    return jnp.stack([align(true, sums[n - 1]).cosine for n in sizes])


class GradientSignal(NamedTuple):
    """Unbiased estimates, from independent keys, of what a gradient over keys consists of.

    Attributes:
      signal: `()` squared length of the mean gradient; may come out negative where it is
        small.
      noise: `()` trace of the covariance of one key's gradient.
    """

    signal: jax.Array
    noise: jax.Array


def gradient_signal(gradients: jax.Array) -> GradientSignal:
    """Signal and noise of gradients `(k, ...)`, k at least 2, of one image under k keys.

    The squared length of the sample mean is too large by noise / k; the mean over pairs of
    different keys of <g_i, g_j> is not.
    """
    k = len(gradients)
    if k < 2:
        raise ValueError(f"{k} gradients: noise over keys needs at least 2")
    flat = gradients.reshape(k, -1)
    mean = jnp.mean(flat, 0)
    noise = jnp.sum(jnp.square(flat - mean[None])) / (k - 1)
    return GradientSignal(jnp.sum(jnp.square(mean)) - noise / k, noise)


def signal_to_noise(
    signals: np.ndarray,
    noises: np.ndarray,
    sizes: Sequence[int],
    *,
    indices: np.ndarray | None = None,
) -> Result:
    """Signal-to-noise of the EOT mean of n draws: n signal / noise, over images.

    The signal is the squared length of the mean gradient, the noise the expected squared
    distance of a mean of n from it. Sums over images are divided (a ratio of one image may
    have next to nothing below it), and whole images resampled. `aligned` is the expected
    squared cosine with the mean gradient to first order: snr / (1 + snr), 0 where the
    signal comes out negative.

    Args:
      signals: `(n,)` of `gradient_signal`.
      noises: `(n,)`.
      sizes: numbers of EOT draws.
      indices: `(n,)` images' indices, for messages.
    """
    signals = require_finite("the gradient's signal", signals, indices)
    noises = require_finite("the gradient's noise", noises, indices)
    n = len(signals)
    weights = np.vstack([np.ones(n), resampling_weights(n, RESAMPLES)])
    if noises.sum() == 0:
        raise ValueError("the gradients do not vary over keys: nothing for EOT to average")
    below = weights @ noises
    ratio = np.divide(
        weights @ signals, below, np.full(len(below), np.inf), where=below > 0
    )
    columns: dict[str, np.ndarray] = {"draws": np.asarray(sizes)}
    by_size = np.asarray(sizes)[None] * ratio[:, None]
    kept = np.maximum(by_size, 0)
    aligned = np.where(np.isinf(kept), 1.0, 1 - 1 / (1 + kept))
    for name, values in {"snr": by_size, "aligned": aligned}.items():
        low, high = np.quantile(values[1:], [0.025, 0.975], axis=0)
        ends = (values[0], low, high)
        columns |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
    about = "squared mean gradient over the variance of a mean of n; bootstrap over images"
    return Result("gradient_snr", about, columns, {"images": n})


def alignment_curve(
    cosines: Mapping[str, np.ndarray], *, indices: np.ndarray | None = None
) -> Result:
    """Mean cosine by step for each used gradient, long form: `gradient`, `step`, `cosine`.

    Args:
      cosines: by name, `(n, steps)`.
      indices: `(n,)` images' indices, for messages.
    """
    names, steps, ends, images = [], [], [], 0
    for name, values in cosines.items():
        values = require_finite(f"the cosine of {name}", values, indices)
        images = len(values)
        names += [name] * values.shape[1]
        steps += list(range(values.shape[1]))
        ends.append(np.stack(bootstrap(values)))
    mean, low, high = np.concatenate(ends, 1)
    columns = {
        "gradient": np.array(names),
        "step": np.array(steps),
        "cosine": mean,
        "cosine_low": low,
        "cosine_high": high,
    }
    about = (
        "cosine with the exact gradient under the judging key, at each step of the attack"
    )
    return Result("gradient_cosine", about, columns, {"images": images})
