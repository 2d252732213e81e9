"""Geometry: is it the key that moves an image, or the image itself?"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from experiments import dissect_figures as figures
from experiments.config import PaperConfig
from experiments.paper.asks import Ask, ask
from experiments.paper.relations import Finding, above, below, both, number
from experiments.paper.sections.section import Figure, Report, Section, needs_noise
from experiments.paper.study import Study
from jaxpure.dissect.geometry import correlations, spectrum, variance_split
from jaxpure.dissect.results import Result, require_finite, summarise

SMALL, LARGE = 0.5, 0.95  # of correlations: keys stay below, starts above
COMPONENTS = 10  # of the spectrum that are drawn
PARTS = ("randomness", "input", "interaction")


def asks(plan: PaperConfig) -> list[Ask]:
    return [ask("cloud", plan.purifier, plan.denoiser)]


def report(study: Study) -> Report:
    found = study.all(*asks(study.plan))
    indices = study.indices[: len(found["by_key"])]
    by = {
        "keys differ, same start": found["by_key"],
        "starts differ, same key": found["by_start"],
    }
    means = [
        require_finite(f"the correlation where {name}", _mean_correlations(clouds), indices)
        for name, clouds in by.items()
    ]
    measured = {"correlation": np.stack(means, 1)}
    about = (
        "Pearson's correlation of purified minus original, mean over pairs of draws, then "
        "over images (bootstrap); starts are random points of the ball"
    )
    table = summarise("correlations", about, measured, axis={"which": np.array(list(by))})
    drawn = [
        Figure(
            "correlations",
            "Correlation of what purification adds",
            about + ".",
            _dots(table),
        ),
        *_by_part(found, indices),
        *_along(found, indices),
        _spectrum(found, indices),
        _variances(found, indices),
    ]
    keys, starts = table.estimate("correlation", 0), table.estimate("correlation", 1)
    outcome = both(below(keys.low, keys.high, SMALL), above(starts.low, starts.high, LARGE))
    finding = Finding(
        5,
        f"{number(keys)} over keys, {number(starts)} over starts",
        outcome,
        f"It held where the first is below {SMALL} and the second above {LARGE}, with "
        f"their intervals; {len(indices)} images, {study.plan.cloud} draws each. Starts "
        f"are random points of the ball of {study.ball}: where it is large, what is "
        "taken off a start again is a large part of what purification does.",
    )
    return Report([finding], drawn)


def _mean_correlations(clouds: np.ndarray) -> np.ndarray:
    """Of each image the mean off-diagonal correlation, `(n,)`, of `(n, k, ...)`."""
    k = clouds.shape[1]
    matrices = [np.asarray(correlations(cloud)) for cloud in clouds]
    return np.array([(m.sum() - np.trace(m)) / (k * (k - 1)) for m in matrices])


def _by_part(found: dict, indices: np.ndarray) -> list[Figure]:
    """Correlations where one part of the noise alone differs; none of a single part."""
    names = [name for name in found if name.startswith("part_")]
    if not names:
        return []
    about = (
        "Pearson's correlation of purified minus original where the keys differ in one "
        "part of the noise alone, mean over pairs of draws, then over images (bootstrap)"
    )
    labels = [f"{name.removeprefix('part_')} noise differs" for name in names]
    table = summarise(
        "correlations_by_part",
        about,
        {"correlation": np.stack([found[name] for name in names], 1)},
        axis={"which": np.array(labels)},
        indices=indices,
    )
    return [Figure("parts", "Which noise it hangs on", about + ".", _dots(table))]


def _dots(table: Result) -> Callable[[Any], None]:
    """Draws mean correlations, one a row."""
    return partial(
        figures.dots,
        table,
        label="which",
        value="correlation",
        xlabel="mean correlation",
        reference=0,
    )


def _along(found: dict, indices: np.ndarray) -> list[Figure]:
    """The correlation over keys at each state; none of a purifier without a chain."""
    if "along" not in found:
        return []
    about = (
        "Pearson's correlation over keys of state minus original (the signal's shrinking "
        "undone), mean over pairs of draws, at each step of the chain; bands: bootstrap "
        "over images"
    )
    table = summarise(
        "correlation_along",
        about,
        {"correlation": found["along"]},
        axis={"step": np.arange(1, 1 + found["along"].shape[1])},
        indices=indices,
    )
    draw = partial(
        figures.curves,
        {"over keys": table},
        x="step",
        y="correlation",
        xlabel="step of the chain, forward phase first",
        ylabel="mean correlation over keys",
        reference=0,
    )
    return [
        Figure("correlation_along", "Where along the chain it comes", about + ".", draw)
    ]


def _spectrum(found: dict, indices: np.ndarray) -> Figure:
    # Under one start what is purified and what purification adds have one spectrum.
    names = {"keys differ": "by_key", "starts differ": "from_start"}
    curves, dimensions = {}, {}
    for name, array in names.items():
        spectra = [spectrum(cloud) for cloud in found[array]]
        shown = min(COMPONENTS, len(spectra[0].explained))
        cumulated = np.stack([np.cumsum(s.explained)[:shown] for s in spectra])
        ratios = np.array([float(s.participation) for s in spectra])
        dimensions[name] = summarise("", "", {"ratio": ratios}, indices=indices)
        curves[name] = summarise(
            f"spectrum_{array}",
            "share of the variance in the first components",
            {"explained": cumulated},
            axis={"components": np.arange(1, shown + 1)},
            indices=indices,
        )
    carried = "; ".join(
        f"{name}: {number(d.estimate('ratio'), 1)}" for name, d in dimensions.items()
    )
    return Figure(
        "spectrum",
        "How many directions carry the purified draws",
        "Share of the variance of purified images in the first principal components (2025 "
        f"submission, Fig. 5b). Participation ratio of {len(found['by_key'][0])} draws, "
        f"bootstrap over images, {carried}.",
        partial(
            figures.curves,
            curves,
            x="components",
            y="explained",
            xlabel="principal components",
            ylabel="share of variance",
        ),
    )


def _variances(found: dict, indices: np.ndarray) -> Figure:
    splits = [variance_split(grid) for grid in found["grid"]]
    shares = np.array(
        [[float(getattr(s, part)) / float(s.both) for part in PARTS] for s in splits]
    )
    table: Result = summarise(
        "variance_split",
        "share of the variance of purified images that hangs on the key, on the start, and "
        "on which meets which; unbiased, so that a share of zero may come out below it",
        {"share": shares},
        axis={"part": np.array(PARTS)},
        indices=indices,
    )
    return Figure(
        "variance_split",
        "Variance of purified images, split",
        f"{table.about} (2026 submission, Fig. 2f); starts are random points of the ball.",
        partial(
            figures.dots,
            table,
            label="part",
            value="share",
            xlabel="share of the variance",
            reference=0,
        ),
    )


SECTION = Section("Geometry of the randomness", (5,), asks, report, needs_noise)
