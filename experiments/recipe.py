"""What a training config trains, and how: the network, its loss, and the updates."""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments import config as configs
from experiments.build import SEED_LIMIT
from jaxpure import data, models, optimizers, specs, training, weights
from jaxpure.attacks import Linf, Pgd
from jaxpure.diffusion import SCHEDULES, Schedule
from jaxpure.errors import UserError, check_in, check_range

TASKS = ("classifier", "denoiser")
DTYPES = ("float32", "float16")
DECAYS = ("cosine", "linear", "constant")
FITTED_ON = 5000  # images that a first layer is fitted to (Jordan 2024)


RANGES = {
    (1, math.inf): ("num_steps", "batch_size", "accumulation", "log_steps"),
    (0, 1): ("momentum", "muon_momentum", "ema_decay", "label_smoothing"),
    (0, SEED_LIMIT - 1): ("seed",),
    (0, math.inf): (
        *("learning_rate", "warmup_steps", "weight_decay", "ema_width", "grad_clip"),
        *("crop", "shift", "small_size", "small_steps", "max_timestep", "min_snr_gamma"),
        *("adversarial_eps_255", "adversarial_step_255", "adversarial_steps"),
        *("validation_steps", "kept_checkpoints", "checkpoint_seconds"),
    ),
}
"""What the numbers of a config may be: the least, the most."""


def check(config: configs.TrainConfig) -> None:
    """Raises UserError for what makes no sense, or does not fit together."""
    for (least, most), names in RANGES.items():
        numbers = {f"config.{name}": getattr(config, name) for name in names}
        check_range(least, most, **numbers)
    for what, known in (
        ("task", TASKS),
        ("stored_dtype", DTYPES),
        ("rate_decay", DECAYS),
        ("optimizer", OPTIMIZERS),
    ):
        check_in(f"config.{what}", getattr(config, what), known)
    _of_schedule(config)
    if config.num_steps <= config.warmup_steps:
        raise configs.ConfigError(
            f"num_steps={config.num_steps}, expected more than "
            f"warmup_steps={config.warmup_steps}"
        )
    every = config.data.test_every
    if every < 0 or every == 1:
        raise configs.ConfigError(
            f"config.data.test_every={every}, expected 0 for none, or at least 2"
        )
    if config.task == "denoiser" and config.adversarial_eps_255:
        raise configs.ConfigError(
            "adversarial_eps_255 is of classifiers: a denoiser has no class to be fooled in"
        )
    if config.alternate_flips and not (config.flip and config.passes):
        raise configs.ConfigError(
            "alternate_flips is of flips in epochs: set flip=true and passes=true"
        )
    if config.batch_size % config.accumulation:
        raise configs.ConfigError(
            f"batch_size={config.batch_size} is not a multiple of "
            f"accumulation={config.accumulation}"
        )


def network_and_loss(
    config: configs.TrainConfig, dataset: data.Dataset
) -> tuple[models.Network, training.Loss]:
    """The network as it begins, and what it is trained on."""
    height, width, channels = dataset.image_shape
    if config.crop > min(height, width):
        raise configs.ConfigError(
            f"config.crop={config.crop}, expected at most {min(height, width)}: images of "
            f"{dataset.name} are {height}x{width}"
        )
    architecture = specs.build(
        models.ARCHITECTURES,
        config.architecture,
        image_size=config.crop or height,
        in_channels=channels,
        out_channels=channels,
        num_classes=dataset.num_classes,
        compute_dtype=config.compute_dtype,
    )
    params = _initial_params(config, architecture, dataset)
    network = models.Network(architecture, params, _trained(config))
    if config.task == "classifier":
        return network, _classifier_loss(config)
    return network, partial(
        training.denoiser_loss,
        alphas_cumprod=signal_table(config),
        min_snr_gamma=config.min_snr_gamma,
    )


def _initial_params(
    config: configs.TrainConfig, architecture: Any, dataset: data.Dataset
) -> Any:
    """Of `initial_weights`, or new ones, with a first layer that the data give."""
    if config.initial_weights:
        begun = weights.load(config.initial_weights)
        begun = begun.replace(compute_dtype=config.compute_dtype)
        if begun.architecture != architecture:
            raise configs.ConfigError(
                f"config.initial_weights={config.initial_weights} is a "
                f"{begun.architecture}, expected config.architecture: {architecture}"
            )
        return begun.params
    params = models.create(architecture, jax.random.key(config.seed)).params
    if not hasattr(architecture, "fit"):
        return params
    some = data.take(dataset, slice(FITTED_ON))
    return architecture.fit(params, middle(some, config.crop).floats())


def middle(dataset: data.Dataset, size: int) -> data.Dataset:
    """The middle of each image, `size` pixels high and wide; all of it for 0."""
    if not size:
        return dataset
    top, left = ((n - size) // 2 for n in dataset.image_shape[:2])
    images = dataset.images[:, top : top + size, left : left + size]
    return dataclasses.replace(dataset, images=images)


def _classifier_loss(config: configs.TrainConfig) -> training.Loss:
    smoothing = {"label_smoothing": config.label_smoothing}
    if not config.adversarial_eps_255:
        return partial(training.classifier_loss, **smoothing)
    ball = {
        "eps": config.adversarial_eps_255 / 255,
        "step_size": config.adversarial_step_255 / 255,
        "num_steps": config.adversarial_steps,
    }
    try:
        Linf(ball["eps"])
        Pgd(step_size=ball["step_size"], num_steps=ball["num_steps"])
    except UserError as error:
        eps = config.adversarial_eps_255
        raise configs.ConfigError(
            f"config.adversarial_eps_255={eps:g}, adversarial training: {error}"
        ) from error
    return partial(training.robust_classifier_loss, **ball, **smoothing)


def _of_schedule(config: configs.TrainConfig) -> Schedule:
    try:
        return specs.build(SCHEDULES, config.schedule)
    except UserError as error:
        raise configs.ConfigError(f"config.schedule={config.schedule}: {error}") from error


def signal_table(config: configs.TrainConfig) -> jax.Array:
    """`alphas_cumprod` of the timesteps that the denoiser is trained on."""
    schedule = _of_schedule(config)
    signal = schedule.alphas_cumprod[: config.max_timestep or None]
    return jnp.asarray(signal, jnp.float32)


def _trained(config: configs.TrainConfig) -> models.Trained | None:
    """What a denoiser's user must know of its training."""
    if config.task == "classifier":
        return None
    return models.Trained(schedule=config.schedule, timesteps=len(signal_table(config)))


def optimizer(config: configs.TrainConfig) -> optax.GradientTransformation:
    """The updates: a rule with its rate, of gradients that are clipped where so asked."""
    rule = OPTIMIZERS[config.optimizer](config, _rate(config))
    if not config.grad_clip:
        return rule
    return optax.chain(optax.clip_by_global_norm(config.grad_clip), rule)


def _rate(config: configs.TrainConfig) -> optax.Schedule:
    peak, warmup = config.learning_rate, config.warmup_steps
    after = config.num_steps - warmup
    falling = {
        "cosine": optax.cosine_decay_schedule(peak, after),
        "linear": optax.linear_schedule(peak, 0.0, after),
        "constant": optax.constant_schedule(peak),
    }[config.rate_decay]
    if not warmup:
        return falling
    rising = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([rising, falling], [warmup])


def _rate_factors(config: configs.TrainConfig) -> dict[str, float]:
    try:
        pairs = specs.parse(f"rate({config.rate_factors})")
        if pairs.positional:
            raise ValueError(f"{pairs.positional[0]} has no name")
        return {name: float(factor) for name, factor in pairs.options.items()}
    except ValueError as error:
        raise configs.ConfigError(
            f"rate_factors={config.rate_factors!r}, expected name=factor,..."
        ) from error


def _sgd(config: configs.TrainConfig, rate: optax.Schedule):
    return optimizers.sgd(
        rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        rate_factors=_rate_factors(config),
    )


def _muon(config: configs.TrainConfig, rate: optax.Schedule):
    def kind(params):
        return jax.tree.map(lambda p: "conv" if p.ndim == 4 else "other", params)

    conv = optimizers.muon(rate, momentum=config.muon_momentum)
    return optax.multi_transform({"conv": conv, "other": _sgd(config, rate)}, kind)


OPTIMIZERS = {
    "adam": lambda config, rate: optax.adamw(rate, weight_decay=config.weight_decay),
    "sgd": _sgd,
    "muon": _muon,
}
