"""The course of the attack as a curve: inline SVG in the page's own colours."""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
        figure = Figure(figsize=(7.6, 3.3))
        axes = figure.add_axes((0.065, 0.145, 0.675, 0.815))
        axes.set_xlim(0, limit)
        axes.set_ylim(0, 100)
        axes.set_xlabel("evaluations of the attack, for each image")
        axes.set_yticks(range(0, 101, 25), [f"{y}%" for y in range(0, 101, 25)])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color=LINE, linewidth=0.8)
        axes.tick_params(length=0, pad=5)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(LINE)

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
            labels.append((share[-1], name, colour))
        if judged := summary.get("robust_accuracy"):
            low, value, high = (100 * judged[k] for k in ("low", "value", "high"))
            axes.axhspan(low, high, color=DEFENDED, alpha=0.13, linewidth=0)
            axes.axhline(value, color=DEFENDED, linewidth=1.2, linestyle=(0, (5, 3)))
            labels.append((value, "purified, judged\n(headline)", DEFENDED))
        unseen = summary.get("robust_accuracy_fresh")
        if unseen and knowledge(summary) != "none":
            value = 100 * unseen["value"]
            axes.axhline(value, color=UNSEEN, linewidth=1.5, linestyle=(0, (1, 2)))
            labels.append((value, "purified, judged\nunder unseen keys", UNSEEN))
        _label_ends(axes, labels)

        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue())


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
    """Writes each line's name beside its right end, moved apart where they meet."""
    labels = sorted(labels, key=lambda label: label[0])
    places = _apart([value for value, _, _ in labels], gap=15, low=4, high=96)
    right = axes.get_yaxis_transform()  # x in axes, y in data
    for (value, name, colour), place in zip(labels, places, strict=True):
        axes.plot(
            (1.008, 1.035),
            (value, place),
            transform=right,
            color=colour,
            linewidth=0.9,
            clip_on=False,
        )
        text = f"{name} {value:.1f}%"
        axes.text(
            1.042, place, text, transform=right, color=colour, va="center", fontsize=9
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


def _inline(svg: str) -> Markup:
    """A drawing as part of the page: in its colours and fonts, without references."""
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
