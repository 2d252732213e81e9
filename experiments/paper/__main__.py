"""The papers' figures and tables on one page: python -m experiments.paper --data=digits.

Measures what the papers on diffusion purification report, on one data set, and writes
paper.html: for each of 17 relations the published number beside ours with its interval,
and whether it held; each figure with its CSV beside it. Says first what it will cost. Kill
it at any moment; the same command goes on where it was.

    --data=NAME            the set's own config, NAME_paper; or a spec of any other set,
                           with its networks, purifier and ball as --config.FIELD=VALUE
    --quick                fewer images, and chains of ten steps: minutes on a CPU
    --only=SECTION,...     some sections alone; what the others would say is left open
    --config.FIELD=VALUE   another subject, or more of it, than the config's
"""

import dataclasses
import pathlib
import sys
import time
from typing import Any

from tqdm import tqdm

from experiments import cost, devices, program, versions
from experiments.arguments import Arguments, Flag
from experiments.config import PaperConfig
from experiments.paper import page, plans
from experiments.paper.asks import Ask, ask
from experiments.paper.measures import MEASURES
from experiments.paper.relations import nothing
from experiments.paper.sections import SECTIONS, Report
from experiments.paper.study import Study
from jaxpure import specs
from jaxpure.defenses import denoiser_evaluations
from jaxpure.errors import UserError, check_in
from jaxpure.evaluation import lock
from jaxpure.files import clear_unfinished

FLAGS = (
    Flag("data", "a set with a config of its own, or any other as a spec"),
    Flag("quick", "fewer images and shorter chains, for a first look", bool, False),
    Flag("only", f"sections, by comma: {', '.join(SECTIONS)}"),
    Flag("checkpoints", "a folder of weights of the denoiser, from along its training"),
)


def main(arguments: Arguments, config: PaperConfig) -> None:
    """Measures, and writes the page."""
    chosen = _sections(arguments.only)
    if arguments.checkpoints:
        found = program.weights_in(arguments.checkpoints)
        config = dataclasses.replace(config, checkpoints=found)
    wanted = plans.settled(config)
    of_data = specs.parse(wanted.data).name
    quick = "-quick" if arguments.quick else ""
    workdir = program.folder(arguments.workdir or f"runs/paper-{of_data}{quick}")
    print(f"workdir: {workdir}", flush=True)
    study = Study(wanted, workdir / "units", MEASURES, arguments.data_dir)
    with lock.held(workdir):
        clear_unfinished(workdir)
        began = time.monotonic()
        asks = {name: SECTIONS[name].asks(wanted) for name in chosen}
        failed = _refused(study, asks)
        announce(study, [a for name in chosen if name not in failed for a in asks[name]])
        failed |= measure(study, {n: a for n, a in asks.items() if n not in failed})
        reports = {name: _report(study, name, chosen, failed) for name in SECTIONS}
        facts = _facts(study, arguments, time.monotonic() - began)
        title = f"The papers on {study.dataset.name}"
        path = page.write(pathlib.Path(str(workdir)), title, reports, facts)
    found = {f.relation: f for report in reports.values() for f in report.findings}
    print(f"\n{page.verdict(found)}\n{path}", flush=True)


def announce(study: Study, asks: list[Ask]) -> float:
    """Says what will be measured and what it takes, from one that is timed."""
    todo = list({(a, tuple(rows.indices)): rows for a, rows in study.missing(asks)}.items())
    total = sum(len(study.batches(a)) for a in dict.fromkeys(asks))
    n = len(study.dataset)
    print(
        f"{n} images of {study.dataset.name}, {study.plan.purifier}, {study.ball}; "
        f"{total} units of work, {total - len(todo)} of them done",
        flush=True,
    )
    if not todo:
        return 0.0
    calls = sum(
        MEASURES[a.measure].cost(study.plan, **dict(a.options))
        * len(rows.labels)
        * _calls(study.purifier(a))
        for (a, _), rows in todo
    )
    a, _ = todo[0][0]
    each = cost.seconds_per_evaluation(study.purifier(a), study.batches(a)[0].images)
    structures = {(a.measure, a.purifier, a.options) for (a, _), _ in todo}
    print(
        f"about {calls:,.0f} denoiser evaluations at {1e3 * each:.2f} ms: about "
        f"{cost.duration(calls * each)}, and time to compile {len(structures)} kinds of "
        "work, which is kept",
        flush=True,
    )
    return calls * each


def _calls(purifier: Any) -> int:
    """Calls of the denoiser in a purification, as far as it says; at least 1."""
    return denoiser_evaluations(purifier) or 1


def measure(study: Study, asks: dict[str, list[Ask]]) -> dict[str, str]:
    """Makes all units that are missing; of sections that cannot go on, why."""
    failed: dict[str, str] = {}
    units = {
        (a, tuple(rows.indices)): (name, a, rows)
        for name, of_section in asks.items()
        for a, rows in study.missing(of_section)
    }
    if not units:
        return failed
    with program.progress(len(units), "unit") as bar:
        for name, a, rows in units.values():
            bar.set_postfix_str(f"{name}: {a.measure}", refresh=True)
            if name not in failed:
                try:
                    study.unit(a, rows)
                except UserError as error:
                    failed[name] = str(error)
                    _say(bar, f"{name}: {error}")
            bar.update()
    return failed


def _say(bar: tqdm, text: str) -> None:
    bar.write(f"note: {text}", file=sys.stderr)


def _refused(study: Study, asks: dict[str, list[Ask]]) -> dict[str, str]:
    """Sections without a meaning for the plan's purifier, and why.

    Every purifier is built here, so that a spec that makes no sense is told at once.
    """
    for of_section in asks.values():
        for a in dict.fromkeys(a.other("clean") for a in of_section):
            study.check(a)
    plan = study.plan
    purifier = study.purifier(ask("clean", plan.purifier, plan.denoiser))
    resized = study.resizes(ask("clean", plan.purifier, plan.denoiser))
    found = {
        name: SECTIONS[name].refuses(purifier) or (resized if of_section else "")
        for name, of_section in asks.items()
    }
    return {name: why for name, why in found.items() if why}


def _report(
    study: Study, name: str, chosen: tuple[str, ...], failed: dict[str, str]
) -> Report:
    """What a section found, or in one sentence why it found nothing."""
    section = SECTIONS[name]
    if name not in chosen:
        return Report(nothing(section.relations, "Left out by --only."), [], ["Left out."])
    try:
        if name in failed:
            raise UserError(failed[name])
        return section.report(study)
    except ValueError as error:
        why = f"{str(error)[0].upper()}{str(error)[1:]}."
        return Report(nothing(section.relations, why), [], [why])


def _sections(only: str | None) -> tuple[str, ...]:
    """The sections that are wanted, in the page's order."""
    names = program.pieces(only)
    if names is None:
        return tuple(SECTIONS)
    for name in names:
        check_in("section", name, SECTIONS)
    return tuple(name for name in SECTIONS if name in names)


def _facts(study: Study, arguments: Arguments, seconds: float) -> list[tuple[str, str]]:
    plan = study.plan
    named = ("data", "num_examples", "seed")  # those that have a line of their own
    fields = {n: v for n, v in dataclasses.asdict(plan).items() if n not in named}
    return [
        ("Command", program.command_line()),
        ("Data", f"the first {len(study.dataset)} test images of {study.dataset.name}"),
        ("Seed", str(plan.seed)),
        ("Hardware", devices.hardware()),
        ("Time of this call", cost.duration(seconds)),
        ("Versions", ", ".join(f"{k} {v}" for k, v in versions.packages().items())),
        ("Commit", versions.git_commit() or "no checkout"),
        *((name, _text(value)) for name, value in fields.items()),
    ]


def _text(value: object) -> str:
    return "; ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def command(argv: list[str]) -> int:
    """The program; returns its exit code."""
    return program.launch(
        main,
        argv,
        name="paper",
        doc=__doc__,
        flags=FLAGS,
        kind=PaperConfig,
        choose=plans.chosen,
    )


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
