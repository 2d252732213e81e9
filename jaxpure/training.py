"""Training of classifiers and denoisers: losses, augmentation, one jitted step.

A training step is a pure function of `(state, data, key)`; batches are drawn with
replacement from the key of the step, so a resumed run sees what an unbroken one does.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpure import models
from jaxpure.attacks.pgd import Pgd
from jaxpure.defense import PurifiedClassifier
from jaxpure.models.network import batch_stats, bind
from jaxpure.purifiers.identity import Identity
from jaxpure.randomness import PRESETS, stream
from jaxpure.types import Key


class TrainState(NamedTuple):
    """All of a training run's progress.

    Attributes:
      step: `()` int32, updates made.
      params: the network's parameters and running statistics.
      ema: exponential moving average of `params`.
      opt_state: the optimizer's state.
    """

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any


Loss = Callable[[models.Architecture, Any, jax.Array, jax.Array, Key], Any]


def classifier_loss(config, params, images, labels, key):
    """Cross-entropy of a batch; returns `(loss, new running statistics)`.

    Args:
      config: the architecture.
      params: its parameters and running statistics.
      images: `(n, H, W, C)` in [0, 1].
      labels: `(n,)`.
      key: unused.
    """
    del key
    module = bind(config, params)
    logits = module(images, train=True)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses), batch_stats(module)


def robust_classifier_loss(
    config, params, images, labels, key, *, eps, step_size, num_steps
):
    """`classifier_loss` on images that PGD moved first (Madry et al. 2018, eq. 2.1).

    PGD in Linf from a random start attacks the classifier as it judges, on its running
    statistics; the update sees the statistics of the moved batch.

    Args:
      config, params, images, labels: as for `classifier_loss`.
      key: of the random starts; consumed.
      eps: radius of the ball, in units of the image's range [0, 1].
      step_size: length of a step.
      num_steps: updates of an image.
    """
    network = jax.lax.stop_gradient(models.Network(config, params))
    attack = Pgd.create(
        PurifiedClassifier(Identity(), network),
        PRESETS["fixed"],  # nothing is random here; "replay" would stop at the first hit
        eps=eps,
        step_size=step_size,
        num_steps=num_steps,
    )

    def attacked(key, x, label):
        state = attack.init(key, x, label)
        steps = attack.max_steps
        return jax.lax.fori_loop(0, steps, lambda _, s: attack.step(s), state).adversarial

    keys = jax.random.split(key, len(images))
    moved = jax.lax.stop_gradient(jax.vmap(attacked)(keys, images, labels))
    return classifier_loss(config, params, moved, labels, key)


def denoiser_loss(config, params, images, labels, key, *, alphas_cumprod):
    """Mean squared error of the predicted noise (Ho et al. 2020, eq. 14).

    Timesteps are uniform in `[0, num_timesteps)`; images are moved to [-1, 1].

    Args:
      config: the architecture.
      params: its parameters.
      images: `(n, H, W, C)` in [0, 1].
      labels: unused.
      key: consumed.
      alphas_cumprod: `(num_timesteps,)`.
    """
    del labels
    n = len(images)
    t = jax.random.randint(stream(key, "timestep"), (n,), 0, len(alphas_cumprod))
    noise = jax.random.normal(stream(key, "noise"), images.shape)
    signal = alphas_cumprod[t][:, None, None, None]
    noised = jnp.sqrt(signal) * (2 * images - 1) + jnp.sqrt(1 - signal) * noise
    predicted = bind(config, params)(noised, t)
    return jnp.mean(jnp.square(predicted - noise)), params["stats"]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images.

    Attributes:
      shift: images are moved by up to this many pixels each way, edges filled with 0.
      flip: images are mirrored left to right half of the time.
    """

    shift: int = 0
    flip: bool = False

    def __call__(self, key: Key, image: jax.Array) -> jax.Array:
        if self.shift:
            pad = [(self.shift, self.shift)] * 2 + [(0, 0)]
            top, left = jax.random.randint(
                stream(key, "shift"), (2,), 0, 2 * self.shift + 1
            )
            image = jax.lax.dynamic_slice(
                jnp.pad(image, pad), (top, left, jnp.zeros_like(top)), image.shape
            )
        if self.flip:
            mirrored = jax.random.bernoulli(stream(key, "flip"))
            image = jnp.where(mirrored, image[:, ::-1], image)
        return image


def init_state(
    network: models.Network, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state before the first step."""
    params = network.params
    ema = jax.tree.map(jnp.copy, params)
    opt_state = optimizer.init(params["params"])
    return TrainState(jnp.zeros((), jnp.int32), params, ema, opt_state)


def make_step(
    config: models.Architecture,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int,
    augmentation: Augmentation,
    ema_decay: float,
    sharding: jax.sharding.Sharding,
) -> Callable[[TrainState, Key, jax.Array, jax.Array], tuple[TrainState, jax.Array]]:
    """A jitted `(state, key, images, labels) -> (state, loss)`.

    Args:
      config: the architecture.
      loss: `classifier_loss` or `denoiser_loss`.
      optimizer: an optax transformation.
      batch_size: examples a step, over all devices.
      augmentation: applied to each image.
      ema_decay: of the averaged weights; early on `(1 + step) / (10 + step)` where
        that is smaller.
      sharding: how the batch is spread over devices.
    """

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, key: Key, images: jax.Array, labels: jax.Array):
        key = jax.random.fold_in(stream(key, "train"), state.step)
        chosen = jax.random.randint(stream(key, "batch"), (batch_size,), 0, len(labels))
        chosen = jax.lax.with_sharding_constraint(chosen, sharding)
        x, y = images[chosen], labels[chosen]
        if x.dtype == jnp.uint8:
            x = x.astype(jnp.float32) / 255
        keys = jax.random.split(stream(key, "augment"), batch_size)
        x = jax.vmap(augmentation)(keys, x)

        def objective(trainable):
            params = {**state.params, "params": trainable}
            return loss(config, params, x, y, stream(key, "loss"))

        trainable = state.params["params"]
        (value, stats), grads = jax.value_and_grad(objective, has_aux=True)(trainable)
        updates, opt_state = optimizer.update(grads, state.opt_state, trainable)
        params = {"params": optax.apply_updates(trainable, updates), "stats": stats}
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, params)
        return TrainState(state.step + 1, params, ema, opt_state), value

    return step


def accuracy(
    network: models.Network, images: np.ndarray, labels: np.ndarray, batch_size: int
) -> float:
    """Share of `images` `(n, H, W, C)` in [0, 1] that the classifier gets right."""
    predict = jax.jit(lambda network, x: jnp.argmax(network(x), -1))
    right = 0
    for start in range(0, len(labels), batch_size):
        x, y = images[start : start + batch_size], labels[start : start + batch_size]
        padded = np.zeros((batch_size, *x.shape[1:]), x.dtype)
        padded[: len(x)] = x
        right += int(np.sum(np.asarray(predict(network, padded))[: len(x)] == y))
    return right / len(labels)
