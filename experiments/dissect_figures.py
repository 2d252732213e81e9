"""Draws what `jaxpure.dissect` measures. Each figure writes its CSV beside it.

One style: colours that colour-blind readers can tell apart (Okabe and Ito 2008), told apart
by marker and dash too, so that print in grey does; intervals drawn wherever there are any;
units on every axis. A figure is 5 inches wide, so that a phone shows it legibly.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxpure.dissect.prediction import LogisticFit
from jaxpure.dissect.results import Result
from jaxpure.dissect.theory import Picture

INK, GREY = "#000000", "#999999"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK)
MARKERS, DASHES = "osD^vP*", ("-", "--", "-.", ":", "-", "--", "-.")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "figure.dpi": 180,
    "svg.fonttype": "none",
    # A browser's letters are wider than those that the layout was made with.
    "figure.constrained_layout.w_pad": 0.12,
    "svg.hashsalt": "jaxpure",  # the same numbers give the same file
}
MAX_MARKS = 12  # markers on a curve, whatever its number of points

# What a path is followed by: column, axis label.
FATE = {
    "l2": "L2 to clean image\n(pixels in [0, 1])",
    "linf": "L-inf to clean image\n(pixels in [0, 1])",
    "ssim": "SSIM to clean image\n(1 = the same)",
    "along": "perturbation left\n(1 = as attacked)",
    "orthogonal": "orthogonal remainder\n(perturbation lengths)",
    "paired": "left, against the clean\npath (1 = as attacked)",
    "margin": "classifier margin\n(logits)",
}


def curves(
    results: Mapping[str, Result],
    path: str | pathlib.Path,
    *,
    x: str,
    y: str,
    xlabel: str,
    ylabel: str,
    log: str = "",
    reference: float | None = None,
    saved: Result | None = None,
) -> None:
    """One curve with its band for each named result.

    Args:
      results: by the name that the legend gives it.
      path: of the PNG.
      x: column along the axis.
      y: column drawn, with its ends.
      xlabel: with units.
      ylabel: with units.
      log: axes in logarithms, "x", "y" or "xy".
      reference: a horizontal line.
      saved: what the CSV holds, if not each curve one of its own.
    """
    with rc_context(STYLE):
        figure, axes = _figure()
        for i, (name, result) in enumerate(results.items()):
            _curve(axes, i, result, x, y, name)
        at = next(iter(results.values()))[x]
        _scale(axes, log, at)
        if "x" not in log and at.dtype.kind in "iu":  # steps, components
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if reference is not None:
            axes.axhline(reference, color=GREY, lw=1, zorder=0)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if len(results) > 1:
            axes.legend()
        only = next(iter(results.values())) if len(results) == 1 else results
        _save(figure, path, saved or only)


def groups(
    result: Result, path: str | pathlib.Path, *, by: str, x: str, y: str, **options: Any
) -> None:
    """As `curves`, from one result in long form, a curve for each value of column `by`."""
    split = {}
    for name in dict.fromkeys(result[by].tolist()):
        rows = result[by] == name
        columns = {c: result[c][rows] for c in result.columns if c != by}
        split[str(name)] = Result(result.name, result.about, columns, result.notes)
    curves(split, path, x=x, y=y, saved=result, **options)


def dots(
    result: Result,
    path: str | pathlib.Path,
    *,
    label: str,
    value: str,
    xlabel: str,
    reference: float | None = None,
) -> None:
    """One estimate with its interval a row: AUCs, correlations, rates, variances."""
    with rc_context(STYLE):
        figure, axes = _figure(height=0.9 + 0.36 * len(result))
        low, high = result.interval(value)
        for i in range(len(result)):
            axes.plot([low[i], high[i]], [i, i], color=COLOURS[0], lw=2)
            axes.plot(result[value][i], i, "o", color=COLOURS[0], ms=6)
        if reference is not None:
            axes.axvline(reference, color=GREY, lw=1, zorder=0)
        axes.set_yticks(range(len(result)), [str(name) for name in result[label]])
        axes.set_ylim(len(result) - 0.5, -0.5)
        axes.set_xlabel(xlabel, loc="right")  # room is on the left, below the names
        _save(figure, path, result)


def key_matrix(cells: Result, path: str | pathlib.Path) -> None:
    """The matrix of attack key against judging key, each cell with its interval."""
    attacks, judges = (int(cells[c].max()) + 1 for c in ("attack", "judge"))
    grid = 100 * cells["success"].reshape(attacks, judges)
    low, high = (100 * end for end in cells.interval("success"))
    with rc_context(STYLE):
        figure, axes = _figure(1.2 + 0.55 * attacks, max(5, 2 + 0.5 * judges))
        image = axes.imshow(grid, cmap="cividis", vmin=0, vmax=100, aspect="auto")
        for row in range(len(cells)):
            a, j = int(cells["attack"][row]), int(cells["judge"][row])
            text = f"{grid[a, j]:.0f}\n{low[row]:.0f}–{high[row]:.0f}"
            colour = "white" if grid[a, j] < 50 else "black"
            weight = "bold" if cells["seen"][row] else "normal"
            axes.text(
                j,
                a,
                text,
                ha="center",
                va="center",
                color=colour,
                weight=weight,
                fontsize=8 if judges <= 6 else 6.5,
            )
        axes.set(xlabel="judging key", ylabel="attack key")
        axes.set_xticks(range(judges))
        axes.set_yticks(range(attacks))
        axes.set_title("bold: the attack knew the key")
        axes.spines[:].set_visible(False)
        figure.colorbar(image, label="attack success (% of images)")
        _save(figure, path, cells)


def fate(results: Mapping[str, Result], path: str | pathlib.Path) -> None:
    """What becomes of perturbations along the chain: a panel for each measure they have.

    Args:
      results: by kind (adversarial, random): columns of `denoising.steps_of` and of FATE.
      path: of the PNG.
    """
    first = next(iter(results.values()))
    shown = [column for column in FATE if column in first.columns]
    with rc_context(STYLE):
        rows = -(-len(shown) // 2)
        figure = Figure(figsize=(6.4, 0.5 + 1.9 * rows), layout="constrained")
        panels = figure.subplots(rows, 2, sharex=True, squeeze=False).reshape(-1)
        for axes, column in zip(panels, shown, strict=False):
            for i, (name, result) in enumerate(results.items()):
                _curve(axes, i, result, "step", column, name)
            top = first["step"][first["phase"] == "forward"].max()
            axes.axvspan(0, top, color="#EEEEEE", zorder=-1, lw=0)
            axes.set_ylabel(FATE[column])
            axes.tick_params(labelbottom=True)
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        figure.supxlabel("step of the chain (grey: forward phase)", fontsize=10)
        panels[0].legend()
        _save(figure, path, results)


def requirements(table: Result, path: str | pathlib.Path) -> None:
    """The 2x2 table of anchor and ball, with intervals."""
    with rc_context(STYLE):
        figure, axes = _figure(height=2.8)
        low, high = (100 * end for end in table.interval("share"))
        for i in range(len(table)):
            column, row = 1 - int(table["ball_held"][i]), 1 - int(table["anchor_right"][i])
            share = 100 * table["share"][i]
            axes.text(
                column,
                row,
                f"{share:.0f}% of images\n({low[i]:.0f}–{high[i]:.0f}%)\n"
                f"{_points(table['ball_right'][i])}",
                ha="center",
                va="center",
            )
        grid = np.zeros((2, 2))
        for i in range(len(table)):
            where = 1 - int(table["anchor_right"][i]), 1 - int(table["ball_held"][i])
            grid[where] = table["share"][i]
        axes.imshow(grid, cmap="Blues", vmin=0, vmax=1.8, aspect="auto")
        axes.set_xticks([0, 1], ["ball held to\nthe anchor", "ball not held"])
        axes.set_yticks([0, 1], ["anchor\nright", "anchor\nwrong"])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        _save(figure, path, table)


def sigmoid(fit: LogisticFit, path: str | pathlib.Path, labels: Sequence[str] = ()) -> None:
    """Robust share against compression rate, the fitted sigmoid, and the residuals."""
    table = fit.settings
    with rc_context(STYLE):
        figure = Figure(figsize=(5, 4.4), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        rate = np.geomspace(table["rate"].min() / 1.2, table["rate"].max() * 1.2, 200)
        value, low, high = fit.curve(rate)
        top.fill_between(rate, 100 * low, 100 * high, color=COLOURS[0], alpha=0.2, lw=0)
        top.plot(rate, 100 * value, color=COLOURS[0], label="logistic fit, 95% band")
        for axes, column in ((top, "share"), (bottom, "residual")):
            reach = np.stack(table.interval("share")) - table["share"]
            y = table[column]
            axes.errorbar(
                table["rate"],
                100 * y,
                yerr=100 * np.abs(reach),
                fmt="o",
                color=COLOURS[1],
                elinewidth=1,
                label="one setting, 95%",
            )
        for name, x, y in zip(labels, table["rate"], table["share"], strict=False):
            top.annotate(
                name, (x, 100 * y), textcoords="offset points", xytext=(5, 5), fontsize=7
            )
        bottom.axhline(0, color=GREY, lw=1, zorder=0)
        top.set(xscale="log", ylim=(-3, 103), ylabel="robust under replay (%)")
        bottom.set(ylabel="residual (%)")
        bottom.set_xlabel("expected compression rate (lower = stronger)")
        round_ones = [10.0**power * m for power in range(-6, 3) for m in (1, 2, 3, 5, 7)]
        shown = [r for r in round_ones if rate[0] <= r <= rate[-1]]
        bottom.set_xticks(shown, [f"{r:g}" for r in shown])
        bottom.minorticks_off()
        top.legend()
        _save(figure, path, table)


def outcomes(
    images: Result,
    path: str | pathlib.Path,
    *,
    x: str,
    y: str,
    outcome: str,
    xlabel: str,
    ylabel: str,
) -> None:
    """One mark an image, filled where it stays right: the 2025 submission's Fig. 6.

    Args:
      images: a row for each image; thresholds that were not reached are infinite.
      path: of the PNG.
      x: column along the axis.
      y: column drawn; what is infinite is drawn as an arrow above all others.
      outcome: column, 1 where the image stays right.
      xlabel: with units.
      ylabel: with units.
    """
    right, height = images[outcome].astype(bool), images[y].astype(float)
    reached = np.isfinite(height)
    top = 1.1 * height[reached].max() if reached.any() else 1.0
    with rc_context(STYLE):
        figure, axes = _figure()
        for i, (name, chosen) in enumerate(
            {"broken": ~right, "stays right": right}.items()
        ):
            form: dict[str, Any] = {"color": COLOURS[1 - i], "ls": "none"}
            form["mfc"] = COLOURS[1 - i] if i else "none"
            at = images[x]
            seen, beyond = chosen & reached, chosen & ~reached
            axes.plot(at[seen], height[seen], MARKERS[i], label=name, **form)
            axes.plot(at[beyond], np.full(beyond.sum(), top), "^", **form)
        if not reached.all():
            axes.set_title("triangles: not reached as far as was looked")
        axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1.1 * top))
        axes.legend()
        _save(figure, path, images)


def success_curve(curve: Result, images: Result, path: str | pathlib.Path) -> None:
    """Fuzzy robustness: each image's success over keys, and the cumulative curve."""
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.hist(images["success"], bins=np.linspace(0, 1, 21), color=COLOURS[0])
        left.set(xlabel="success probability over keys", ylabel="images")
        left.yaxis.set_major_locator(MaxNLocator(integer=True))
        q = np.r_[0, curve["probability"]]
        low, high = (100 * end for end in curve.interval("share"))
        share = 100 * curve["share"]
        right.stairs(high, q, baseline=low, fill=True, color=COLOURS[1], alpha=0.25, lw=0)
        right.stairs(share, q, baseline=None, color=COLOURS[1], lw=1.6)
        right.set(
            xlabel="q (share of keys)", ylabel="images with success ≥ q (%)", ylim=(-3, 103)
        )
        _save(figure, path, {"curve": curve, "images": images})


def success_by_dimension(table: Result, path: str | pathlib.Path) -> None:
    """The theorems: success under fresh noise, EOT and replay, sampled and exact."""
    names = {"fresh": "fresh, best", "eot": "fresh, EOT", "replay": "replay"}
    with rc_context(STYLE):
        figure, axes = _figure()
        n = table["dimension"]
        for i, (column, name) in enumerate(names.items()):
            exact = table[f"{column}_exact"]
            axes.plot(n, 100 * exact, DASHES[i], color=COLOURS[i], label=name)
            low, high = table.interval(column)
            value = table[column]
            axes.errorbar(
                n * 1.05 ** (i - 1),
                100 * value,
                yerr=100 * np.abs(np.stack([value - low, high - value])),
                fmt=MARKERS[i],
                color=COLOURS[i],
                elinewidth=1,
            )
        axes.set(xscale="log", xlabel="dimensions n", ylabel="attack success (% of keys)")
        axes.set_xticks(n, [str(int(i)) for i in n], minor=False)
        axes.minorticks_off()
        figure.legend(loc="outside upper center", ncols=3)
        axes.set_title("lines: exact; marks: sampled, 95%")
        _save(figure, path, table)


def pictures(panels: Mapping[str, Picture], path: str | pathlib.Path) -> None:
    """The picture in two dimensions: adversarial discs of some keys, and where to go."""
    with rc_context(STYLE):
        figure = Figure(figsize=(3.2 * len(panels) + 0.6, 3.4), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        top = max(100 * picture.success.max() for picture in panels.values())
        norm = PowerNorm(0.5, vmin=0, vmax=1.3 * top)  # a small chance shows too
        image, results = None, {}
        angle = np.linspace(0, 2 * np.pi, 200)
        circle = np.stack([np.cos(angle), np.sin(angle)])
        for axes, (name, p) in zip(grid, panels.items(), strict=True):
            reach = (p.grid[0], p.grid[-1])
            image = axes.imshow(
                100 * p.success,
                extent=(*reach, *reach),
                origin="lower",
                cmap="Greys",
                norm=norm,
            )
            for centre in p.centres:
                axes.plot(
                    *(centre[:, None] + p.rho * circle), color=COLOURS[1], lw=0.7, alpha=0.5
                )
            axes.plot(*(p.eps * circle), "--", color=COLOURS[0], lw=2)
            axes.plot(*p.best, "*", color=COLOURS[0], ms=11, mec="white")
            axes.set(xlim=reach, ylim=reach, title=name)
            axes.set(xlabel="perturbation, first coordinate", ylabel="second coordinate")
            first, second = np.meshgrid(p.grid, p.grid)
            columns = {"first": first.ravel(), "second": second.ravel()}
            columns["success"] = p.success.ravel()
            notes = {"rho": p.rho, "eps": p.eps, "keys": len(p.centres)}
            about = "chance over keys that a perturbation succeeds, for every place"
            results[name] = Result("picture", about, columns, notes)
        if image is not None:
            figure.colorbar(image, ax=grid, label="success (% of keys)")
        figure.supxlabel(
            "orange: succeeds under a key; dashed: within reach; star: best without a key",
            fontsize=8,
        )
        _save(figure, path, results)


def _figure(height: float = 3.4, width: float = 5) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _curve(axes: Axes, i: int, result: Result, x: str, y: str, name: str) -> None:
    """The i-th curve of a panel, with its band where the column has an interval."""
    colour, at = COLOURS[i % len(COLOURS)], result[x]
    if f"{y}_low" in result.columns:
        low, high = result.interval(y)
        axes.fill_between(at, low, high, color=colour, alpha=0.2, lw=0)
    every = max(1, len(at) // MAX_MARKS)
    form = DASHES[i % len(DASHES)] + MARKERS[i % len(MARKERS)]
    # Marks of different curves lie at different places, or one would hide the other.
    axes.plot(at, result[y], form, color=colour, label=name, markevery=(i % every, every))


def _scale(axes: Axes, log: str, at: np.ndarray) -> None:
    """Logarithmic axes; few places on the horizontal one are marked with their numbers."""
    if "y" in log:
        axes.set_yscale("log")
    if "x" in log:
        axes.set_xscale("log")
        at = at[at > 0]  # what is not has no place on such an axis
        names = [f"{place:g}" for place in at]
        apart = np.diff(np.sort(np.log(at)))
        # Measured places lie anywhere, and their numbers are long.
        if len(at) <= MAX_MARKS and max(map(len, names)) <= 5 and (apart > 0.3).all():
            axes.set_xticks(at, names)
            axes.minorticks_off()


def _points(share: float) -> str:
    return f"points right: {100 * share:.0f}%" if np.isfinite(share) else "no image"


def _save(
    figure: Figure, path: str | pathlib.Path, results: Result | Mapping[str, Result]
) -> None:
    """The PNG or SVG, and beside it a CSV, or one for each named result."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    if isinstance(results, Result):
        results.write(path.with_suffix(".csv"))
        return
    for name, result in results.items():
        slug = "".join(c if c.isalnum() else "_" for c in name)
        result.write(path.with_name(f"{path.stem}_{slug}.csv"))
