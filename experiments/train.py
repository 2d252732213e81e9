"""Trains a classifier or a denoiser: python -m experiments.train --config=NAME.

Leaves in the workdir `state.safetensors` (all of the run's progress), `loss.jsonl`,
`validation.csv`, `report.html`, TensorBoard's `events/`, weights kept along the way in
`kept/`, and at the end the averaged weights `NAME.safetensors` and the last ones
`NAME-raw.safetensors`, each with a card. Kill it at any moment; the same command goes on
where it was. `--export` writes the weights and the report of the run as it stands and
trains no further.
"""

import dataclasses
import functools
import json
import math
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from experiments import config as configs
from experiments import events, program, throughput, training_log, training_page
from experiments.arguments import Arguments, Flag
from experiments.build import SEED_LIMIT, load_data
from jaxpure import data, models, optimizers, specs, training, weights
from jaxpure.attacks import Linf, Pgd
from jaxpure.diffusion import SCHEDULES, Schedule
from jaxpure.errors import UserError, check_in, check_range
from jaxpure.evaluation import lock
from jaxpure.evaluation.identity import arrays_digest, digest_of
from jaxpure.files import clear_unfinished

FLAGS = (
    Flag("export", "writes the weights of the run as it stands, and stops", bool, False),
)

TASKS = ("classifier", "denoiser")
DTYPES = ("float32", "float16")
DECAYS = ("cosine", "linear", "constant")
VALIDATED_ON = 2000  # images of the test split; a card tells what all of it gives
HELD_OUT = 500  # of them, for a denoiser's loss
FITTED_ON = 5000  # images that a first layer is fitted to (Jordan 2024)


def train(
    config: configs.TrainConfig, arguments: Arguments, workdir: epath.Path
) -> models.Network:
    """Trains to the end, or on from where `workdir` stands; returns the averaged net.

    Args:
      config: what to train.
      arguments: the command line; the config's name is that of the files of weights, and
        `export` writes the weights as they stand and trains no further.
      workdir: where progress is kept.
    """
    name, export = str(arguments.config), arguments.export
    _check(config)
    dataset = load_data(config.data, config.data.split)
    test = load_data(dataclasses.replace(config.data, num_examples=0), "test")
    network, loss = _network_and_loss(config, dataset)
    optimizer = _optimizer(config)
    program.claim(workdir, arguments, config)
    mesh = jax.make_mesh(
        (jax.local_device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    make_step = partial(
        training.make_step,
        network.architecture,
        loss,
        optimizer,
        batch_size=config.batch_size,
        augmentation=training.Augmentation(config.shift, config.flip, config.reflect),
        ema_decay=config.ema_decay,
        ema_width=config.ema_width,
        passes=config.passes,
        alternate_flips=config.alternate_flips,
        accumulation=config.accumulation,
        sharding=jax.sharding.NamedSharding(mesh, jax.P("data")),
    )
    run = _Run(config, name, network, dataset, test, workdir, mesh)
    state = training.init_state(network, optimizer)
    saved = workdir / "state.safetensors"
    if saved.exists():
        _check_belongs(run, saved)
        state = weights.load_tree(saved, state)
        print(f"resuming {name} at step {int(state.step)}", flush=True)
    elif export:
        raise configs.ConfigError(f"{workdir} holds no state to export")
    if not export and int(state.step) < config.num_steps:
        state, images, labels = jax.device_put(
            (state, dataset.images, dataset.labels),
            jax.sharding.NamedSharding(mesh, jax.P()),
        )
        print(f"training {network} on {len(dataset)} images of {dataset.name}", flush=True)
        steps = {size: make_step(image_size=size) for size in {0, config.small_size}}
        state = _loop(run, steps, state, images, labels)
    return _write_weights(run, state)


RANGES = {
    (1, math.inf): ("num_steps", "batch_size", "accumulation", "log_steps"),
    (0, 1): ("momentum", "muon_momentum", "ema_decay", "label_smoothing"),
    (0, SEED_LIMIT - 1): ("seed",),
    (0, math.inf): (
        *("learning_rate", "warmup_steps", "weight_decay", "ema_width", "grad_clip"),
        *("shift", "small_size", "small_steps", "max_timestep", "min_snr_gamma"),
        *("adversarial_eps_255", "adversarial_step_255", "adversarial_steps"),
        *("validation_steps", "kept_checkpoints", "checkpoint_seconds"),
    ),
}
"""What the numbers of a config may be: the least, the most."""


def _check(config: configs.TrainConfig) -> None:
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


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the loop needs to tell how a run goes."""

    config: configs.TrainConfig
    name: str
    network: models.Network
    dataset: data.Dataset
    test: data.Dataset
    workdir: epath.Path
    mesh: jax.sharding.Mesh

    @functools.cached_property
    def stamp(self) -> dict[str, str]:
        """What a state of this training says of itself: whose it is."""
        config = json.dumps(program.identity(self.config), sort_keys=True)
        data = {"images": self.dataset.images, "labels": self.dataset.labels}
        return {
            "config": digest_of(config.encode()),
            "training data": arrays_digest(data),
        }


def _check_belongs(run: _Run, saved: epath.Path) -> None:
    """Raises ConfigError for a state of another training."""
    found = weights.metadata(saved)
    wrong = [name for name, ours in run.stamp.items() if found.get(name) != ours]
    if wrong:
        raise configs.ConfigError(
            f"{saved} is of another training (they differ in {' and '.join(wrong)}); "
            "restore that, or choose another --workdir"
        )


def _loop(
    run: _Run,
    steps: dict[int, Any],
    state: training.TrainState,
    images: jax.Array,
    labels: jax.Array,
) -> training.TrainState:
    config, saved = run.config, run.workdir / "state.safetensors"
    key = jax.random.key(config.seed)
    first = int(state.step)
    kept = _kept_steps(config)
    rate, costs = throughput.matmul_rate(run.mesh, config.compute_dtype), {}
    log = training_log.TrainingLog(
        run.workdir, config.batch_size, events.begin(run.workdir), first
    )
    with program.progress(config.num_steps, "step", initial=first) as bar:
        for i in range(first, config.num_steps):
            size = config.small_size if i < config.small_steps else 0
            if size not in costs:
                with log.aside():  # it compiles the step
                    flops = _flops(run, steps[size], state, key, images, labels)
                costs[size] = None if flops is None else flops / rate
            state, loss = steps[size](state, key, images, labels)
            log.add(loss, costs[size])
            done = i + 1
            due = done % config.log_steps == 0 or done == config.num_steps
            if due:
                mean, pace = log.write(done)
                if not np.isfinite(mean):
                    raise FloatingPointError(
                        f"loss is {mean} near step {done}; lower config.learning_rate "
                        f"(the last good state is {saved})"
                    )
                bar.update(done - bar.n)
                bar.set_postfix_str(f"loss {mean:.4f}, {pace.text(config.batch_size)}")
            if config.validation_steps and (
                done % config.validation_steps == 0 or done in kept
            ):
                with log.aside():
                    row = _validate(run, state)
                    log.validation(done, row)
                    _write_page(run, state, log.pace)
                told = ", ".join(f"{k} {v:.4f}" for k, v in row.items())
                print(f"step {done}: {told}", flush=True)
            if done in kept:
                with log.aside():
                    _keep(run, state)
            if due and log.seconds_since_saved() > config.checkpoint_seconds:
                with log.aside():
                    weights.save_tree(saved, state, run.stamp)
                log.saved()
    weights.save_tree(saved, state, run.stamp)
    log.saved()
    return state


def _flops(run: _Run, step: Any, *args: Any) -> float | None:
    """FLOPs of an update; of adversarial training they are not known.

    XLA counts the body of a loop once: PGD's steps are one, as are the parts of an
    accumulated batch.
    """
    step.lower(*args).compile()  # aside, and not again when the step is made
    if run.config.adversarial_eps_255:
        return None
    found = throughput.flops(step, *args)
    return None if found is None else run.config.accumulation * found


def _kept_steps(config: configs.TrainConfig) -> set[int]:
    """A half, a quarter, ... of the steps, and all of them."""
    return {config.num_steps >> i for i in range(config.kept_checkpoints)} - {0}


def _keep(run: _Run, state: training.TrainState) -> None:
    """Leaves the weights of a step along the way, averaged and raw."""
    for suffix, params in (("", state.ema), ("-raw", state.params)):
        name = f"{run.name}-{int(state.step):07d}{suffix}.safetensors"
        _store(run.config, run.workdir / "kept" / name, _with(run.network, params), {})


def _validate(run: _Run, state: training.TrainState) -> dict[str, float]:
    """What the weights of a state are worth on the test split's first images."""
    test = _first(run.test, VALIDATED_ON)
    row = {}
    for suffix, params in (("averaged", state.ema), ("raw", state.params)):
        network = _with(run.network, params)
        if run.config.task == "classifier":
            value = training.accuracy(network, test.floats(), test.labels, 500)
            row[f"accuracy_{suffix}"] = value
        else:
            row[f"loss_{suffix}"] = _heldout_loss(run.config, network, test)
    return row


def _write_weights(run: _Run, state: training.TrainState) -> models.Network:
    averaged = _with(run.network, state.ema)
    last = _with(run.network, state.params)
    pace, results = throughput.load(run.workdir), []
    for suffix, network in (("", averaged), ("-raw", last)):
        card = _card(run, run.name + suffix, network, int(state.step), pace)
        path = run.workdir / f"{run.name}{suffix}.safetensors"
        _store(run.config, path, network, card)
        print(f"{path}: {card['result']}", flush=True)
        results.append(card["result"])
    _write_page(run, state, pace, results[0])
    print(f"report: {run.workdir / training_page.NAME}", flush=True)
    return averaged


def _write_page(
    run: _Run, state: training.TrainState, pace: throughput.Pace, result: str = ""
) -> None:
    """Writes the report of a run as it stands; `result` is the averaged weights'."""
    training_page.write(
        run.workdir,
        training_page.Story(
            name=run.name,
            config=run.config,
            network=_with(run.network, state.ema),
            dataset=run.dataset,
            test=_first(run.test, VALIDATED_ON),
            step=int(state.step),
            pace=pace,
            result=result,
        ),
    )


def _first(dataset: data.Dataset, n: int) -> data.Dataset:
    return data.take(dataset, np.arange(min(n, len(dataset))))


def _with(network: models.Network, params: Any) -> models.Network:
    """The network with other parameters."""
    return models.Network(network.architecture, params, network.trained)


def _store(config, path: epath.Path, network: models.Network, card: dict[str, Any]):
    network = network.replace(compute_dtype="float32")
    weights.save(path, network, card, config.stored_dtype)


def _network_and_loss(config: configs.TrainConfig, dataset: data.Dataset):
    height, _, channels = dataset.image_shape
    architecture = specs.build(
        models.ARCHITECTURES,
        config.architecture,
        image_size=height,
        in_channels=channels,
        out_channels=channels,
        num_classes=dataset.num_classes,
        compute_dtype=config.compute_dtype,
    )
    network = models.create(architecture, jax.random.key(config.seed))
    if hasattr(architecture, "fit"):  # a first layer that the data give
        some = dataclasses.replace(dataset, images=dataset.images[:FITTED_ON]).floats()
        network = models.Network(architecture, architecture.fit(network.params, some))
    network = models.Network(architecture, network.params, _trained(config))
    if config.task == "classifier":
        return network, _classifier_loss(config)
    return network, partial(
        training.denoiser_loss,
        alphas_cumprod=_signal_table(config),
        min_snr_gamma=config.min_snr_gamma,
    )


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


def _signal_table(config: configs.TrainConfig) -> jax.Array:
    """`alphas_cumprod` of the timesteps that the denoiser is trained on."""
    schedule = _of_schedule(config)
    signal = schedule.alphas_cumprod[: config.max_timestep or None]
    return jnp.asarray(signal, jnp.float32)


def _trained(config: configs.TrainConfig) -> models.Trained | None:
    """What a denoiser's user must know of its training."""
    if config.task == "classifier":
        return None
    return models.Trained(schedule=config.schedule, timesteps=len(_signal_table(config)))


def _optimizer(config: configs.TrainConfig) -> optax.GradientTransformation:
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


def _card(
    run: _Run, name: str, network: models.Network, steps: int, pace: throughput.Pace
) -> dict[str, Any]:
    config, dataset, test = run.config, run.dataset, run.test
    claim = json.loads((run.workdir / "config.json").read_text())
    if config.task == "classifier":
        score = training.accuracy(network, test.floats(), test.labels, 250)
        result = f"accuracy {score:.4f} on {len(test)} test images"
    else:
        value = _heldout_loss(config, network, test)
        result = f"noise prediction loss {value:.5f} on the first {HELD_OUT} test images"
    return {
        "name": name,
        "task": config.task,
        "data": f"{dataset.name}/{config.data.split}, {len(dataset)} images",
        "weights": "last step" if name.endswith("-raw") else "exponential moving average",
        "result": result,
        "training": configs.as_dict(config)
        | {"data": configs.as_dict(config.data) | {"data_dir": ""}},
        "steps": steps,
        "images_seen": steps * config.batch_size,
        "throughput": pace.text(config.batch_size),
        "seconds": round(pace.seconds, 1),
        "seed": config.seed,
        "trained_on": claim["devices"],
        "versions": claim["versions"],
        "licence": "Apache-2.0",
    }


def _heldout_loss(
    config: configs.TrainConfig, network: models.Network, test: data.Dataset
) -> float:
    """The denoiser's loss on images it was not trained on, under one fixed key."""
    images, table = _first(test, HELD_OUT).floats(), _signal_table(config)
    keys = jax.random.split(jax.random.key(1), len(images) // 50)
    batches = images[: len(keys) * 50].reshape(len(keys), 50, *images.shape[1:])
    return float(
        np.mean(
            [_noise_loss(network, x, k, table) for x, k in zip(batches, keys, strict=True)]
        )
    )


@jax.jit
def _noise_loss(
    network: models.Network, x: jax.Array, key: jax.Array, table: jax.Array
) -> jax.Array:
    args = network.architecture, network.params, x, None, key
    return training.denoiser_loss(*args, alphas_cumprod=table)[0]


def main(arguments: Arguments, config: configs.TrainConfig) -> None:
    """One training run, from its command line."""
    if arguments.data_dir:
        config.data.data_dir = arguments.data_dir
    workdir = program.workdir(arguments, config)
    if arguments.export:  # also beside a process that is training
        train(config, arguments, workdir)
        return
    with lock.held(workdir):
        clear_unfinished(workdir)
        train(config, arguments, workdir)


def command(argv: list[str]) -> int:
    """The program; returns its exit code."""
    return program.launch(
        main, argv, name="train", doc=__doc__, flags=FLAGS, kind=configs.TrainConfig
    )


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
