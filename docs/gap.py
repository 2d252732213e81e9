"""Draws docs/gap.png, the README's picture, from finished runs.

    python docs/gap.py OUT.png FRESH:REPLAY [FRESH:REPLAY ...]

Each pair of workdirs is the same experiment under policy fresh and under policy replay.
"""

import json
import pathlib
import sys

from matplotlib.figure import Figure

FRESH, REPLAY, INK = "#9db4c0", "#c8553d", "#253237"
KNOWN = {"fresh": "noise unknown to the attack", "replay": "noise replayed"}
TITLES = {"bpda": "BPDA", "exact": "exact gradient"}


def read(workdir: str) -> dict:
    return json.loads((pathlib.Path(workdir) / "summary.json").read_text())


def draw(pairs: list[tuple[dict, dict]], path: str) -> None:
    figure = Figure(figsize=(8, 3.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for i, (fresh, replay) in enumerate(pairs):
        for offset, summary, colour in ((-0.18, fresh, FRESH), (0.18, replay, REPLAY)):
            estimate = summary["robust_accuracy"]
            value = 100 * estimate["value"]
            reach = [[value - 100 * estimate["low"]], [100 * estimate["high"] - value]]
            axes.barh(i + offset, value, 0.32, color=colour)
            axes.errorbar(value, i + offset, xerr=reach, color=INK, capsize=3, lw=1)
            axes.text(
                100 * estimate["high"] + 1,
                i + offset,
                f"{value:.1f}%  {KNOWN[summary['policy']]}",
                va="center",
                color=INK,
            )
    last = pairs[0][1]
    axes.set_yticks(range(len(pairs)), [TITLES[pair[1]["gradient"]] for pair in pairs])
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.set_xlim(0, 125)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel(
        f"images still right, of {last['num_examples']} (undefended classifier: "
        f"{100 * last['robust_accuracy_undefended']['value']:.0f}%)"
    )
    ball = f"L-inf {255 * last['eps']:.3g}/255"
    purifier = last["config"]["purifier"]
    axes.set_title(f"{purifier} on {last['dataset']}, {ball}", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


if __name__ == "__main__":
    out, *arguments = sys.argv[1:]
    draw([tuple(map(read, pair.split(":"))) for pair in arguments], out)
