"""The page: one HTML file with all drawings in it, and the CSVs beside it."""

import base64
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.paper.relations import RELATIONS, WORDS, Finding
from experiments.paper.sections import SECTIONS, Figure, Report
from jaxpure import report
from jaxpure.files import write_atomically
from jaxpure.report.words import emphasised

KINDS = {"held": "held", "did not hold": "not-held", "undecided": "undecided"}
FIGURES = "figures"


def write(
    folder: pathlib.Path,
    title: str,
    reports: Mapping[str, Report],
    facts: list[tuple[str, str]],
) -> pathlib.Path:
    """Draws all figures and writes the page.

    Args:
      folder: where `paper.html` and the folder of figures go.
      title: of the page.
      reports: by section.
      facts: rows of what was run, and on what.

    Returns:
      The page's path.
    """
    findings = {f.relation: f for r in reports.values() for f in r.findings}
    text = report.render(
        "experiments.paper",
        "page.html",
        title=title,
        verdict=emphasised(verdict(findings)),
        relations=[_row(number, findings[number]) for number in RELATIONS],
        sections=[_section(folder, name, found) for name, found in reports.items()],
        facts=facts,
    )
    path = folder / "paper.html"
    write_atomically(path, text.encode())
    return path


def verdict(findings: Mapping[int, Finding]) -> str:
    """One sentence on all relations."""
    by = {
        outcome: sum(f.outcome == outcome for f in findings.values()) for outcome in KINDS
    }
    left = by["undecided"]
    return (
        f"Of {len(RELATIONS)} relations that the papers claim, {by['held']} held here, "
        f"{by['did not hold']} did not, and {left} {'is' if left == 1 else 'are'} "
        "undecided at this size."
    )


def _row(number: int, finding: Finding) -> dict[str, Any]:
    return {
        **RELATIONS[number]._asdict(),
        **finding._asdict(),
        "number": number,
        "outcome": WORDS[finding.outcome],
        "otherwise": RELATIONS[number].otherwise * (finding.outcome == "did not hold"),
        "kind": KINDS[finding.outcome],
    }


def _section(folder: pathlib.Path, name: str, found: Report) -> dict[str, Any]:
    section = SECTIONS[name]
    return {
        "name": name,
        "title": section.title,
        "relations": section.relations,
        "notes": found.notes,
        "figures": [_figure(folder, figure) for figure in found.figures],
    }


def _figure(folder: pathlib.Path, figure: Figure) -> dict[str, Any]:
    """Draws it; the drawing goes into the page, its CSVs are linked."""
    place = folder / FIGURES
    for old in place.glob(f"{figure.name}*.csv"):
        if old.stem == figure.name or old.stem.startswith(f"{figure.name}_"):
            old.unlink()
    path = place / f"{figure.name}.svg"
    figure.draw(path)
    encoded = base64.b64encode(path.read_bytes()).decode()
    csvs = [
        p
        for p in sorted(place.glob("*.csv"))
        if p.stem == figure.name or p.stem.startswith(f"{figure.name}_")
    ]
    return {
        "title": _capitalised(figure.title),
        "caption": _capitalised(figure.caption),
        "uri": f"data:image/svg+xml;base64,{encoded}",
        "csvs": [{"name": p.name, "href": f"{FIGURES}/{p.name}"} for p in csvs],
    }


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
