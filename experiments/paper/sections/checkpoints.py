"""Checkpoints of one denoiser: does a better generative model purify better?"""

from functools import partial
from typing import Any

import numpy as np

from experiments import dissect_figures as draw
from experiments.config import PaperConfig
from experiments.paper.asks import Ask, ask
from experiments.paper.relations import Finding, Outcome, number
from experiments.paper.sections.section import Figure, Report, Section, needs_path
from experiments.paper.study import Study
from jaxpure.dissect import frechet
from jaxpure.dissect.prediction import correlation
from jaxpure.dissect.results import Result, bootstrap
from jaxpure.evaluation.statistics import wilson

LEAST = 5  # checkpoints: reviewers refused two
QUALITIES = {"frechet": "samples", "error": "error"}
RAW = "-raw"  # ends the names of weights that no average was taken of


def asks(plan: PaperConfig) -> list[Ask]:
    if len(plan.checkpoints) < LEAST:
        return []
    return [
        ask(measure, plan.purifier, name)
        for name in plan.checkpoints
        for measure in ("sweep", "quality", "samples")
    ]


def report(study: Study) -> Report:
    plan = study.plan
    if len(plan.checkpoints) < LEAST:
        raise ValueError(
            f"{len(plan.checkpoints)} checkpoints are given, and the question needs "
            f"{LEAST} of one denoiser: train it with --config.kept_checkpoints=5 and give "
            "--checkpoints=RUN/kept"
        )
    rows = [_row(study, name) for name in plan.checkpoints]
    rows.sort(key=lambda row: row["error"])
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    about = (
        "clean and replayed robust accuracy, Wilson's intervals, against the denoiser's "
        "quality (lower is better): the Frechet distance, in the classifier's logits and "
        "not in an Inception network's features, between the images and what it makes of "
        "them from the most noise that it knows, bootstrap over images; and the mean "
        "squared error of the predicted noise over the noise levels of the chain"
    )
    table = Result("checkpoints", about, columns, {"images": len(study.dataset)})
    figures = [
        _figure(table, "frechet", "Frechet distance of logits (lower is a better model)"),
        _figure(table, "error", "denoising error (lower is a better model)"),
    ]
    try:
        samples = correlation(table["frechet"], table["robust"]).spearman
        error = correlation(table["error"], table["robust"]).spearman
    except ValueError as why:
        finding = Finding(10, "no correlation", "undecided", f"{why}.")
        return Report([finding], figures)
    # Better models more robust is what the claim denies; that nothing is seen is no proof.
    outcome: Outcome = "undecided"
    if samples.high < 0:
        outcome = "did not hold"
    elif samples.low > 0:
        outcome = "held"
    sentence = (
        "Spearman's correlation of the Frechet distance of samples (in the classifier's "
        f"logits) with robustness over {samples.n} checkpoints; it did not hold where "
        "robustness clearly falls with the distance. Of its denoising error: "
        f"{number(error)}."
    )
    return Report([Finding(10, number(samples), outcome, sentence)], figures)


def _row(study: Study, name: str) -> dict[str, Any]:
    """What was found of one checkpoint."""
    swept, error, made = (
        study.all(ask(measure, study.plan.purifier, name))
        for measure in ("sweep", "quality", "samples")
    )
    stem = name.rpartition("/")[2].removesuffix(".safetensors")
    estimates = {
        "frechet": frechet.of_samples(made["made"], made["real"]),
        "error": bootstrap(error["error"]),
        "clean": wilson(swept["clean"]),
        "robust": wilson(swept["robust"]),
    }
    return {
        "checkpoint": stem,
        "weights": "raw" if stem.endswith(RAW) else "averaged",
        **{
            f"{column}{end}": value
            for column, estimate in estimates.items()
            for end, value in zip(("", "_low", "_high"), estimate[:3], strict=True)
        },
        "rate": float(swept["rate"].mean()),
    }


def _figure(table: Result, by: str, label: str) -> Figure:
    return Figure(
        f"checkpoints_{by}",
        f"Robustness against the denoiser's {QUALITIES[by]}",
        f"{table.about}. One dot is one checkpoint.",
        partial(
            draw.groups,
            table,
            by="weights",
            x=by,
            y="robust",
            xlabel=label,
            ylabel="robust under replay (share)",
            log="x",
        ),
    )


SECTION = Section("Checkpoints of the denoiser", (10,), asks, report, needs_path)
