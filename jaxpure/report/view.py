"""One static page over many runs: a leaderboard that sorts, filters, and compares pairs.

It needs no server and no network: all is in one file, which opens from a disk. Every name
that it shows is escaped, and no name becomes part of a script.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from etils import epath

from jaxpure.errors import UserError
from jaxpure.evaluation import paired
from jaxpure.files import write_atomically
from jaxpure.report import words
from jaxpure.report.frame import render


@dataclass(frozen=True)
class Entry:
    """A finished run on the leaderboard.

    Attributes:
      name: what to call it.
      report: path of its own page, or None where it has none.
      summary: its summary.json.
      judged: what it found of each example, for comparisons; None where that is not known.
      defense: what was attacked, in text.
    """

    name: str
    report: epath.Path | None
    summary: Mapping[str, Any]
    judged: paired.Judged | None = None
    defense: str = ""


COLUMNS = (
    ("run", "the run; its own report"),
    ("experiment", "equal letters: the same experiment on the same examples"),
    ("images", "examples and data set"),
    ("defense", "purifier and networks"),
    ("attack", "attack, and the gradient rule that it follows"),
    ("ball", "what the attack may do"),
    ("policy", "which noise the attack knows"),
    ("reported", "headline: right under the noise that judges"),
    ("fresh", "the same images under noise that no attack saw"),
    (
        "replay",
        "lowest headline of a run on the same defense and images with all noise known",
    ),
    ("worst of N", "right under every judging key"),
    ("clean", "unattacked, under the headline key"),
    ("cost", "purifications"),
    ("verdict", "what the numbers say"),
)
READINGS = {
    "reported": "robust_accuracy",
    "fresh": "robust_accuracy_fresh",
    "worst of N": "worst_of_n",
    "clean": "clean_accuracy",
}
HASH_LETTERS = 8  # shown of a hash
FILTERS = ("images", "attack", "ball", "policy")


def write(path: epath.PathLike, entries: Sequence[Entry]) -> None:
    """Writes the page.

    Args:
      path: of the HTML file; links to reports are relative to it.
      entries: of the runs.

    Raises:
      UserError: there is none.
    """
    if not entries:
        raise UserError("no finished run to show; give a folder that holds some")
    path = epath.Path(path)
    rows = [_row(entry, entries, path.parent) for entry in entries]
    page = render(
        "jaxpure.report",
        "view.html",
        title=f"{len(rows)} runs",
        columns=COLUMNS,
        rows=rows,
        filters={
            name: sorted({row["cells"][name]["text"] for row in rows}) for name in FILTERS
        },
        pairs=pairs(entries),
    )
    write_atomically(path, page.encode())


def pairs(entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """The readings of every two runs on shared images, by "i,j" with i before j."""
    found = {}
    for i, first in enumerate(entries):
        for j in range(i + 1, len(entries)):
            second = entries[j]
            if first.judged is None or second.judged is None:
                continue
            try:
                comparison = paired.compare(first.judged, second.judged)
            except UserError:  # nothing in common
                continue
            found[f"{i},{j}"] = {
                name: {
                    "first": str(reading.first),
                    "second": str(reading.second),
                    "gap": _points(reading.gap),
                    "p": f"{reading.gap.p_value:.2g}",
                    "n": reading.gap.n,
                }
                for name, reading in comparison.readings.items()
            }
    return found


def _row(entry: Entry, entries: Sequence[Entry], base: epath.Path) -> dict[str, Any]:
    summary = entry.summary
    data = f"{summary['num_examples']} of {summary['dataset']}"
    gradient = summary.get("gradient") or ""
    attack = f"{summary['attack']}, {gradient}" if gradient else summary["attack"]
    texts = {
        "run": entry.name,
        "images": data,
        "defense": entry.defense,
        "attack": attack,
        "ball": words.norm_ball(dict(summary)) or "",
        "policy": summary["policy"],
    }
    cells = {name: {"text": text, "value": text} for name, text in texts.items()}
    cells["experiment"] = _experiment(entry, entries)
    readings = {name: summary.get(key) for name, key in READINGS.items()}
    readings["replay"] = _replayed(entry, entries)
    for name, estimate in readings.items():
        cells[name] = _estimate(estimate)
    cost = summary.get("purifications")
    cells["cost"] = {
        "text": words.thousands(cost) or "",
        "value": -1 if cost is None else cost,
    }
    verdict = words.verdict(dict(summary))
    cells["verdict"] = {"text": verdict, "value": len(summary.get("warnings") or [])}
    return {
        "cells": cells,
        "link": None if entry.report is None else _link(entry.report, base),
        "warnings": list(summary.get("warnings") or []),
    }


def _replayed(entry: Entry, entries: Sequence[Entry]) -> dict[str, Any] | None:
    """The lowest headline of the runs on the same subject that know all noise."""
    found = [
        other.summary["robust_accuracy"]
        for other in entries
        if _same_subject(other, entry) and words.knowledge(dict(other.summary)) == "all"
    ]
    return min(found, key=lambda estimate: estimate["value"], default=None)


def _experiment(entry: Entry, entries: Sequence[Entry]) -> dict[str, str]:
    """The hash, and which other runs are of the same experiment."""
    found = entry.summary.get("hash")
    if not found:  # of an earlier version
        return {"text": "", "value": ""}
    same = [e.name for e in entries if e is not entry and e.summary.get("hash") == found]
    short = str(found)[:HASH_LETTERS]
    more = {"more": f"as {', '.join(same)}"} if same else {}
    return {"text": short, "value": short, **more}


def _same_subject(first: Entry, second: Entry) -> bool:
    """Whether the headlines of two runs are of the same defense, ball, keys and images.

    By their hashes where both summaries have one, else by what they say.
    """
    ours, theirs = (entry.summary.get("subject_hash") for entry in (first, second))
    if ours and theirs:
        return bool(ours == theirs)
    return _told_subject(first) == _told_subject(second)


def _told_subject(entry: Entry) -> tuple[Any, ...]:
    summary = entry.summary
    shared = (summary.get(name) for name in ("dataset", "norm", "eps", "seed"))
    return entry.defense, tuple(summary.get("indices") or ()), *shared


def _estimate(estimate: Mapping[str, Any] | None) -> dict[str, Any]:
    if not estimate:
        return {"text": "", "value": -1}
    low, high = (100 * estimate[name] for name in ("low", "high"))
    return {
        "text": f"{100 * estimate['value']:.1f}%",
        "more": f"{low:.1f} to {high:.1f}",
        "value": estimate["value"],
    }


def _points(gap: Any) -> str:
    return f"{100 * gap.gap:+.1f} points ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"


def _link(report: epath.Path, base: epath.Path) -> str:
    """A relative address, whose every part is quoted: no name is taken for a scheme."""
    relative = os.path.relpath(os.fspath(report), os.fspath(base))
    return "./" + quote(relative.replace(os.sep, "/"))
