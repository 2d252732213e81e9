"""Evaluates a defense: python -m experiments.run --config=NAME [--config.field=value].

Judges the clean images, attacks them under the config's policy of randomness, judges
what the attack found, and does the same for the undefended classifier. Leaves summary.json,
records.parquet, adversarial.npz, config.json and report.html in the workdir. Kill it at
any moment; the same command goes on where it was.

    --config=digits_bpda_replay                     a named config; --list shows them
    --config.attack='apgd(num_restarts=5)'          another attack
    --config.attack.num_steps=10                    one option of it
    --config.ball='l2(0.5)' --config.purifier.step_rule.eta=0.5
    --limit=20, --indices=3,17,40-49                fewer or other examples
"""

import io
import math
import sys
import time
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments import choice, cost, dry_run, judge, program, runs, siblings
from experiments import config as configs
from experiments.arguments import ArgumentError, Arguments, Flag
from experiments.build import SEED_LIMIT, Experiment, experiment
from experiments.summary import summarize
from jaxpure import keys, report
from jaxpure.evaluation import (
    Result,
    fitting,
    lanes,
    lock,
    processes,
    records,
    settle,
    share_of_process,
)
from jaxpure.evaluation import run as run_evaluation
from jaxpure.evaluation.identity import describe, identify
from jaxpure.files import clear_unfinished, sha256, write_atomically
from jaxpure.policy import judging_keys

ARRAYS = "adversarial.npz"
FLAGS = (
    Flag(
        "dry_run",
        "says what the run would cost here, or on v5e:2x2 or another, and does not run it",
        alone=dry_run.HERE,
    ),
    Flag(
        "judge_seed",
        "judges a finished run again under the keys of this seed, without attacking",
        int,
        least=0,
        most=SEED_LIMIT - 1,
    ),
    *choice.FLAGS,
    *siblings.FLAGS,
)


def run(
    built: Experiment,
    where: lanes.Lanes,
    name: str,
    workdir: epath.Path,
    others: siblings.Siblings,
) -> None:
    """Runs an experiment to its end, or on from where `workdir` stands.

    Of several processes each does its share, and process 0 writes the results.

    Args:
      built: the experiment.
      where: what runs side by side.
      name: of its config.
      workdir: where records and results go.
      others: the processes that share the run.
    """
    with _Clock(workdir) as clock:
        if len(share_of_process(built.dataset)):
            _evaluate(built, where, workdir, clock)
        others.wait_for_the_end()
    if others.index:
        return
    summary = _write_results(built, where, name, workdir, clock.seconds)
    print(f"\n{report.verdict(summary)}\n{workdir / 'report.html'}", flush=True)


def _evaluate(
    built: Experiment, where: lanes.Lanes, workdir: epath.Path, clock: "_Clock"
) -> None:
    """This process's records."""
    ours = share_of_process(built.dataset)
    setups = ((built.undefended_setup, "undefended"), (built.setup, "defended"))
    for setup, who in setups:
        with program.progress(len(ours), "image") as bar:
            tell, folder = partial(_show, bar, clock, who), workdir / "records" / who
            run_evaluation(setup, ours, built.root, where, folder, tell)


def _write_results(
    built: Experiment, where: lanes.Lanes, name: str, workdir: epath.Path, seconds: float
) -> dict[str, Any]:
    """All that the records of all processes say; summary.json, which ends a run, last."""
    place = workdir / "records"
    undefended = _load(built, built.undefended_setup, where, place / "undefended")
    defended = _load(built, built.setup, where, place / "defended")
    summary = summarize(built, name, undefended, defended, seconds)
    _write_columns(workdir, undefended, defended)
    page = workdir / "report.html"
    report.write(page, summary, defended, undefended, _purified(built, defended))
    summary["files"] = {n: sha256(workdir / n) for n in ("records.parquet", ARRAYS)}
    program.write_json(workdir / "summary.json", summary)
    return summary


def lanes_of(built: Experiment, workdir: epath.Path | None) -> lanes.Lanes:
    """What runs side by side: as the config says, or as the workdir was begun."""
    config, folder = built.config, workdir and workdir / "records" / "defended"
    return fitting.lanes_of(
        config.batch_size,
        config.draws_at_once,
        built.setup,
        built.dataset,
        built.root,
        folder,
        share=-(-len(built.dataset) // processes.ours().count),
    )


def claim_records(built: Experiment, where: lanes.Lanes, workdir: epath.Path) -> None:
    """Refuses records of other weights or other data, before anything is measured."""
    ours = share_of_process(built.dataset)
    for setup, who in ((built.undefended_setup, "undefended"), (built.setup, "defended")):
        identity = identify(setup, built.root, where, ours)
        about = describe(setup, built.root, where)
        records.claim(workdir / "records" / who, identity, about)


def _load(built: Experiment, setup: Any, where: lanes.Lanes, folder: epath.Path) -> Result:
    """The joined records of all processes."""
    identity = identify(setup, built.root, where, built.dataset)
    return settle.load(folder, built.dataset, setup, identity)


class _Clock:
    """Seconds of work on a run, summed over the times that it was killed."""

    def __init__(self, workdir: epath.Path):
        self.path = workdir / "seconds.txt"
        try:
            found = float(self.path.read_text())
            self.seconds = found if 0 <= found < math.inf else 0.0
        except (OSError, ValueError):  # none yet, or cut short: it is only a time
            self.seconds = 0.0

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
        if processes.ours().index == 0:
            write_atomically(self.path, str(self.seconds).encode())


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


def _write_columns(workdir: epath.Path, undefended: Result, defended: Result) -> None:
    """records.parquet, a row an example, and adversarial.npz."""
    import pyarrow as pa  # here: its threads may take down a process that ends soon
    import pyarrow.parquet as pq

    columns = defended.columns() | {
        "undefended_clean_correct": undefended.clean[:, 0],
        "undefended_correct": undefended.robust[:, 0],
        "undefended_broken_at": undefended.broken_at,
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    write_atomically(workdir / "records.parquet", sink.getvalue())
    sink = io.BytesIO()
    np.savez_compressed(
        sink,
        index=defended.indices,
        label=defended.labels,
        clean=defended.clean_images,
        adversarial=defended.images,
        undefended_adversarial=undefended.images,
        clean_logits=defended.clean_logits,
        logits=defended.logits,
    )
    write_atomically(workdir / ARRAYS, sink.getvalue())


def _purified(built: Experiment, defended: Result) -> tuple[np.ndarray, np.ndarray]:
    """The clean and the adversarial images that the report shows, purified under key 0."""
    shown = report.chosen(defended)

    @jax.jit
    def purify(purifier, root, indices, images):
        def one(index, image):
            key = keys.example_key(root, index)
            judging = judging_keys(built.setup.policy, key, 1)
            return purifier(jax.tree.map(lambda k: k[0], judging), image)

        return jax.vmap(one)(indices, images)

    purifier, indices = built.defense.purifier, defended.indices[shown].astype(np.int32)
    clean, adversarial = (
        np.asarray(purify(purifier, built.root, indices, images[shown]))
        for images in (defended.clean_images, defended.images)
    )
    return clean, adversarial


def main(arguments: Arguments, config: configs.RunConfig) -> None:
    """One run, from its command line."""
    config = choice.chosen(config, arguments.limit, arguments.indices)
    siblings.begin(arguments)
    if arguments.dry_run is not None:
        topology = dry_run.check(arguments.dry_run)
        built = experiment(config, arguments.data_dir)
        if topology == dry_run.HERE:
            cost.announce(built, lanes_of(built, None))
        else:
            dry_run.announce(built, topology)
        return
    workdir = program.workdir(arguments, config)
    if arguments.judge_seed is not None:
        if processes.ours().count > 1:
            raise ArgumentError("--judge_seed works in one process")
        built = experiment(config, arguments.data_dir)
        judge.again(built, workdir, arguments.judge_seed)
        return
    if all((workdir / name).exists() for name in ("summary.json", "config.json")):
        summary = runs.read(workdir).summary
        print(f"{workdir} is finished:\n{report.verdict(summary)}", flush=True)
        return
    built = experiment(config, arguments.data_dir)  # what does not fit takes no workdir
    with lock.held(workdir) as ours, siblings.together(workdir, ours) as others:
        others.wait_for_claim()
        where = lanes_of(built, workdir)
        if len(share_of_process(built.dataset)):
            claim_records(built, where, workdir)  # before the workdir is this config's
        program.claim(workdir, arguments, config)
        if not others.index:  # the others wait, and write their locks alone
            clear_unfinished(workdir, but="lock-" if others.count > 1 else None)
        others.claimed()
        if len(share_of_process(built.dataset)):
            cost.announce(built, where)
        run(built, where, str(arguments.config), workdir, others)


def command(argv: list[str]) -> int:
    """The program; returns its exit code."""
    return program.launch(
        main, argv, name="run", doc=__doc__, flags=FLAGS, kind=configs.RunConfig
    )


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
