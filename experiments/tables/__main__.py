"""The papers' tables on one data set: python -m experiments.tables --data=digits.

Runs what each cell of the source paper's tables asks for, one `experiments.run` after
another, and writes tables.html (and tables.csv): attacks with and without replay, other
purifiers, other checkpoints of the denoiser; each number with its interval, images, seed,
hardware, seconds, and the command that repeats it. Says first what it will cost. Kill it at
any moment; the same command goes on where it was, and the page shows what there is.

    --only=1,2                     some tables alone
    --rows=BPDA                    only the rows in whose first columns this stands
    --exact_images=32              fewer images under exact gradients
    --checkpoints=runs/train/kept  Table 3: a folder of weights of the denoiser
    --page                         the page of what there is, without running anything
"""

import sys

import jax
from etils import epath

from experiments import arguments as cli_arguments
from experiments import config as configs
from experiments import cost, devices, interrupts, overrides, program, run, runs
from experiments.arguments import ArgumentError, Arguments, Flag
from experiments.build import Experiment, experiment
from experiments.config import RunConfig
from experiments.tables import page, rows
from jaxpure.defenses import denoiser_evaluations
from jaxpure.errors import UserError, check_in
from jaxpure.evaluation import lock

BACKWARD = 3  # evaluations that going back costs: the chain again, and two for each step
FLAGS = (
    Flag("data", f"the data set: {', '.join(rows.PLANS)}"),
    Flag("only", "tables, by comma: 1, 2, 3"),
    Flag("rows", "only rows in whose first columns this stands"),
    Flag("page", "writes the page of what there is, and runs nothing", bool, False),
    Flag("workdir", "where runs and the page go; chosen and printed if not given"),
    Flag("bpda_images", "images of rows under BPDA, the first of the set", int, least=1),
    Flag("exact_images", "likewise, under exact gradients", int, least=1),
    Flag("autoattack_images", "likewise, under AutoAttack", int, least=1),
    Flag("eot_samples", "draws of PGD with EOT", int, least=2),
    Flag("checkpoints", "a folder of weights of the denoiser, from along its training"),
    program.DATA_DIR,
    program.CPU_DEVICES,
)


def main(arguments: Arguments, config: None) -> None:
    """Runs what is missing, and writes the page."""
    del config
    if arguments.data is None:
        raise ArgumentError(f"--data=NAME is needed; there are {', '.join(rows.PLANS)}")
    numbers = ("bpda_images", "exact_images", "autoattack_images", "eot_samples")
    plan = rows.plan(arguments.data, **{n: getattr(arguments, n) for n in numbers})
    found = rows.tables(plan, program.weights_in(arguments.checkpoints))
    chosen = _chosen(found, arguments.only)
    interrupts.say(interrupts.GOES_ON)
    devices.use(arguments.cpu_devices)
    program.prepare_jax()
    workdir = program.folder(arguments.workdir or f"runs/tables-{arguments.data}")
    print(f"workdir: {workdir}", flush=True)
    wanted = _wanted(plan.config, [found[number] for number in chosen], arguments.rows)
    with lock.held(workdir):
        told = {} if arguments.page else _run_all(plan, wanted, workdir, arguments.data_dir)
        cells = page.read(plan.config, found, workdir)
        path = page.write(workdir, plan, found, cells, told)
    print(f"\n{path}", flush=True)


def _chosen(found: dict[str, rows.Table], only: str | None) -> tuple[str, ...]:
    """The tables that are wanted; Table 3 of itself only where it has rows."""
    names = program.pieces(only)
    if names is None:
        return tuple(number for number, table in found.items() if table.lines)
    for name in names:
        check_in("table", name, found)
    if "3" in names and not found["3"].lines:
        raise UserError("table 3 is about checkpoints: give --checkpoints=DIR")
    return tuple(name for name in found if name in names)


def _wanted(
    config: str, tables: list[rows.Table], containing: str | None
) -> dict[str, RunConfig]:
    """What is to be run, by the name of its folder; what two rows share is there once."""
    lines = [line for table in tables for line in table.lines]
    if containing is not None:
        lines = [line for line in lines if containing.lower() in str(line.labels).lower()]
        if not lines:
            raise UserError(f"--rows={containing} stands in no row of these tables")
    found = (run for line in lines for run in line.runs.values())
    return {program.run_name(config, run): run for run in found}


def _run_all(
    plan: rows.Plan, wanted: dict[str, RunConfig], workdir: epath.Path, data_dir: str | None
) -> dict[str, str]:
    """Does all runs that are not done; of those that cannot be done, why."""
    missing = {n: c for n, c in wanted.items() if not runs.is_finished(workdir / n)}
    print(f"{len(wanted)} runs, {len(wanted) - len(missing)} of them done", flush=True)
    told: dict[str, str] = {}
    _announce(missing, data_dir, told)
    for i, (name, config) in enumerate(missing.items(), 1):
        if name in told:
            continue
        argv = [*overrides.arguments_of(plan.config, config), f"--workdir={workdir / name}"]
        print(f"\nrun {i} of {len(missing)}: {' '.join(argv)}", flush=True)
        try:
            _run_one([*argv, *([f"--data_dir={data_dir}"] if data_dir else [])])
        except (UserError, FloatingPointError) as error:
            _note(told, name, error)
    return told


def _note(told: dict[str, str], name: str, error: Exception) -> None:
    told[name] = str(error)
    print(f"note: {name}: {error}", file=sys.stderr, flush=True)


def _run_one(argv: list[str]) -> None:
    """`experiments.run`, as if by a command of its own."""
    known = (*run.FLAGS, *program.CONFIG_FLAGS)
    given = cli_arguments.parse(argv, known, takes_config=True)
    config = configs.by_name(str(given.config), RunConfig)
    # The programs of some thirty runs are more mappings than Linux allows a process, and
    # compiling the next one would end it. What the run needs of them is on disk.
    jax.clear_caches()
    run.main(given, overrides.apply(config, given.overrides))


def _announce(
    missing: dict[str, RunConfig], data_dir: str | None, told: dict[str, str]
) -> None:
    """Says what the missing runs cost together, and notes those that cannot be done."""
    if not missing:
        return
    calls, each = 0, 0.0
    for name, config in missing.items():
        try:
            built = experiment(config, data_dir)
        except UserError as error:
            _note(told, name, error)
            continue
        calls += evaluations(built)
        if not each:
            some = built.dataset.floats()[: int(built.config.batch_size)]
            each = cost.seconds_per_evaluation(built.defense.purifier, some)
    print(
        f"at most {calls:,.0f} denoiser evaluations at {1e3 * each:.2f} ms: at most about "
        f"{cost.duration(calls * each)}; what falls early costs less",
        flush=True,
    )


def evaluations(built: Experiment) -> int:
    """Denoiser evaluations of a run at most, in forward ones."""
    of_gradient = 1 if built.config.gradient == "bpda" else 1 + BACKWARD
    each = denoiser_evaluations(built.defense.purifier) or 1
    return len(built.dataset) * cost.purifications(built.setup, of_gradient) * each


def command(argv: list[str]) -> int:
    """The program; returns its exit code."""
    return program.launch(main, argv, name="tables", doc=__doc__, flags=FLAGS)


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
