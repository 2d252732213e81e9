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
import shlex
import sys
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments import config as configs
from experiments import (
    events,
    overrides,
    program,
    recipe,
    things,
    throughput,
    training_log,
    training_page,
)
from experiments.arguments import Arguments, Flag
from experiments.build import load_data
from jaxpure import data, measure, models, training, weights
from jaxpure.evaluation import lock
from jaxpure.evaluation.identity import arrays_digest, digest_of
from jaxpure.files import clear_unfinished

FLAGS = (
    Flag("export", "writes the weights of the run as it stands, and stops", bool, False),
)

VALIDATED_ON = 2000  # images of the test split; a card tells what all of it gives


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
    recipe.check(config)
    dataset = load_data(config.data, config.data.split)
    test = load_data(dataclasses.replace(config.data, num_examples=0), "test")
    test = recipe.middle(test, config.crop)
    network, loss = recipe.network_and_loss(config, dataset)
    optimizer = recipe.optimizer(config)
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
        augmentation=training.Augmentation(
            config.shift, config.flip, config.reflect, config.crop
        ),
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
        """What a state of this training says of itself: whose it is.

        Fields at their defaults are left out, so that new ones change nothing.
        """
        usual = configs.as_dict(configs.TrainConfig())
        changed = _changed(program.identity(self.config), usual)
        config = json.dumps(changed, sort_keys=True)
        data = {"images": self.dataset.images, "labels": self.dataset.labels}
        return {
            "config": digest_of(config.encode()),
            "training data": arrays_digest(data),
        }


def _changed(values: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """What differs from `usual`, in dicts of dicts."""
    found = {}
    for name, value in values.items():
        if isinstance(value, dict) and isinstance(usual.get(name), dict):
            value = _changed(value, usual[name])
            if value:
                found[name] = value
        elif name not in usual or value != usual[name]:
            found[name] = value
    return found


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
            value = measure.accuracy(network, test.floats(), test.labels, 500)
            row[f"accuracy_{suffix}"] = value
        else:
            row[f"loss_{suffix}"] = measure.noise_loss(
                network, test.floats()[: measure.HELD_OUT]
            )
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


def _card(
    run: _Run, name: str, network: models.Network, steps: int, pace: throughput.Pace
) -> dict[str, Any]:
    config, dataset, test = run.config, run.dataset, run.test
    claim = json.loads((run.workdir / "config.json").read_text())
    details: dict[str, Any] = {}
    if config.task == "classifier":
        score = measure.accuracy(network, test.floats(), test.labels, 250)
        result = f"accuracy {score:.4f} on {len(test)} test images"
    else:
        images = test.floats()[: measure.HELD_OUT]
        value = measure.noise_loss(network, images)
        result = f"noise prediction loss {value:.5f} on the first {len(images)} test images"
        details["loss_by_timestep"] = measure.loss_by_timestep(network, images)
    return {
        "name": name,
        "task": config.task,
        "data": f"{dataset.name}/{config.data.split}, {len(dataset)} images",
        "weights": "last step" if name.endswith("-raw") else "exponential moving average",
        "result": result,
        **details,
        **_commands(run, name, steps),
        "training": configs.as_dict(config)
        | {"data": configs.as_dict(config.data) | {"data_dir": ""}},
        "steps": steps,
        "images_seen": steps * config.batch_size,
        **_begun_from(config),
        "throughput": pace.text(config.batch_size),
        "seconds": round(pace.seconds, 1),
        "seed": config.seed,
        "trained_on": claim["devices"],
        "versions": claim["versions"],
        "licence": "Apache-2.0",
    }


def _begun_from(config: configs.TrainConfig) -> dict[str, Any]:
    """What a card says of the network whose training was gone on with."""
    if not config.initial_weights:
        return {}
    card = weights.card(config.initial_weights)
    told = {key: card[key] for key in ("name", "images_seen", "seconds") if key in card}
    earlier = {"begun_from": card["begun_from"]} if "begun_from" in card else {}
    sha256 = weights.digest(config.initial_weights)
    return {"begun_from": {**told, "sha256": sha256, **earlier}}


def _commands(run: _Run, name: str, steps: int) -> dict[str, str]:
    """What to type to train the network again, and to measure it.

    No command makes what a run was that is not at its end, where the rate falls by then.
    """
    config, made = run.config, {}
    if config.rate_decay == "constant":
        config = dataclasses.replace(config, num_steps=steps)
    if config.num_steps == steps:
        arguments = shlex.join(overrides.arguments_of(run.name, config))
        made = {"made_by": f"python -m experiments.train {arguments}"}
    of_data = config.data
    if of_data.test_every or config.crop:  # no published set is its test split
        return made
    spec = of_data.name
    if of_data.image_size:
        spec = things.set_option("data", spec, ["image_size"], str(of_data.image_size))
    check = ["--check", f"{name}.safetensors", f"--data={spec}"]
    return made | {"measured_by": f"python -m checkpoints_convert {shlex.join(check)}"}


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
