"""Evaluates a defense: python -m experiments.run --config=NAME [--config.field=value].

Judges the clean images, attacks them under the config's policy of randomness, judges
what the attack found, and does the same for the bare classifier. Leaves summary.json,
records.parquet, adversarial.npz, config.json and report.html in the workdir. Kill it at
any moment; the same command goes on where it was.
"""

import io
import json
import sys
import time
from functools import partial
from typing import Any

import jax
import numpy as np
from absl import flags
from etils import epath
from ml_collections import config_flags

from experiments import config as configs
from experiments import program, report
from experiments.build import Experiment, experiment
from experiments.summary import summarize
from jaxpure import attacks, checkpoints, data, randomness
from jaxpure.defense import denoiser_evaluations
from jaxpure.evaluation import (
    Result,
    engine,
    evaluate,
    judge_again,
    load,
    share_of_process,
    statistics,
)

_CONFIG = config_flags.DEFINE_config_dataclass(
    "config",
    configs.RunConfig(),
    "Name of a run config.",
    parse_fn=partial(configs.by_name, kind=configs.RunConfig),
)
flags.DEFINE_bool("distributed", False, "Calls jax.distributed.initialize() first.")
flags.DEFINE_integer(
    "judge_seed",
    None,
    "Judges a finished run again under the keys of this seed, without attacking.",
)


def run(config: configs.RunConfig, name: str, workdir: epath.Path) -> dict[str, Any]:
    """Runs an experiment to its end, or on from where `workdir` stands.

    Returns:
      The summary, which is also written as summary.json.
    """
    done = workdir / "summary.json"
    if done.exists():
        summary = json.loads(done.read_text())
        print(f"{workdir} is finished:\n{report.verdict(summary)}")
        return summary
    built = experiment(config)
    program.claim(workdir, name, config)
    mesh = engine.local_mesh()
    _announce(built, mesh)
    ours = share_of_process(built.dataset)
    common = {"root": built.root, "batch_size": config.batch_size, "mesh": mesh}
    records = workdir / "records"
    with _Clock(workdir) as clock:
        with program.progress(len(ours), "image") as bar:
            evaluate(
                records / "undefended",
                built.bare,
                built.bare_attack,
                ours,
                judging_keys=1,
                progress=partial(_show, bar, clock, "bare classifier"),
                **common,
            )
        with program.progress(len(ours), "image") as bar:
            evaluate(
                records / "defended",
                built.defense,
                built.attack,
                ours,
                judging_keys=config.judging_keys,
                progress=partial(_show, bar, clock, "purified"),
                **common,
            )
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("all records are written")
        if jax.process_index():
            return {}
    bare = load(records / "undefended", built.dataset)
    defended = load(records / "defended", built.dataset)
    summary = summarize(built, name, bare, defended, clock.seconds)
    _write_columns(workdir, built.dataset, bare, defended)
    _write_report(workdir, built, summary, bare, defended)
    checkpoints.write_atomically(done, (json.dumps(summary, indent=2) + "\n").encode())
    print(f"\n{report.verdict(summary)}\n{workdir / 'report.html'}")
    return summary


def judge_seed(config: configs.RunConfig, workdir: epath.Path, seed: int) -> dict[str, Any]:
    """Judges a finished run's adversarial images under the keys of another seed."""
    built = experiment(config)
    result = load(workdir / "records" / "defended", built.dataset)
    logits = judge_again(
        result,
        built.defense,
        built.attack.policy,
        root=jax.random.key(seed),
        judging_keys=config.judging_keys,
        batch_size=config.batch_size,
    )
    readings = statistics.reductions(logits, result.labels)
    summary = {"seed": seed, **{k: v._asdict() for k, v in readings.items()}}
    path = workdir / f"judged-seed{seed}.json"
    checkpoints.write_atomically(path, (json.dumps(summary, indent=2) + "\n").encode())
    for reading, estimate in readings.items():
        print(f"{reading:14} {100 * estimate.value:5.1f}%")
    print(path)
    return summary


class _Clock:
    """Seconds of work on a run, summed over the times that it was killed."""

    def __init__(self, workdir: epath.Path):
        self.path = workdir / "seconds.txt"
        self.seconds = float(self.path.read_text()) if self.path.exists() else 0.0

    def __enter__(self) -> "_Clock":
        self.started = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self.tick(every=0)

    def tick(self, every: float = 10) -> None:
        """Counts the time so far, and writes it down if `every` seconds have passed."""
        now = time.monotonic()
        if now - self.started < every:
            return
        self.seconds, self.started = self.seconds + now - self.started, now
        if jax.process_index() == 0:
            checkpoints.write_atomically(self.path, str(self.seconds).encode())


def _announce(experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
    """Says what will be done and what it will cost, from measured steps."""
    config, dataset = experiment.config, experiment.dataset
    n, keys = len(dataset), config.judging_keys
    slots = engine.num_slots(mesh, config.batch_size)
    print(
        f"{n} images of {dataset.name}, {config.attack.name} in "
        f"{report.ball(experiment.attack.norm, float(experiment.attack.eps))}, "
        f"policy {experiment.attack.policy}, gradient "
        f"{config.gradient}, {keys} judging keys; {slots} images at once on {mesh.size} x "
        f"{jax.devices()[0].device_kind}",
        flush=True,
    )
    total, purifications = 0.0, 2 * keys * n
    for name, attack in attacks.stages_of(experiment.attack):
        compile_seconds, step_seconds = engine.seconds_per_step(
            attack, experiment.root, dataset, batch_size=config.batch_size, mesh=mesh
        )
        steps, each_step = attack.max_steps, attack.purifications_per_step
        seconds = -(-n // slots) * step_seconds * (steps + 2 * keys / each_step)
        print(
            f"{name or config.attack.name}: at most {steps} steps of {step_seconds:.2f} s "
            f"(compiled in {compile_seconds:.0f} s), about {_minutes(seconds)}",
            flush=True,
        )
        total, purifications = total + seconds, purifications + n * steps * each_step
    each = denoiser_evaluations(experiment.defense.purifier)
    calls = "" if each is None else f", {purifications * each:,} denoiser evaluations"
    print(
        f"at most {purifications:,} purifications{calls}: at most about {_minutes(total)}",
        flush=True,
    )
    if config.attack.name == "autoattack":
        found = attacks.advice(
            experiment.defense,
            experiment.attack.policy,
            config.attack.version,
            experiment.root,
            dataset.floats()[0],
        )
        print(f"note: {found}" if found else "", end="\n" if found else "", flush=True)


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _show(bar, clock, who, stage, done, total, clean, robust) -> None:
    del total
    clock.tick()
    _, _, attack = stage.partition(" ")
    text = f"{who}{attack and f', {attack}'}: clean {100 * clean:.1f}%"
    if robust is not None and robust == robust:
        text += f", robust {100 * robust:.1f}%"
    bar.set_postfix_str(text, refresh=False)
    if stage == "clean":
        bar.refresh()
    else:
        bar.update(done - bar.n)


def _write_columns(
    workdir: epath.Path, dataset: data.Dataset, bare: Result, defended: Result
) -> None:
    """records.parquet, a row an example, and adversarial.npz."""
    import pyarrow as pa  # here and not before: see compare._read
    import pyarrow.parquet as pq

    columns = {
        "index": defended.indices,
        "label": defended.labels,
        "clean_correct": defended.clean.tolist(),
        "correct": defended.robust.tolist(),
        "clean_logits": defended.clean_logits.tolist(),
        "logits": defended.logits.tolist(),
        "evaluations": defended.evaluations,
        "gradient_evaluations": defended.gradient_evaluations,
        "forward_evaluations": defended.forward_evaluations,
        "broken_by": defended.broken_by.tolist(),
        "fooled": defended.fooled,
        "outvoted": defended.outvoted,
        "broken_at": defended.broken_at,
        "linf": defended.linf,
        "l2": defended.l2,
        "bad_gradients": defended.bad_gradients,
        "zero_gradients": defended.zero_gradients,
        "undefended_clean_correct": bare.clean[:, 0],
        "undefended_correct": bare.robust[:, 0],
        "undefended_broken_at": bare.broken_at,
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    checkpoints.write_atomically(workdir / "records.parquet", sink.getvalue())
    sink = io.BytesIO()
    np.savez_compressed(
        sink,
        index=defended.indices,
        label=defended.labels,
        clean=dataset.floats(),
        adversarial=defended.images,
        undefended_adversarial=bare.images,
    )
    checkpoints.write_atomically(workdir / "adversarial.npz", sink.getvalue())


def _write_report(workdir, experiment, summary, bare, defended) -> None:
    shown = report.chosen(defended)
    clean = experiment.dataset.floats()[shown]

    @jax.jit
    def purify(purifier, root, indices, images):
        def one(index, image):
            key = randomness.example_key(root, index)
            judging = randomness.judging_keys(experiment.attack.policy, key, 1)
            return purifier(jax.tree.map(lambda k: k[0], judging), image)

        return jax.vmap(one)(indices, images)

    purified = [
        np.asarray(
            purify(
                experiment.defense.purifier,
                experiment.root,
                defended.indices[shown].astype(np.int32),
                images,
            )
        )
        for images in (clean, defended.images[shown])
    ]
    report.write(workdir / "report.html", summary, defended, bare, shown, clean, *purified)


def main(argv: list[str]) -> None:
    program.no_positional(argv)
    config = _CONFIG.value
    name = program.config_name()
    workdir = program.workdir(name, config)
    if flags.FLAGS.judge_seed is not None:
        judge_seed(config, workdir, flags.FLAGS.judge_seed)
    else:
        run(config, name, workdir)


if __name__ == "__main__":
    program.launch(main, configs.RunConfig, sys.argv)
