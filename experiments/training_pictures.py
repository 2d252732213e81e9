"""What a network can do, in pictures: samples of a denoiser, mistakes of a classifier."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxpure import measure, models
from jaxpure.data import Dataset
from jaxpure.diffusion import Chain, Ddim, Levels, Schedule, make_chain, mix, reverse
from jaxpure.diffusion.steps import predicted_clean
from jaxpure.keys import drawn, stream

SAMPLES = 12
DENOISED = 6  # images
LEAST_SIGNAL = 0.1  # share of the variance, at the highest noise level that is denoised
CHAIN_STEPS = 50  # at most: a page is made at every validation
BATCH = 500  # as validation takes, so that one program serves both
MISTAKES = 12
CONFUSIONS = 5


class Samples(NamedTuple):
    """Results of the reverse chain.

    Attributes:
      images: `(n, H, W, C)`.
      starts: `(n, H, W, C)` noised test images that the chains began at; None: they began
        at noise alone.
      steps: of each chain.
      timestep: at which each began.
    """

    images: np.ndarray
    starts: np.ndarray | None
    steps: int
    timestep: int


class Denoised(NamedTuple):
    """Test images at a noise level, and what one call of the denoiser makes of them.

    Attributes:
      timestep: of the level.
      signal: share of the variance that is the image's.
      noised: `(n, H, W, C)`.
      denoised: `(n, H, W, C)`.
    """

    timestep: int
    signal: float
    noised: np.ndarray
    denoised: np.ndarray


class Mistake(NamedTuple):
    """A test image that a classifier gets wrong.

    Attributes:
      index: of it in the test split.
      label: its class.
      says: the class that the classifier gives it.
      likelihood: the probability that it gives the true class.
      image: `(H, W, C)`.
    """

    index: int
    label: int
    says: int
    likelihood: float
    image: np.ndarray


class Mistakes(NamedTuple):
    """What a classifier gets wrong.

    Attributes:
      wrong: images that are.
      among: images.
      worst: the wrong ones whose true class it finds the least likely.
      confusions: `(label, says, images)`, the most frequent first.
    """

    wrong: int
    among: int
    worst: list[Mistake]
    confusions: list[tuple[int, int, int]]


def samples(denoiser: models.Network, images: np.ndarray) -> Samples:
    """DDIM samples: from noise, or from noised `images` where the denoiser knows no more.

    Args:
      denoiser: with what it was trained on.
      images: `(n, H, W, C)` of the test split.
    """
    schedule, timesteps = _knows(denoiser)
    first, x = timesteps - 1, 2 * jnp.asarray(images[:SAMPLES]) - 1
    keys = jax.random.split(jax.random.key(2), len(x))
    noise = _noise(keys, x.shape[1:])
    whole = timesteps == schedule.num_timesteps
    starts = noise if whole else mix(schedule.levels(first), x, noise)
    rule = Ddim(num_steps=min(CHAIN_STEPS, timesteps), clip=True)
    chain = make_chain(schedule, rule, first)
    found = _reversed(denoiser, chain, keys, starts)
    return Samples(
        _in_units_of_images(found),
        None if whole else _in_units_of_images(starts),
        len(chain),
        first,
    )


def denoised(denoiser: models.Network, images: np.ndarray) -> list[Denoised]:
    """Some of `images` `(n, H, W, C)` denoised in one call, at four noise levels.

    The highest is the last that the denoiser knows and that leaves a tenth of signal; the
    others are at a half, a quarter and an eighth of its timesteps.
    """
    schedule, timesteps = _knows(denoiser)
    top = min(timesteps, int(np.sum(schedule.alphas_cumprod > LEAST_SIGNAL)))
    x = 2 * jnp.asarray(images[:DENOISED]) - 1
    noise = _noise(jax.random.split(jax.random.key(3), len(x)), x.shape[1:])
    found = []
    for t in sorted({max(top >> i, 1) - 1 for i in range(4)}):
        levels = schedule.levels(t)
        noised = mix(levels, x, noise)
        clean = _clean(denoiser, levels, noised, t)
        found.append(
            Denoised(
                t, levels.signal**2, _in_units_of_images(noised), _in_units_of_images(clean)
            )
        )
    return found


def mistakes(classifier: models.Network, test: Dataset) -> Mistakes:
    """What a classifier gets wrong of some test images."""
    images = test.floats()
    logits = measure.logits(classifier, images, BATCH)
    logs = np.asarray(jax.nn.log_softmax(logits))
    true, says = logs[np.arange(len(test)), test.labels], np.argmax(logits, -1)
    wrong = np.flatnonzero(says != test.labels)
    worst = [
        Mistake(
            int(test.indices[i]),
            int(test.labels[i]),
            int(says[i]),
            float(np.exp(true[i])),
            images[i],
        )
        for i in wrong[np.argsort(true[wrong], kind="stable")][:MISTAKES]
    ]
    pairs, counts = np.unique(
        np.stack([test.labels[wrong], says[wrong]], 1), axis=0, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")[:CONFUSIONS]
    confusions = [(int(a), int(b), int(counts[i])) for i in order for a, b in [pairs[i]]]
    return Mistakes(len(wrong), len(test), worst, confusions)


def _knows(denoiser: models.Network) -> tuple[Schedule, int]:
    """The schedule that a denoiser was trained on, and the number of its timesteps."""
    trained = denoiser.trained
    assert trained is not None and not isinstance(trained.schedule, str | None)
    return trained.schedule, trained.timesteps or trained.schedule.num_timesteps


def _noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Where each image's noise begins: `(n, *shape)`."""
    starts = [stream(key, "start") for key in keys]
    return jnp.stack([drawn(jax.random.normal, key, shape) for key in starts])


def _in_units_of_images(x: ArrayLike) -> np.ndarray:
    return (np.asarray(x) + 1) / 2


@jax.jit
def _reversed(denoiser: models.Network, chain: Chain, keys: jax.Array, starts: jax.Array):
    def sample(key, start):
        return reverse(chain, denoiser, stream(key, "reverse"), start)

    return jax.vmap(sample)(keys, starts)


@jax.jit
def _clean(denoiser: models.Network, levels: Levels, noised: jax.Array, t: jax.Array):
    names = {"signal_level": levels.signal, "noise_level": levels.noise}
    noise = denoiser(noised, jnp.full(len(noised), t))
    return predicted_clean(names, noised, noise, clip=True)
