"""What a network is worth: accuracy, a denoiser's loss, what is right once purified."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure import models
from jaxpure.diffusion import Schedule
from jaxpure.errors import UserError
from jaxpure.keys import Key, defense_key, example_key
from jaxpure.training import with_noise
from jaxpure.types import Defense

HELD_OUT = 500  # test images that a denoiser's loss is told of
NOISED_TOGETHER = 50


def accuracy(
    network: models.Network, images: np.ndarray, labels: np.ndarray, batch_size: int
) -> float:
    """Share of `images` `(n, H, W, C)` in [0, 1] that the classifier gets right."""
    found = logits(network, images, batch_size)
    return float(np.mean(np.argmax(found, -1) == labels))


def logits(network: models.Network, images: np.ndarray, batch_size: int) -> np.ndarray:
    """A classifier's logits `(n, classes)` of `images` `(n, H, W, C)` in [0, 1]."""
    found = []
    for start in range(0, len(images), batch_size):
        x = images[start : start + batch_size]
        padded = np.zeros((batch_size, *x.shape[1:]), x.dtype)
        padded[: len(x)] = x
        found.append(np.asarray(_called(network, padded))[: len(x)])
    return np.concatenate(found)


@jax.jit
def _called(network: models.Network, x: jax.Array) -> jax.Array:
    return network(x)


def purified_right(
    defense: Defense,
    images: np.ndarray,
    labels: np.ndarray,
    indices: np.ndarray,
    batch_size: int,
) -> Iterator[np.ndarray]:
    """Which images a defense has right that nobody attacked, batch by batch.

    Under the keys that judge a run's clean accuracy: the first of each image, from
    `jax.random.key(0)`.

    Args:
      defense: `(key, x) -> logits` of one image.
      images: `(n, H, W, C)` in [0, 1].
      labels: `(n,)`.
      indices: `(n,)` of the images in their set, by which keys go.
      batch_size: images side by side.

    Yields:
      Booleans, of as many images as are in the batch.
    """
    for start in range(0, len(images), batch_size):
        places = np.arange(start, start + batch_size)
        taken = np.minimum(places, len(images) - 1)  # the last batch is filled up
        found = np.asarray(_judged(defense, indices[taken], images[taken]))
        right = np.argmax(found, -1) == labels[taken]
        yield right[places < len(images)]


@jax.jit
def _judged(defense: Defense, index: jax.Array, x: jax.Array) -> jax.Array:
    keys = jax.vmap(lambda i: defense_key(example_key(jax.random.key(0), i), 0))(index)
    return jax.vmap(defense)(keys, x)


def noise_loss(
    network: models.Network, images: np.ndarray, timestep: int | None = None
) -> float:
    """A denoiser's mean squared error of the predicted noise, under fixed keys.

    Args:
      network: a denoiser with what it was trained on.
      images: `(n, H, W, C)` in [0, 1]; of more than 50, whole batches of 50 are taken.
      timestep: at which images are noised; None means all that it was trained on, alike.

    Raises:
      UserError: it is not known what it was trained on.
    """
    signal, size = _signal_of(network), min(NOISED_TOGETHER, len(images))
    if timestep is not None:
        signal = signal[timestep : timestep + 1]
    first = 0 if timestep is None else timestep
    keys = jax.random.split(jax.random.key(1), len(images) // size)
    losses = [
        _loss_of_batch(network, images[i * size : (i + 1) * size], key, signal, first)
        for i, key in enumerate(keys)
    ]
    return float(np.mean(losses))


@jax.jit
def _loss_of_batch(
    network: models.Network, x: jax.Array, key: Key, signal: jax.Array, first: int
) -> jax.Array:
    t, noised, noise = with_noise(key, x, signal)
    predicted = network(noised, first + t)[..., : x.shape[-1]]  # the rest is the variance
    return jnp.mean(jnp.square(predicted - noise))


def loss_by_timestep(network: models.Network, images: np.ndarray) -> dict[str, float]:
    """`noise_loss` at each of `told_timesteps`, rounded to 5 digits, as cards have it."""
    return {
        str(t): round(noise_loss(network, images, t), 5) for t in told_timesteps(network)
    }


def told_timesteps(network: models.Network) -> list[int]:
    """Timesteps at which a denoiser's loss is told: 1, 3, 10, 30, ... of those it knows."""
    known = len(_signal_of(network))
    found = {t for e in range(4) for t in (10**e, 3 * 10**e)} | {known - 1}
    return sorted(t for t in found if t < known)


def _signal_of(network: models.Network) -> jax.Array:
    trained = network.trained
    if trained is None or not isinstance(trained.schedule, Schedule):
        raise UserError(f"it is not known on what schedule of noise {network} was trained")
    signal = trained.schedule.alphas_cumprod[: trained.timesteps]
    return jnp.asarray(signal, jnp.float32)
