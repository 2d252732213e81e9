"""Checkpoints of one denoiser: does a better generative model purify better?"""

from functools import partial

import numpy as np

from experiments import dissect_figures as figures
from experiments.paper.asks import Ask, ask
from experiments.paper.plans import Plan
from experiments.paper.relations import Finding, Outcome, number
from experiments.paper.sections.section import Figure, Report, Section, needs_path
from experiments.paper.study import Study
from jaxpure.dissect.prediction import correlation
from jaxpure.dissect.results import Result, bootstrap
from jaxpure.evaluation.statistics import wilson

LEAST = 5  # checkpoints: reviewers refused two


def asks(plan: Plan) -> list[Ask]:
    if len(plan.checkpoints) < LEAST:
        return []
    return [
        ask(measure, plan.purifier, name)
        for name in plan.checkpoints
        for measure in ("sweep", "quality")
    ]


def report(study: Study) -> Report:
    plan = study.plan
    if len(plan.checkpoints) < LEAST:
        raise ValueError(
            f"{len(plan.checkpoints)} checkpoints are given, and the question needs "
            f"{LEAST} of one denoiser: train it with --config.kept_checkpoints=5 and give "
            "--checkpoints=RUN/kept"
        )
    rows = []
    for name in plan.checkpoints:
        swept = study.all(ask("sweep", plan.purifier, name))
        error = bootstrap(study.all(ask("quality", plan.purifier, name))["error"])
        clean, robust = wilson(swept["clean"]), wilson(swept["robust"])
        rows.append(
            {
                "checkpoint": name.rpartition("/")[2].removesuffix(".safetensors"),
                **dict(zip(("error", "error_low", "error_high"), error, strict=True)),
                **dict(zip(("clean", "clean_low", "clean_high"), clean[:3], strict=True)),
                **dict(
                    zip(("robust", "robust_low", "robust_high"), robust[:3], strict=True)
                ),
                "rate": float(swept["rate"].mean()),
            }
        )
    rows.sort(key=lambda row: row["error"])
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    about = (
        "mean squared error of the predicted noise on the images, over the noise levels of "
        "the chain (lower is a better model; in place of FID), against clean and replayed "
        "robust accuracy, Wilson's intervals"
    )
    table = Result("checkpoints", about, columns, {"images": len(study.dataset)})
    figure = Figure(
        "checkpoints",
        "Quality of the denoiser against robustness",
        f"{about[0].upper()}{about[1:]}. One dot is one checkpoint.",
        partial(
            figures.curves,
            {"robust under replay": table},
            x="error",
            y="robust",
            xlabel="denoising error (lower is a better model)",
            ylabel="robust under replay (share)",
            log="x",
        ),
    )
    try:
        rho = correlation(table["error"], table["robust"]).spearman
    except ValueError as error:
        finding = Finding(10, "no correlation", "undecided", f"{error}.")
        return Report([finding], [figure])
    # Better models more robust is what the claim denies; that nothing is seen is no proof.
    outcome: Outcome = "undecided"
    if rho.high < 0:
        outcome = "did not hold"
    elif rho.low > 0:
        outcome = "held"
    sentence = (
        f"Spearman's correlation of denoising error with robustness over {rho.n} "
        "checkpoints; it did not hold where robustness clearly falls with the error."
    )
    return Report([Finding(10, number(rho), outcome, sentence)], [figure])


SECTION = Section("Checkpoints of the denoiser", (10,), asks, report, needs_path)
