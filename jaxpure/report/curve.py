"""Curves of the pages, an attack's and a training's: inline SVG in a page's colours."""

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from jaxpure.evaluation.result import Result
from jaxpure.report.words import interval, knowledge

# Colours of the page, by what stands for them in a drawing (CSS has light and dark).
COLOURS = {
    "#000001": "var(--ink)",
    "#000002": "var(--muted)",
    "#000003": "var(--line)",
    "#000004": "var(--defended)",
    "#000005": "var(--undefended)",
    "#000006": "var(--unseen)",
}
INK, MUTED, LINE, DEFENDED, UNDEFENDED, UNSEEN = COLOURS

DRAWING: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxpure",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}


def draw(summary: dict[str, Any], defended: Result, undefended: Result | None) -> Markup:
    """Share of images not yet broken against evaluations, as inline SVG."""
    limit = _longest(defended, undefended)
    with matplotlib.rc_context(DRAWING):
        figure, axes = _empty("evaluations of the attack, for each image")
        axes.set_xlim(0, limit)
        axes.set_ylim(0, 100)
        axes.set_yticks(range(0, 101, 25), [f"{y}%" for y in range(0, 101, 25)])

        labels = []
        for name, result, colour in (
            ("purified, as the\nattack saw it", defended, DEFENDED),
            ("undefended, as the\nattack saw it", undefended, UNDEFENDED),
        ):
            if result is None:
                continue
            steps, share = _unbroken(result, limit)
            axes.step(
                steps,
                share,
                where="post",
                color=colour,
                linewidth=2,
                zorder=3,
                clip_on=False,
            )
            labels.append((share[-1], f"{name} {share[-1]:.1f}%", colour))
        if judged := summary.get("robust_accuracy"):
            low, value, high = (100 * judged[k] for k in ("low", "value", "high"))
            axes.axhspan(low, high, color=DEFENDED, alpha=0.13, linewidth=0)
            axes.axhline(value, color=DEFENDED, linewidth=1.2, linestyle=(0, (5, 3)))
            labels.append((value, f"purified, judged\n(headline) {value:.1f}%", DEFENDED))
        unseen = summary.get("robust_accuracy_fresh")
        if unseen and knowledge(summary) != "none":
            value = 100 * unseen["value"]
            axes.axhline(value, color=UNSEEN, linewidth=1.5, linestyle=(0, (1, 2)))
            text = f"purified, judged\nunder unseen keys {value:.1f}%"
            labels.append((value, text, UNSEEN))
        _label_ends(axes, labels)
        return _inline(figure)


def describe(summary: dict[str, Any], defended: Result, undefended: Result | None) -> str:
    """The curves' ends, for those who do not see them."""
    limit = _longest(defended, undefended)
    kept = f"{_unbroken(defended, limit)[1][-1]:.1f}% of purified"
    if undefended is not None:
        kept += f" and {_unbroken(undefended, limit)[1][-1]:.1f}% of undefended"
    return (
        f"After {limit} evaluations of the attack, as it saw it, {kept} images were not "
        "yet broken; judged, the purified classifier keeps "
        f"{interval(summary.get('robust_accuracy'))}."
    )


class Line(NamedTuple):
    """A number along a training.

    Attributes:
      name: of it, written beside its end.
      steps: `(n,)` ascending.
      values: `(n,)`.
    """

    name: str
    steps: Sequence[int]
    values: Sequence[float]


def along(lines: Sequence[Line], *, shares: bool = False) -> Markup:
    """Up to three lines against the steps of a training, as inline SVG.

    Args:
      lines: each with at least one point.
      shares: values are shares, and told in percent; else they are losses, on a logarithmic
        axis where they span more than tenfold.
    """
    scale, written = (100, "{:.1f}%") if shares else (1, "{:.4f}")
    every = [scale * value for line in lines for value in line.values]
    with matplotlib.rc_context(DRAWING):
        figure, axes = _empty("training steps")
        if not shares and min(every) > 0 and max(every) > 10 * min(every):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}%" if shares else "{x:g}")
        labels = []
        for line, colour in zip(lines, (DEFENDED, UNDEFENDED, UNSEEN), strict=False):
            values = [scale * value for value in line.values]
            marker = "o" if len(values) == 1 else None
            axes.plot(
                line.steps, values, color=colour, linewidth=2, marker=marker, clip_on=False
            )
            text = f"{line.name} {written.format(values[-1])}"
            labels.append((values[-1], text, colour))
        axes.set_xlim(0, max(line.steps[-1] for line in lines))
        axes.set_ylim(axes.get_ylim())  # else matplotlib chooses it when it draws
        _label_ends(axes, labels)
        return _inline(figure)


def _empty(what: str) -> tuple[Figure, Any]:
    """A figure and its axes, in the page's style, with room for names at the right."""
    figure = Figure(figsize=(7.6, 3.3))
    axes = figure.add_axes((0.065, 0.145, 0.675, 0.815))
    axes.set_xlabel(what)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.tick_params(length=0, pad=5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    return figure, axes


def _longest(*results: Result | None) -> int:
    found = [result for result in results if result is not None]
    return max(int(result.evaluations.max(initial=1)) for result in found)


def _unbroken(result: Result, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Evaluations 0, 1, ... `limit`, and percent of images not broken after each."""
    steps = np.arange(limit + 1)
    needed = np.where(result.evaluations == 0, 0, result.broken_at + 1)
    needed = np.where(result.broken_at < 0, limit + 1, needed)
    return steps, 100 * (needed[None, :] > steps[:, None]).mean(1)


def _label_ends(axes: Any, labels: Sequence[tuple[float, str, str]]) -> None:
    """Writes a text beside each line's right end, moved apart where they meet."""
    labels = sorted(labels, key=lambda label: label[0])
    ends = axes.transData.transform([(0, value) for value, _, _ in labels])
    heights = axes.transAxes.inverted().transform(ends)[:, 1]
    places = _apart(100 * heights, gap=15, low=4, high=96)
    for (_, text, colour), height, place in zip(labels, heights, places, strict=True):
        axes.plot(
            (1.008, 1.035),
            (height, place / 100),
            transform=axes.transAxes,
            color=colour,
            linewidth=0.9,
            clip_on=False,
        )
        axes.text(
            1.042,
            place / 100,
            text,
            transform=axes.transAxes,
            color=colour,
            va="center",
            fontsize=9,
        )


def _apart(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending values moved as little as need be to lie `gap` apart in the range."""
    places = [min(max(value, low), high) for value in values]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    if places:
        places[-1] = min(places[-1], high)
    for i in reversed(range(len(places) - 1)):
        places[i] = min(places[i], places[i + 1] - gap)
    return places


def _inline(figure: Figure) -> Markup:
    """A drawing as part of the page: in its colours and fonts, without references."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", svg)
    svg = re.sub(r'(<svg[^>]*?)\s(?:width)="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?)\s(?:height)="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", '<svg aria-hidden="true"', 1)
    for stand_in, colour in COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return Markup(svg)
