"""Trains a classifier or a denoiser: python -m experiments.train --config=NAME.

Leaves in the workdir `state.safetensors` (all of the run's progress), `loss.jsonl`, and at
the end the averaged weights `NAME.safetensors` and the last ones `NAME-raw.safetensors`,
each with a card. Kill it at any moment; the same command goes on where it was.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from ml_collections import config_flags

from experiments import config as configs
from experiments import program
from experiments.build import load_data
from jaxpure import checkpoints, data, models, training
from jaxpure.attacks.pgd import check_ball
from jaxpure.diffusion import schedules

_CONFIG = config_flags.DEFINE_config_dataclass(
    "config",
    configs.TrainConfig(),
    "Name of a training config.",
    parse_fn=partial(configs.by_name, kind=configs.TrainConfig),
)

TASKS = ("classifier", "denoiser")


def train(config: configs.TrainConfig, name: str, workdir: epath.Path) -> models.Network:
    """Trains to the end, or on from where `workdir` stands; returns the averaged net."""
    if config.task not in TASKS:
        raise configs.ConfigError(configs.unknown("task", config.task, TASKS))
    if config.num_steps <= config.warmup_steps:
        raise configs.ConfigError(
            f"num_steps={config.num_steps}, expected more than "
            f"warmup_steps={config.warmup_steps}"
        )
    if config.task == "denoiser" and config.adversarial_eps_255:
        raise configs.ConfigError(
            "adversarial_eps_255 is of classifiers: a denoiser has no class to be fooled in"
        )
    if config.stored_dtype not in ("float32", "float16"):
        raise configs.ConfigError(
            configs.unknown("stored_dtype", config.stored_dtype, ("float32", "float16"))
        )
    dataset = load_data(config.data, config.data.split)
    network, loss = _network_and_loss(config, dataset)
    optimizer = _optimizer(config)
    program.claim(workdir, name, config)
    mesh = jax.make_mesh(
        (jax.local_device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    step = training.make_step(
        network.config,
        loss,
        optimizer,
        batch_size=config.batch_size,
        augmentation=training.Augmentation(config.shift, config.flip),
        ema_decay=config.ema_decay,
        sharding=jax.sharding.NamedSharding(mesh, jax.P("data")),
    )
    state = training.init_state(network, optimizer)
    saved = workdir / "state.safetensors"
    if saved.exists():
        state = checkpoints.load_tree(saved, state)
        print(f"resuming {name} at step {int(state.step)}", flush=True)
    state, images, labels = jax.device_put(
        (state, dataset.images, dataset.labels),
        jax.sharding.NamedSharding(mesh, jax.P()),
    )
    print(f"training {network} on {len(dataset)} images of {dataset.name}", flush=True)
    state = _loop(config, step, state, images, labels, saved)

    averaged = models.Network(network.config, state.ema)
    last = models.Network(network.config, state.params)
    for suffix, result in (("", averaged), ("-raw", last)):
        card = _card(config, name + suffix, result, dataset, workdir)
        path = workdir / f"{name}{suffix}.safetensors"
        checkpoints.save(
            path, result.replace(compute_dtype="float32"), card, config.stored_dtype
        )
        print(f"{path}: {card['result']}", flush=True)
    return averaged


def _loop(
    config: configs.TrainConfig,
    step: Callable[..., Any],
    state: training.TrainState,
    images: jax.Array,
    labels: jax.Array,
    saved: epath.Path,
) -> training.TrainState:
    key = jax.random.key(config.seed)
    first = int(state.step)
    recent, last_saved = [], time.monotonic()
    with program.progress(config.num_steps, "step", initial=first) as bar:
        for i in range(first, config.num_steps):
            state, loss = step(state, key, images, labels)
            recent.append(loss)
            if len(recent) == 100 or i + 1 == config.num_steps:
                mean = float(jnp.mean(jnp.stack(recent)))
                if not np.isfinite(mean):
                    raise FloatingPointError(
                        f"loss is {mean} near step {i + 1}; lower config.learning_rate "
                        f"(the last good state is {saved})"
                    )
                bar.update(len(recent))
                bar.set_postfix_str(f"loss {mean:.4f}")
                _append_loss(saved.parent / "loss.jsonl", i + 1, mean)
                recent = []
                if time.monotonic() - last_saved > config.checkpoint_seconds:
                    checkpoints.save_tree(saved, state, {})
                    last_saved = time.monotonic()
    checkpoints.save_tree(saved, state, {})
    return state


def _append_loss(path: epath.Path, step: int, loss: float) -> None:
    """Adds a line; a resumed run drops the lines of steps that it takes again."""
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] < step]
    kept.append(json.dumps({"step": step, "loss": round(loss, 6)}))
    checkpoints.write_atomically(path, ("\n".join(kept) + "\n").encode())


def _network_and_loss(config: configs.TrainConfig, dataset: data.Dataset):
    height, _, channels = dataset.image_shape
    architecture = configs.build(
        "architecture",
        config.architecture,
        models.REGISTRY,
        image_size=height,
        in_channels=channels,
        out_channels=channels,
        num_classes=dataset.num_classes,
        compute_dtype=config.compute_dtype,
    )
    network = models.create(architecture, jax.random.key(config.seed))
    if config.task == "classifier":
        return network, _classifier_loss(config)
    return network, partial(training.denoiser_loss, alphas_cumprod=_signal_table(config))


def _classifier_loss(config: configs.TrainConfig) -> training.Loss:
    if not config.adversarial_eps_255:
        return training.classifier_loss
    ball = {
        "eps": config.adversarial_eps_255 / 255,
        "step_size": config.adversarial_step_255 / 255,
        "num_steps": config.adversarial_steps,
    }
    try:
        check_ball("linf", **ball)
    except ValueError as error:
        raise configs.ConfigError(f"adversarial training: {error}") from error
    return partial(training.robust_classifier_loss, **ball)


def _signal_table(config: configs.TrainConfig) -> jax.Array:
    """`alphas_cumprod` of the timesteps that the denoiser is trained on."""
    schedule = configs.build("schedule", config.schedule, schedules.SCHEDULES)
    signal = schedule.alphas_cumprod[: config.max_timestep or None]
    return jnp.asarray(signal, jnp.float32)


def _optimizer(config: configs.TrainConfig) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup_steps, config.num_steps
    )
    if config.optimizer == "adam":
        rule = optax.adamw(rate, weight_decay=config.weight_decay)
    elif config.optimizer == "sgd":
        rule = optax.chain(
            optax.add_decayed_weights(config.weight_decay),
            optax.sgd(rate, momentum=0.9, nesterov=True),
        )
    else:
        raise configs.ConfigError(
            configs.unknown("optimizer", config.optimizer, ("adam", "sgd"))
        )
    return optax.chain(optax.clip_by_global_norm(config.grad_clip), rule)


def _card(
    config: configs.TrainConfig,
    name: str,
    network: models.Network,
    dataset: data.Dataset,
    workdir: epath.Path,
) -> dict[str, Any]:
    claim = json.loads((workdir / "config.json").read_text())
    test = load_data(dataclasses.replace(config.data, num_examples=0), "test")
    if config.task == "classifier":
        score = training.accuracy(network, test.floats(), test.labels, 250)
        result = f"accuracy {score:.4f} on {len(test)} test images"
    else:
        value = _heldout_loss(config, network, test.floats()[:500])
        result = f"noise prediction loss {value:.5f} on the first 500 test images"
    card = {
        "name": name,
        "task": config.task,
        "data": f"{dataset.name}/{config.data.split}, {len(dataset)} images",
        "weights": "last step" if name.endswith("-raw") else "exponential moving average",
        "result": result,
        "training": configs.as_dict(config)
        | {"data": configs.as_dict(config.data) | {"data_dir": ""}},
        "steps": config.num_steps,
        "seed": config.seed,
        "trained_on": claim["devices"],
        "versions": claim["versions"],
        "licence": "Apache-2.0",
    }
    if config.task == "denoiser":
        known = len(_signal_table(config))
        card["diffusion"] = {"schedule": config.schedule, "timesteps": known}
    return card


def _heldout_loss(config, network, images: np.ndarray) -> float:
    """The denoiser's loss on images it was not trained on, under one fixed key."""
    table = _signal_table(config)
    loss = jax.jit(
        lambda params, x, key: training.denoiser_loss(
            network.config, params, x, None, key, alphas_cumprod=table
        )[0]
    )
    keys = jax.random.split(jax.random.key(1), len(images) // 50)
    batches = images[: len(keys) * 50].reshape(len(keys), 50, *images.shape[1:])
    return float(
        np.mean([loss(network.params, x, k) for x, k in zip(batches, keys, strict=True)])
    )


def main(argv: list[str]) -> None:
    program.no_positional(argv)
    config = _CONFIG.value
    name = program.config_name()
    workdir = program.workdir(name, config)
    train(config, name, workdir)


if __name__ == "__main__":
    program.launch(main, configs.TrainConfig, sys.argv)
