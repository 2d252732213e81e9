"""What came of the benchmarks: medians, a table, and a plot."""

import importlib.metadata
import os
import pathlib
import platform
import statistics
from typing import Any

from matplotlib.figure import Figure

from benchmarks.works import MATMUL, Work
from experiments import versions
from experiments.devices import physical_cores

PEERS = ("torch", "diffusers", "foolbox", "pyautoattack")
COLUMNS = {
    "seconds (lowest to highest)": lambda row: (
        f"{row['seconds']:.3g} ({row['lowest']:.3g} to {row['highest']:.3g})"
    ),
    "images a second": lambda row: f"{row['images_a_second']:.3g}",
    "peer / jaxpure": lambda row: _number(row.get("ratio"), ".2f"),
    "evaluations": lambda row: _number(row.get("evaluations"), ".0f"),
    "compile s": lambda row: f"{row['compile']:.1f}",
    "peak MiB": lambda row: f"{row['mib']:.0f}",
    "share of matmul": lambda row: _number(row.get("share"), ".0%"),
}
HEAD = """\
Seconds are medians over processes, in turn ({repeats} of each); to compile, or to warm
up, is what the first process's first call took beyond a later one. The ratio is a
peer's seconds to those of jaxpure's first row. Evaluations are forward passes of the
network for each image. The share is of the rate of a product of two 2048 x 2048
matrices (numpy), measured in the same rounds; a gradient counts as a pass forward and
one back, in a chain with another one forward under the checkpoint.
"""


def machine() -> dict[str, Any]:
    """Where and with what it was measured."""
    found = {"processor": _processor(), "cores": physical_cores(), "cpus": os.cpu_count()}
    for name in PEERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found | versions.packages() | {"commit": versions.git_commit()}


def summarized(work: Work, measured: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """A work's rows: medians over processes, ratios to the first peer, and their sources.

    Args:
      work: what was done.
      measured: results of the processes by peer, as `benchmarks.worker` prints them, and
        under "ready" what the preparation said.
    """
    ready = measured.get("ready", [{}])[0]
    rows = {}
    for peer in work.peers:
        runs = measured.get(peer.name) or [{"error": ready.get("error", "not run")}]
        errors = [run["error"] for run in runs if "error" in run]
        rows[peer.name] = {"error": errors[0]} if errors else _row(work, runs)
    good = [row for row in rows.values() if "error" not in row]
    first = rows[work.peers[0].name]
    rate = _rate(measured.get(MATMUL.name, []))
    operations = next((row["operations"] for row in good if "operations" in row), None)
    for row in good:
        if "seconds" in first:
            row["ratio"] = row["seconds"] / first["seconds"]
        if operations is not None and rate is not None:
            row["share"] = operations / row["seconds"] / rate
    return {
        "about": work.about,
        "matmul_gflops": None if rate is None else rate / 1e9,
        "ready": ready,
        "rows": rows,
        "measured": measured,
    }


def _row(work: Work, runs: list[dict[str, Any]]) -> dict[str, Any]:
    later = [run["later"] for run in runs]
    seconds = statistics.median(later)
    facts = {k: v for k, v in runs[-1].items() if k not in ("first", "later", "mib")}
    return facts | {
        "seconds": seconds,
        "lowest": min(later),
        "highest": max(later),
        "images_a_second": facts.get("images", work.images) / seconds,
        "compile": max(runs[0]["first"] - runs[0]["later"], 0.0),
        "mib": statistics.median(run["mib"] for run in runs),
    }


def _rate(runs: list[dict[str, Any]]) -> float | None:
    """Operations a second of the matrix product."""
    rates = [run["operations"] / run["later"] for run in runs if "later" in run]
    return statistics.median(rates) if rates else None


def table(results: dict[str, Any]) -> str:
    """All works as markdown."""
    about = ", ".join(f"{k} {v}" for k, v in results["machine"].items() if v is not None)
    lines = [HEAD.format(repeats=results["repeats"]), about, ""]
    if results["quick"]:
        lines = [
            "**--quick: small shapes; no figure here says anything of speed.**",
            "",
            *lines,
        ]
    for name, work in results["works"].items():
        lines += [f"## {name}", "", f"{_told(work)}", ""]
        lines += [f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
        lines += [_line(peer, row) for peer, row in work["rows"].items()]
        lines.append("")
    return "\n".join(lines)


def _told(work: dict[str, Any]) -> str:
    """What a work is, and what is known of it besides its rows."""
    sentences = [work["about"]]
    if "differ" in work["ready"]:
        part = f"{work['ready']['differ']:.1e}"
        sentences.append(f"both frameworks' outputs differ by {part} of the largest")
    if "note" in work["ready"]:
        sentences.append(work["ready"]["note"])
    if work["matmul_gflops"] is not None:
        sentences.append(f"matrix product {work['matmul_gflops']:.0f} GFLOP/s")
    for row in work["rows"].values():
        if "first_step" in row:
            sentences.append(
                f"{row['first_step']:.1f} s to the first step "
                f"({row['first_step_cold']:.1f} s with an empty cache)"
            )
    text = "; ".join(sentences)
    return f"{text[0].upper()}{text[1:]}."


def _line(peer: str, row: dict[str, Any]) -> str:
    if "error" in row:
        return f"| {peer} | {row['error']} |" + " |" * (len(COLUMNS) - 1)
    return f"| {peer} | {' | '.join(show(row) for show in COLUMNS.values())} |"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def plot(results: dict[str, Any], path: pathlib.Path) -> None:
    """Bars of the peers' ratios, a group a work, and the curves of `scaling`, as SVG."""
    bars = [
        (f"{name}: {peer}", row["ratio"])
        for name, work in results["works"].items()
        if name != "scaling"
        for peer, row in list(work["rows"].items())[1:]
        if "ratio" in row
    ]
    curves = _curves(results["works"].get("scaling", {"rows": {}})["rows"])
    figure = Figure(figsize=(9, 2.5 + 0.3 * len(bars) + (3 if curves else 0)))
    panels = figure.subplots(2 if bars and curves else 1, squeeze=False)[:, 0]
    if bars:
        names, ratios = zip(*reversed(bars), strict=True)
        panels[0].barh(names, ratios, color="#4878a8")
        panels[0].axvline(1, color="black", linewidth=1)
        panels[0].set_xlabel("seconds, to those of jaxpure on a device a core")
    for axis, points in curves.items():
        values, seconds = zip(*points, strict=True)
        at = [value / values[0] for value in values]
        panels[-1].loglog(at, [s / seconds[0] for s in seconds], marker="o", label=axis)
    if curves:
        panels[-1].set_xlabel("times the smallest")
        panels[-1].set_ylabel("seconds, to the smallest's")
        panels[-1].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def _curves(rows: dict[str, dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """`(value, seconds)` by what was varied."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for name, row in rows.items():
        if "seconds" in row:
            axis, value = name.split()
            curves.setdefault(axis, []).append((int(value), row["seconds"]))
    return curves


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
