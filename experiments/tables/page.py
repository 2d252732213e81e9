"""The page: the tables, and what was run for each number."""

import csv
import io
import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from experiments import overrides, program, runs, versions
from experiments.config import RunConfig
from experiments.paper.relations import OF_GAPS, RELATIONS, WORDS, points
from experiments.runs import Run
from experiments.tables import rows
from experiments.tables.rows import FRESH, REPLAY
from jaxpure import report
from jaxpure.evaluation import paired
from jaxpure.evaluation.paired import Comparison
from jaxpure.files import write_atomically
from jaxpure.report.words import count_images, duration, emphasised

# Of each run, by policy: its head on the page, and the key of its summary.
READINGS = (
    ("Clean", "clean_accuracy"),
    ("Robust", "robust_accuracy"),
    ("Other draws", "robust_accuracy_fresh"),
    ("Worst of N", "worst_of_n"),
    ("Vote", "majority_vote"),
    ("Undefended", "robust_accuracy_undefended"),
)
MADE = ("num_examples", "seed", "hardware", "seconds")
INTERVAL = ("value", "low", "high")


class Cells(NamedTuple):
    """What was found of a row.

    Attributes:
      runs: finished ones, by policy.
      gap: fresh minus replayed, on the images that both have.
    """

    runs: dict[str, Run]
    gap: Comparison | None


Found = dict[str, list[Cells]]
Done = dict[str, tuple[RunConfig, Run]]
"""What there is of all tables, by the run's name."""


def read(config: str, tables: Mapping[str, rows.Table], workdir: epath.Path) -> Found:
    """What there is of each table's rows.

    Args:
      config: name of the config of which the runs are changes.
      tables: by number.
      workdir: that holds the runs.
    """
    return {
        number: [_cells(config, line, workdir) for line in table.lines]
        for number, table in tables.items()
    }


def _cells(config: str, line: rows.Line, workdir: epath.Path) -> Cells:
    found = {}
    for policy, run in line.runs.items():
        folder = workdir / program.run_name(config, run)
        if runs.is_finished(folder):
            found[policy] = runs.read(folder)
    if len(found) < 2:
        return Cells(found, None)
    gap = paired.compare(*(runs.judged(found[policy]) for policy in (FRESH, REPLAY)))
    return Cells(found, gap)


def write(
    workdir: epath.Path,
    plan: rows.Plan,
    tables: Mapping[str, rows.Table],
    found: Found,
    told: Mapping[str, str],
) -> epath.Path:
    """Writes tables.html and tables.csv; returns the page's path.

    Args:
      workdir: where they go, beside the runs.
      plan: of the tables.
      tables: by number.
      found: what there is of each.
      told: why some runs could not be done, by name.
    """
    shown = [(n, table) for n, table in tables.items() if table.lines]
    done = {
        run.folder.name: (line.runs[policy], run)
        for n, table in shown
        for line, cells in zip(table.lines, found[n], strict=True)
        for policy, run in cells.runs.items()
    }
    text = report.render(
        "experiments.tables",
        "page.html",
        title=f"The papers' tables: {plan.config.partition('_')[0]}",
        verdict=emphasised(verdict(found)),
        tables=[_table(plan, table, found[n], told, done) for n, table in shown],
        runs=[_made(plan, *each) for each in done.values()],
        facts=[
            ("Command", program.command_line()),
            ("Versions", ", ".join(f"{k} {v}" for k, v in versions.packages().items())),
            ("Commit", versions.git_commit() or "no checkout"),
        ],
    )
    path = workdir / "tables.html"
    write_atomically(workdir / "tables.csv", _csv(shown, found).encode())
    write_atomically(path, text.encode())
    return path


def verdict(found: Found) -> str:
    """One sentence: in how many pairs of runs replay lowers what is left."""
    pairs = {
        each.runs[FRESH].folder.name: each.gap.gap
        for cells in found.values()
        for each in cells
        if each.gap is not None
    }
    gaps = list(pairs.values())  # a row of two tables is one pair
    if not gaps:
        return "No attack has been run both with the noise unknown and replayed yet."
    lower = [gap.gap for gap in gaps if gap.low > 0]
    if not lower:
        return (
            f"In none of {len(gaps)} comparisons does replaying the noise lower robust "
            "accuracy by an interval that excludes zero."
        )
    return (
        "Replaying the noise lowers robust accuracy, by an interval that excludes zero, "
        f"in {len(lower)} of {len(gaps)} comparisons: there by {100 * min(lower):.1f} to "
        f"{100 * max(lower):.1f} points."
    )


def _table(
    plan: rows.Plan,
    table: rows.Table,
    found: list[Cells],
    told: Mapping[str, str],
    done: Done,
) -> dict[str, Any]:
    return {
        "title": table.title,
        "about": table.about,
        "heads": table.heads,
        "claims": [_claim(plan, table, number, done) for number in table.relations],
        "lines": [
            _line(plan, line, cells, told)
            for line, cells in zip(table.lines, found, strict=True)
            if cells.runs or _names(plan, line) & set(told)
        ],
        "waiting": sum(not cells.runs for cells in found),
    }


def _claim(plan: rows.Plan, table: rows.Table, relation: int, done: Done) -> dict[str, Any]:
    """What a paper claims, and of each pair of finished runs whether it holds."""
    found = []
    for pair in table.pairs:
        names = [program.run_name(plan.config, run) for run in (pair.first, pair.second)]
        if pair.relation == relation and all(name in done for name in names):
            first, second = (runs.judged(done[name][1]) for name in names)
            gap = paired.compare(first, second).gap
            outcome = WORDS[OF_GAPS[relation](gap.low, gap.high)]
            found.append({"about": pair.about, "gap": points(gap), "outcome": outcome})
    counted = Counter(each["outcome"] for each in found)
    total = f"{len(found)} comparison{'s' if len(found) > 1 else ''}"
    words = [f"{word} in {counted[word]}" for word in WORDS.values() if counted[word]]
    return {
        **RELATIONS[relation]._asdict(),
        "found": found,
        "here": f"Of {total} here {', '.join(words)}." if found else "",
    }


def _names(plan: rows.Plan, line: rows.Line) -> set[str]:
    return {program.run_name(plan.config, run) for run in line.runs.values()}


def _line(
    plan: rows.Plan, line: rows.Line, cells: Cells, told: Mapping[str, str]
) -> dict[str, Any]:
    names = {p: program.run_name(plan.config, run) for p, run in line.runs.items()}
    some = cells.runs.get(REPLAY) or cells.runs.get(FRESH)
    gap = cells.gap
    return {
        "labels": line.labels,
        "images": sorted({run.summary["num_examples"] for run in cells.runs.values()}),
        "clean": some and report.interval(some.summary["clean_accuracy"]),
        "cells": [
            _cell(policy in line.runs, names.get(policy), cells.runs.get(policy), told)
            for policy in (FRESH, REPLAY)
        ],
        "gap": None if gap is None else points(gap.gap),
        "worst": some and report.interval(some.summary.get("worst_of_n")),
        "vote": some and report.interval(some.summary.get("majority_vote")),
    }


def _cell(
    asked: bool, name: str | None, run: Run | None, told: Mapping[str, str]
) -> dict[str, Any]:
    if run is not None:
        found = run.summary["robust_accuracy"]
        return {"text": report.interval(found), "name": name, "why": ""}
    if not asked:
        return {"text": "", "name": None, "why": ""}
    return {"text": "not run", "name": None, "why": told.get(str(name), "")}


def _made(plan: rows.Plan, config: RunConfig, run: Run) -> dict[str, Any]:
    summary = run.summary
    arguments = shlex.join(overrides.arguments_of(plan.config, config))
    return {
        "name": run.folder.name,
        "command": f"python -m experiments.run {arguments}",
        "images": count_images(summary["num_examples"]),
        "seed": summary["seed"],
        "hardware": summary.get("hardware", summary["device_kind"]),
        "seconds": duration(summary["seconds"]),
        "git": summary.get("git") or "no checkout",
        "readings": [
            (head, report.interval(summary[key]))
            for head, key in READINGS
            if summary.get(key)
        ],
    }


def _csv(tables: list[tuple[str, rows.Table]], found: Found) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    values = [f"{key}_{x}" for _, key in READINGS for x in INTERVAL]
    writer.writerow(["table", "row", "policy", "run", *MADE, *values])
    for number, table in tables:
        for line, cells in zip(table.lines, found[number], strict=True):
            for policy, run in cells.runs.items():
                about = [number, "; ".join(line.labels), policy, run.folder.name]
                writer.writerow([*about, *_numbers(run.summary)])
    return out.getvalue()


def _numbers(summary: dict[str, Any]) -> list[Any]:
    estimates = [summary.get(key) or {} for _, key in READINGS]
    return [
        *(summary.get(name, "") for name in MADE),
        *(estimate.get(x, "") for estimate in estimates for x in INTERVAL),
    ]
