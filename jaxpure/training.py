"""Training of classifiers and denoisers: losses, augmentation, one jitted step.

A training step is a pure function of `(state, data, key)`; batches come from the key and
the number of the step, so a resumed run sees what an unbroken one does.
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
from jaxpure.attacks import Linf, Pgd, search
from jaxpure.defenses import PurifiedClassifier
from jaxpure.keys import Key, drawn, stream
from jaxpure.models.network import batch_stats, bind
from jaxpure.policy import PRESETS
from jaxpure.purifiers.identity import Identity


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


def classifier_loss(config, params, images, labels, key, *, label_smoothing=0.0):
    """Cross-entropy of a batch; returns `(loss, new running statistics)`.

    Args:
      config: the architecture.
      params: its parameters and running statistics.
      images: `(n, H, W, C)` in [0, 1].
      labels: `(n,)`.
      key: unused.
      label_smoothing: share of each label's weight that is spread over all classes.
    """
    del key
    module = bind(config, params)
    logits = module(images, train=True)
    if label_smoothing:
        targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        losses = optax.softmax_cross_entropy(
            logits, optax.smooth_labels(targets, label_smoothing)
        )
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses), batch_stats(module)


def robust_classifier_loss(
    config, params, images, labels, key, *, eps, step_size, num_steps, label_smoothing=0.0
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
      label_smoothing: as for `classifier_loss`, of the update; PGD climbs without it.
    """
    network = jax.lax.stop_gradient(models.Network(config, params))
    attack, ball = Pgd(step_size=step_size, num_steps=num_steps), Linf(eps)
    # Nothing is random here; "replay" would stop at the first hit.
    defense = PurifiedClassifier(Identity(), network)
    objective = attack.objective(defense, PRESETS["fixed"])

    def attacked(key, x, label):
        return search(attack, objective, ball, key, x, label).adversarial

    keys = jax.random.split(key, len(images))
    moved = jax.lax.stop_gradient(jax.vmap(attacked)(keys, images, labels))
    return classifier_loss(
        config, params, moved, labels, key, label_smoothing=label_smoothing
    )


def denoiser_loss(
    config, params, images, labels, key, *, alphas_cumprod, min_snr_gamma=0.0
):
    """Mean squared error of the predicted noise (Ho et al. 2020, eq. 14).

    Timesteps are uniform over the table; images are moved to [-1, 1].

    Args:
      config: the architecture.
      params: its parameters.
      images: `(n, H, W, C)` in [0, 1].
      labels: unused.
      key: consumed.
      alphas_cumprod: `(num_timesteps,)`.
      min_snr_gamma: weighs timesteps by `min_snr_weights`; 0 weighs all alike.
    """
    del labels
    t, noised, noise = with_noise(key, images, alphas_cumprod)
    predicted = bind(config, params)(noised, t)
    errors = jnp.mean(jnp.square(predicted - noise), (1, 2, 3))
    if min_snr_gamma:
        errors *= min_snr_weights(alphas_cumprod, min_snr_gamma)[t]
    return jnp.mean(errors), params["stats"]


def with_noise(key, images, alphas_cumprod):
    """Timesteps `(n,)`, images noised to them, and the noise.

    Timesteps are uniform over the table; images `(n, H, W, C)` are moved to [-1, 1].
    """
    n = len(images)
    t = jax.random.randint(stream(key, "timestep"), (n,), 0, len(alphas_cumprod))
    noise = drawn(jax.random.normal, stream(key, "noise"), images.shape)
    signal = alphas_cumprod[t][:, None, None, None]
    noised = jnp.sqrt(signal) * (2 * images - 1) + jnp.sqrt(1 - signal) * noise
    return t, noised, noise


def min_snr_weights(alphas_cumprod: jax.Array, gamma: float) -> jax.Array:
    """`min(SNR, gamma) / SNR` of each timestep (Hang et al. 2023, arXiv:2303.09556).

    For a loss of the predicted noise. Little noise, whose error hardly moves the image, is
    weighed down; timesteps with a signal-to-noise ratio below `gamma` keep weight 1.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return jnp.minimum(snr, gamma) / snr


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images.

    Attributes:
      shift: images are moved by up to this many pixels each way.
      flip: images are mirrored left to right half of the time.
      reflect: what a shift uncovers is the image mirrored at its edge, and not 0.
      crop: height and width of a random part that is taken; 0 for the whole image.
    """

    shift: int = 0
    flip: bool = False
    reflect: bool = False
    crop: int = 0

    def __call__(
        self, key: Key, image: jax.Array, mirrored: jax.Array | None = None
    ) -> jax.Array:
        """One image `(H, W, C)`, cropped, moved and mirrored.

        Args:
          key: consumed.
          image: what to augment.
          mirrored: `()` bool, where `flip` is decided elsewhere (see `mirrored_in`).
        """
        if self.crop:
            size = (self.crop, self.crop, image.shape[-1])
            most = jnp.array([image.shape[0] - self.crop, image.shape[1] - self.crop])
            top, left = jax.random.randint(stream(key, "crop"), (2,), 0, most + 1)
            image = jax.lax.dynamic_slice(image, (top, left, jnp.zeros_like(top)), size)
        if self.shift:
            pad = [(self.shift, self.shift)] * 2 + [(0, 0)]
            top, left = jax.random.randint(
                stream(key, "shift"), (2,), 0, 2 * self.shift + 1
            )
            padded = jnp.pad(image, pad, mode="reflect" if self.reflect else "constant")
            image = jax.lax.dynamic_slice(
                padded, (top, left, jnp.zeros_like(top)), image.shape
            )
        if self.flip:
            if mirrored is None:
                mirrored = jax.random.bernoulli(stream(key, "flip"))
            image = jnp.where(mirrored, image[:, ::-1], image)
        return image


def mirrored_in(key: Key, epoch: jax.Array, num_examples: int) -> jax.Array:
    """Which of the images `(num_examples,)` are mirrored in an epoch, flips alternating.

    At random in the first epoch, and from then on always the other way than in the one
    before: two epochs show every image both ways (Jordan 2024, section 3.6).
    """
    first = jax.random.bernoulli(stream(key, "mirrored"), shape=(num_examples,))
    return first ^ (epoch % 2 == 1)


def batch_of_pass(
    key: Key, step: jax.Array, num_examples: int, batch_size: int
) -> tuple[jax.Array, jax.Array]:
    """`(indices (batch_size,), epoch ())` of a step where epochs are shuffled passes.

    Each epoch is a permutation of its own, cut into whole batches; the remainder is left
    out of it.
    """
    batches = num_examples // batch_size
    epoch = step // batches
    order = jax.random.permutation(
        jax.random.fold_in(stream(key, "passes"), epoch), num_examples
    )
    start = (step % batches) * batch_size
    return jax.lax.dynamic_slice(order, (start,), (batch_size,)), epoch


def power_decay(step: jax.Array, relative_width: float) -> jax.Array:
    """What a power-function average keeps at an update (Karras et al. 2024, eq. 127).

    The average's weight of step i grows as a power of i, so that its horizon is a fixed
    share of the steps made, however many these are. Keeps nothing at the first.

    Args:
      step: updates made before this one.
      relative_width: standard deviation of that weight over the number of steps; 0.05 to
        0.15 are usual, and less than 0.28 is possible.
    """
    gamma = _power_of_width(relative_width)
    return (1 - 1 / (step + 1.0)) ** (gamma + 1)


def _power_of_width(relative_width: float) -> float:
    """gamma with `sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)) = relative_width`.

    The largest root of the cubic that this is (Karras et al. 2024, algorithm 2).
    """
    if not 0 < relative_width < 0.28:
        raise ValueError(
            f"the average's relative width is {relative_width}, expected more than 0 and "
            "less than 0.28"
        )
    inverse = relative_width**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(np.max(roots.real))


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
    ema_width: float = 0.0,
    passes: bool = False,
    alternate_flips: bool = False,
    image_size: int = 0,
    accumulation: int = 1,
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
      ema_width: relative width of `power_decay`, in place of `ema_decay`; 0 for that.
      passes: epochs are shuffled passes; else batches are drawn with replacement.
      alternate_flips: mirrored images by `mirrored_in`; needs `passes`.
      image_size: images are resized to it after augmentation; 0 leaves them.
      accumulation: the batch's gradient is the mean over so many equal parts of it, one
        after another, in a fraction of the memory. Statistics of a batch are of a part.
    """
    if batch_size % accumulation:
        raise ValueError(f"{batch_size=} is not a multiple of {accumulation=}")

    def batch(state, key, images, labels):
        """Images and labels, `(accumulation, batch_size / accumulation, ...)`."""
        step_key = jax.random.fold_in(stream(key, "train"), state.step)
        mirrored = None
        if passes:
            chosen, epoch = batch_of_pass(key, state.step, len(labels), batch_size)
            if alternate_flips:
                mirrored = mirrored_in(key, epoch, len(labels))[chosen]
        else:
            draw = stream(step_key, "batch")
            chosen = jax.random.randint(draw, (batch_size,), 0, len(labels))
        chosen = jax.lax.with_sharding_constraint(chosen, sharding)
        x, y = images[chosen], labels[chosen]
        if x.dtype == jnp.uint8:
            x = x.astype(jnp.float32) / 255
        keys = jax.random.split(stream(step_key, "augment"), batch_size)
        x = jax.vmap(augmentation)(keys, x, mirrored)
        if image_size:
            shape = (batch_size, image_size, image_size, x.shape[-1])
            x = jax.image.resize(x, shape, "linear")
        return x, y, stream(step_key, "loss")

    def gradient(params, x, y, key):
        def objective(trainable):
            return loss(config, {**params, "params": trainable}, x, y, key)

        return jax.value_and_grad(objective, has_aux=True)(params["params"])

    def accumulated(params, x, y, key):
        """The mean over parts, which are strided so that each is on all devices."""
        x, y = (
            jnp.moveaxis(a.reshape(-1, accumulation, *a.shape[1:]), 1, 0) for a in (x, y)
        )
        zeros = jax.tree.map(jnp.zeros_like, params["params"])

        def body(carry, part):
            value, stats, grads = carry
            now = {**params, "stats": stats}
            (one, stats), more = gradient(now, *part)
            return (value + one, stats, jax.tree.map(jnp.add, grads, more)), None

        start = (jnp.zeros(()), params["stats"], zeros)
        keys = jax.random.split(key, accumulation)
        (value, stats, grads), _ = jax.lax.scan(body, start, (x, y, keys))
        grads = jax.tree.map(lambda g: g / accumulation, grads)
        return (value / accumulation, stats), grads

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, key: Key, images: jax.Array, labels: jax.Array):
        x, y, key = batch(state, key, images, labels)
        compute = gradient if accumulation == 1 else accumulated
        (value, stats), grads = compute(state.params, x, y, key)
        trainable = state.params["params"]
        updates, opt_state = optimizer.update(grads, state.opt_state, trainable)
        params = {"params": optax.apply_updates(trainable, updates), "stats": stats}
        if ema_width:
            decay = power_decay(state.step, ema_width)
        else:
            decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, params)
        return TrainState(state.step + 1, params, ema, opt_state), value

    return step
