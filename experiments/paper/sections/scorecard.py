"""The scorecard: does the plan's defense hide its gradients, line by line?"""

from functools import partial

import numpy as np

from experiments import dissect_figures as figures
from experiments.config import PaperConfig
from experiments.paper.asks import Ask, ask
from experiments.paper.sections.section import Figure, Report, Section
from experiments.paper.study import Study
from jaxpure.dissect.results import Result


def asks(plan: PaperConfig) -> list[Ask]:
    return [ask("scorecard", plan.purifier, plan.denoiser)]


def report(study: Study) -> Report:
    (asked,) = asks(study.plan)
    (rows,) = study.batches(asked)
    found = dict(study.unit(asked, rows))
    left_out = [f"Left out, {why}." for why in found.pop("left_out")]
    known = np.isfinite(found["value"])
    columns = {name: values[known] for name, values in found.items()}
    columns["line"] = np.array(
        [
            f"{check}: {verdict}"
            for check, verdict in zip(columns["check"], columns["verdict"], strict=True)
        ]
    )
    about = (
        "checks for masked gradients (Athalye et al. 2018, Carlini et al. 2019); a share "
        "of images or a paired difference of two, with its 95% interval"
    )
    table = Result("scorecard", about, columns, {"images": len(rows.labels)})
    masked = columns["check"][columns["verdict"] == "masked"]
    verdict = f"masked by {', '.join(masked)}" if len(masked) else "masked by no check"
    note = (
        f"The plan's defense is {verdict}. What each line measures, and the item that it "
        "answers, is in its CSV and in docs/dissect.md."
    )
    figure = Figure(
        "scorecard",
        "Lines of the scorecard, and their verdicts",
        f"{about}.",
        partial(
            figures.dots,
            table,
            label="line",
            value="value",
            xlabel="share of images, or difference of two",
            reference=0,
        ),
    )
    return Report([], [figure], [note, *left_out])


SECTION = Section("Scorecard", (), asks, report)
