"""Denoising: what becomes of an attacked image and its perturbation along the chain."""

from functools import partial

import numpy as np

from experiments import dissect_figures as figures
from experiments.config import PaperConfig
from experiments.paper.asks import Ask, ask
from experiments.paper.relations import Finding, both, number, positive
from experiments.paper.sections.section import Figure, Report, Section, needs_path
from experiments.paper.study import Study
from jaxpure.dissect.results import summarise
from jaxpure.errors import UserError

KINDS = ("adversarial", "random")
MEASURES = ("l2", "linf", "ssim", "along", "orthogonal", "paired", "margin")


def asks(plan: PaperConfig) -> list[Ask]:
    replayed = {"policy": "replay", "gradient": "exact"}
    return [
        ask("attack", plan.purifier, plan.denoiser, **replayed),
        ask("fate", plan.purifier, plan.denoiser),
    ]


def report(study: Study) -> Report:
    attack, fate = asks(study.plan)
    moved = np.abs(study.all(attack)["images"] - study.dataset.floats()).max((1, 2, 3)) > 0
    if not moved.any():
        raise UserError("the attack left every image as it was: there is nothing to follow")
    found = {name: values[moved] for name, values in study.all(fate).items()}
    forward, signal = found["forward"][0].astype(bool), found["signal"][0]
    axis = {
        "step": np.arange(len(forward)),
        "phase": np.where(forward, "forward", "reverse"),
        "signal": signal.astype(np.float64),
    }
    indices = study.indices[moved]
    about = (
        "distances of the states (their signal's shrinking undone) to the clean image, the "
        "part of the perturbation that is left along its own direction and what is "
        "orthogonal to it, in lengths of the perturbation, that part against the clean "
        "image's own path under the same key, and the classifier's margin"
    )
    results = {
        kind: summarise(
            f"fate_{kind}",
            about,
            {name: found[name][:, i] for name in MEASURES},
            axis=axis,
            indices=indices,
        )
        for i, kind in enumerate(KINDS)
    }
    top = int(np.flatnonzero(forward)[-1])
    changes = _changes(found, top, indices)
    figure = Figure(
        "fate",
        "The attacked image along the chain",
        f"{about} (2025 submission, Fig. 1c; seed, Fig. 3c). Mean "
        "over images, bands: bootstrap.",
        partial(figures.fate, results),
    )
    return Report([_away(changes), _projection(changes)], [figure])


def _changes(found: dict, top: int, indices: np.ndarray):
    """Changes from the attacked to the purified image, and of the projection by phase."""
    adversarial = {name: found[name][:, 0] for name in MEASURES}
    measured = {
        name: adversarial[name][:, -1] - adversarial[name][:, 0]
        for name in ("l2", "linf", "ssim")
    }
    measured |= {
        "reverse_l2": adversarial["l2"][:, -1] - adversarial["l2"][:, top],
        "forward_along": adversarial["paired"][:, top] - adversarial["paired"][:, 0],
        "reverse_along": adversarial["paired"][:, -1] - adversarial["paired"][:, top],
    }
    return summarise("changes", "", measured, indices=indices)


def _away(changes) -> Finding:
    l2, linf, ssim = (changes.estimate(name) for name in ("l2", "linf", "ssim"))
    outcome = both(
        positive(l2.low, l2.high),
        positive(linf.low, linf.high),
        positive(-ssim.high, -ssim.low),
    )
    ours = f"L2 {number(l2)}, L-inf {number(linf)}, SSIM {number(ssim)}"
    reverse = changes.estimate("reverse_l2")
    sentence = (
        "Change from the attacked to the purified image, distances to the clean one; it "
        "held where both distances grow and SSIM falls. The reverse phase alone changes L2 "
        f"by {number(reverse)}."
    )
    return Finding(6, ours, outcome, sentence)


def _projection(changes) -> Finding:
    up, down = changes.estimate("forward_along"), changes.estimate("reverse_along")
    outcome = positive(-down.high, -down.low)
    ours = f"forward {number(up)}, reverse {number(down)}"
    sentence = (
        "Change of what is left of the perturbation along its direction (1 at first), "
        "against the clean image's own path under the same key; while forward it stays "
        "by definition."
    )
    return Finding(7, ours, outcome, sentence)


SECTION = Section("Denoising along the chain", (6, 7), asks, report, needs_path)
