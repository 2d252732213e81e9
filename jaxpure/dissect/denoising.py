"""Does purification denoise? What becomes of an image and its perturbation, step by step.

Distances to the clean image (the 2025 submission's Fig. 1c, d), similarity (its SSIM), the
share of the adversarial direction that is left (the seed's Fig. 3c and 4a), the
classifier's margin.

The forward phase is drawn level by level under the one forward noise of the purification:
the state at level t is sqrt(abar_t) x + sqrt(1 - abar_t) noise. DiffPure itself jumps to
the last level in one go. A chain of small forward steps with noise of their own ends in the
same distribution, but not in the same state, and it is this state that the reverse phase
starts from.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure.diffusion import Chain, add_noise, reverse_states
from jaxpure.dissect.draws import PartKeys, noise_at, part
from jaxpure.dissect.similarity import ssim
from jaxpure.keys import Key, drawn
from jaxpure.types import Classifier, Image, Label, Purifier


class Path(NamedTuple):
    """All states of a purification, the image itself first, the purified image last.

    Attributes:
      states: `(m, H, W, C)` in the units of images, [0, 1] plus noise.
      signal: `(m,)` the signal's share of the variance at each, 1 at both ends.
      forward: `(m,)` bool, whether the state is of the forward phase (the image counts).
    """

    states: jax.Array
    signal: jax.Array
    forward: jax.Array


def path(purifier: Any, key: Key | PartKeys, x: Image) -> Path:
    """The states of DiffPure or of RevPure on one image under one key.

    DiffPure with n reverse steps has 2n + 1: the image, n levels up (the last of which is
    where the reverse phase starts), n levels down. RevPure has no forward phase: n + 1 (and
    the signal's share is what its denoiser is told, not what was done to the image).

    Args:
      purifier: a DiffPure of one round, or a RevPure.
      key: as the purifier takes it; its own result under this key is the last state.
      x: `(H, W, C)` in [0, 1].

    Raises:
      ValueError: a purifier that has no such states.
    """
    chain = getattr(purifier, "chain", None)
    if not isinstance(chain, Chain) or getattr(purifier, "rounds", 1) != 1:
        raise ValueError(
            f"{type(purifier).__name__} has no path: expected a DiffPure with rounds=1, or "
            "a RevPure; leave the section along the chain out for this one"
        )
    x = 2 * x - 1
    below = jnp.asarray(chain.signal, x.dtype)
    if hasattr(purifier, "signal"):
        top = jnp.asarray(purifier.signal, x.dtype)[None]
        up = jnp.concatenate([below[::-1], top])
        noise = noise_at(part(key, "forward"), 0, x)
        before = jax.vmap(add_noise, (0, None, None))(up, x, noise)
    else:
        up = jnp.ones(1, x.dtype)
        before = (jnp.asarray(purifier.scale, x.dtype) * x)[None]
    reverse_key = jax.random.fold_in(part(key, "reverse"), 0)
    after = reverse_states(chain, purifier.denoiser, reverse_key, before[-1])
    forward = jnp.arange(len(up) + len(below)) < len(up)
    states = jnp.concatenate([before, after])
    return Path((states + 1) / 2, jnp.concatenate([up, below]), forward)


def rescaled(states: jax.Array, signal: jax.Array) -> jax.Array:
    """States with the shrinking of the signal undone: on the way up, x plus noise.

    Args:
      states: `(m, H, W, C)` in the units of images.
      signal: `(m,)` the signal's share of the variance.
    """
    factor = jax.lax.rsqrt(signal).reshape(-1, *([1] * (states.ndim - 1)))
    return ((2 * states - 1) * factor + 1) / 2


class Distances(NamedTuple):
    """How far each state is from an image: `(m,)` each; L2 and Linf in [0, 1] units."""

    l2: jax.Array
    linf: jax.Array
    ssim: jax.Array


def distances(states: jax.Array, clean: Image) -> Distances:
    """L2, Linf and SSIM of states `(m, H, W, C)` to the clean image `(H, W, C)`.

    Relation 6 expects, from the attacked to the purified image, L2 and Linf to grow and
    SSIM to fall; along the chain up while forward, partly down while reverse.
    """
    away = states - clean[None]
    axes = tuple(range(1, states.ndim))
    return Distances(
        jnp.sqrt(jnp.sum(jnp.square(away), axes)),
        jnp.max(jnp.abs(away), axes),
        jax.vmap(lambda state: ssim(state, clean))(states),
    )


class Projection(NamedTuple):
    """A displacement against a direction d, in units of d's length: `(m,)` each.

    Attributes:
      along: <displacement, d> / <d, d>. It is 1 at the attacked image.
      orthogonal: length of what is orthogonal to d, over the length of d.
    """

    along: jax.Array
    orthogonal: jax.Array


def project(displacements: jax.Array, direction: jax.Array) -> Projection:
    """Displacements `(m, H, W, C)` split along a direction `(H, W, C)` and across it.

    A direction of length zero is NaN: there is nothing to project on.
    """
    flat = displacements.reshape(len(displacements), -1)
    d = direction.reshape(-1)
    squared = jnp.sum(jnp.square(d))
    along = flat @ d / squared
    across = flat - along[:, None] * d[None]
    return Projection(along, jnp.sqrt(jnp.sum(jnp.square(across), 1) / squared))


class Fate(NamedTuple):
    """What becomes of a perturbation along a purification.

    Attributes:
      path: states of the perturbed image.
      distances: of those to the clean image.
      projection: of state minus clean image on the perturbation (the seed's Fig. 3c). A
        mean over keys shows what the noise does not hide.
      paired: projection of the state minus the clean image's own state under the same key,
        where the noise cancels: exactly sqrt(abar_t) while forward, zero across.
      margin: `(m,)` the true logit minus the best other at each state, positive where the
        classifier is right; NaN logits give NaN.
    """

    path: Path
    distances: Distances
    projection: Projection
    paired: Projection
    margin: jax.Array


def fate(
    purifier: Purifier,
    classifier: Classifier,
    key: Key | PartKeys,
    clean: Image,
    perturbation: jax.Array,
    label: Label,
    *,
    rescale: bool = False,
) -> Fate:
    """Follows one perturbed image through its purification (relations 6 and 7).

    The perturbation may be an attack's or a random one of the same length; the paper's
    point is the difference between the two.

    Args:
      purifier: a DiffPure of one round or a RevPure.
      classifier: `(x) -> logits`.
      key: of the purification.
      clean: `(H, W, C)` in [0, 1].
      perturbation: `(H, W, C)` what was added to it.
      label: `()` true class.
      rescale: compare the states with the signal's shrinking undone (see `rescaled`).
    """
    whole = path(purifier, key, clean + perturbation)
    own = path(purifier, key, clean)
    states, reference = whole.states, own.states
    if rescale:
        states, reference = rescaled(states, whole.signal), rescaled(reference, own.signal)
    logits = jax.lax.map(classifier, states)
    return Fate(
        whole._replace(states=states),
        distances(states, clean),
        project(states - clean[None], perturbation),
        project(states - reference, perturbation),
        jax.vmap(margin, (0, None))(logits, label),
    )


def margin(logits: jax.Array, label: Label) -> jax.Array:
    """The true logit minus the best other, of `(classes,)`; NaN unless all are finite."""
    others = jnp.where(jnp.arange(len(logits)) == label, -jnp.inf, logits)
    value = logits[label] - jnp.max(others)
    return jnp.where(jnp.all(jnp.isfinite(logits)), value, jnp.nan)


def random_like(key: Key, perturbation: jax.Array) -> jax.Array:
    """A perturbation of the same L2 length in a direction drawn evenly from the sphere."""
    noise = drawn(jax.random.normal, key, perturbation.shape, perturbation.dtype)
    length = jnp.sqrt(jnp.sum(jnp.square(perturbation)) / jnp.sum(jnp.square(noise)))
    return noise * length


def steps_of(whole: Path) -> dict[str, np.ndarray]:
    """Columns that describe the states of one path, for `results.summarise`."""
    forward = np.asarray(whole.forward)
    return {
        "step": np.arange(len(forward)),
        "phase": np.where(forward, "forward", "reverse"),
        "signal": np.asarray(whole.signal, np.float64),
    }
