"""The measurements of one batch of examples each: attacks, clouds, gradients, rates.

Each is `(study, ask, rows, **options) -> arrays` with a row an example, composed of
`readings` and `programs`. A new one is a function in the file of what it is about, and a
line here with what it costs.
"""

from experiments.config import PaperConfig
from experiments.paper.measures import (
    attacks,
    compression,
    denoising,
    geometry,
    gradients,
    models,
)
from experiments.paper.study import Measure

GRADIENT = 3  # purifications that a gradient through one costs, about
SUBSPACE = 200  # purifications that the leading singular values cost, about
LOOKS = 29  # purifications of a critical threshold of the whole system


def _attack_cost(
    plan: PaperConfig,
    policy: str,
    gradient: str = "exact",
    eot: int = 1,
    first=0,
    known: int = 1,
) -> float:
    del first
    each = (GRADIENT if gradient == "exact" else 1) + (policy == "fresh")
    return (plan.num_steps + 1) * each * max(eot, known) + plan.judging_keys


def _stability_cost(plan: PaperConfig) -> float:
    rates = len(compression.RADII) * compression.STABLE_KEYS
    return rates * (plan.directions + 1) + SUBSPACE


MEASURES = {
    "attack": Measure(attacks.attack, _attack_cost),
    "clean": Measure(attacks.clean, lambda plan: plan.judging_keys + 1),
    "cloud": Measure(
        geometry.cloud,
        lambda plan: 2 * plan.cloud + geometry.INPUTS * geometry.KEYS + 3 * geometry.ALONG,
        lambda plan: plan.cloud_images,
        version=2,
    ),
    "fate": Measure(denoising.fate, lambda plan: 4),
    "gradients": Measure(
        gradients.gradients,
        lambda plan: plan.path_steps * (1 + gradients.OTHER_KEYS) * (1 + GRADIENT),
        version=2,
    ),
    "rates": Measure(
        compression.rates,
        lambda plan: plan.directions * (4 + GRADIENT) + 6,
        version=2,
        looks_at_all=True,
    ),
    "thresholds": Measure(compression.thresholds, lambda plan: 4 + 2 * LOOKS, version=2),
    "stability": Measure(
        compression.stability,
        _stability_cost,
        lambda plan: plan.cloud_images,
        version=2,
        looks_at_all=True,
    ),
    "scorecard": Measure(
        attacks.scorecard,
        lambda plan: (attacks.SCORECARD_DRAWS + 9) * plan.num_steps * GRADIENT,
        at_once=True,
    ),
    "sweep": Measure(
        models.sweep, lambda plan: (plan.num_steps + 1) * GRADIENT + plan.directions + 4
    ),
    "quality": Measure(models.quality, lambda plan: 0.1),
    "samples": Measure(models.samples, lambda plan: models.SAMPLES),
}
