"""Attacks and what the defense makes of their images; the scorecard of the defense."""

import numpy as np

from experiments.paper.asks import Ask
from experiments.paper.measures import readings
from experiments.paper.study import Arrays, Rows, Study
from jaxpure.dissect import scorecard as checked

SCORECARD_DRAWS = 8


def attack(
    study: Study,
    ask: Ask,
    rows: Rows,
    *,
    policy: str,
    gradient: str = "exact",
    eot: int = 1,
    first: int = 0,
    known: int = 1,
) -> Arrays:
    """PGD, and what the defense makes of its images under all judging keys.

    Under replay it knows judging keys `first` to `first + known - 1` and climbs their mean
    logits. Images that it leaves are the best by its own lights.
    """
    numbers = first + np.arange(known, dtype=np.int32)
    found = readings.pgd(study, ask, rows, policy, gradient, eot, numbers)
    return {
        "images": found.adversarial,
        "logits": readings.logits(study, ask, rows, found.adversarial),
        "unusable": found.zero_gradients + found.bad_gradients,
    }


def clean(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """The images themselves: purified under judging key 0, and logits under all."""
    anchors = readings.purify(study, ask, rows, readings.ONE, rows.images[:, None])[:, 0]
    return {"anchors": anchors, "logits": readings.logits(study, ask, rows, rows.images)}


def scorecard(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """The scorecard of the defense, a row a line; what it evaluates is kept beside it."""
    plan = study.plan
    found = checked(
        study.defense(ask),
        study.dataset,
        ball=study.ball,
        key=study.root,
        num_steps=plan.num_steps,
        eot_samples=SCORECARD_DRAWS,
        batch_size=plan.batch_size,
        folder=study.path(ask, rows).with_suffix(""),
        progress=True,
    )
    columns = found.result().columns
    left_out = [f"{name}: {why}" for name, why in found.left_out.items()]
    return {**columns, "left_out": np.array(left_out, str)}
