"""Compression: how much a purifier under one key shrinks distances, and what that tells."""

from functools import partial

import numpy as np

from experiments import dissect_figures as figures
from experiments.config import PaperConfig
from experiments.paper.asks import Ask, ask
from experiments.paper.relations import Finding, above, both, number
from experiments.paper.sections.section import Figure, Report, Section
from experiments.paper.study import Study
from jaxpure.dissect.compression import stability
from jaxpure.dissect.prediction import correlation, predictor_table
from jaxpure.dissect.results import Estimate, Result, summarise
from jaxpure.dissect.thresholds import two_requirements
from jaxpure.evaluation.statistics import correct, wilson

NAMES = {
    "expected": "isotropic, small radius",
    "local": "Jacobian, root mean square",
    "finite": "isotropic, the attack's length",
    "adversarial": "along the attack",
    "on": "inside the data's components",
    "off": "outside of them",
}
THRESHOLDS = {
    "at_image": "classifier, at the image",
    "at_anchor": "classifier, at the anchor",
    "system_at_image": "whole defense, at the image",
    "system_at_anchor": "whole defense, at the anchor",
}
IDLE = 0.05  # a requirement that costs fewer images is idle
DEFINITION = (
    "Compression rate ||f(x + d) - f(x)|| / ||d|| under judging key 0, L2; lower is "
    "stronger"
)


def asks(plan: PaperConfig) -> list[Ask]:
    of = partial(ask, purifier=plan.purifier, denoiser=plan.denoiser)
    replayed = {"policy": "replay"}
    return [
        of("clean"),
        of("attack", **replayed, gradient="exact"),
        of("attack", **replayed, gradient="bpda"),
        of("rates"),
        of("thresholds"),
        of("stability"),
    ]


def report(study: Study) -> Report:
    clean, attack, _, rates_of, thresholds_of, stability_of = asks(study.plan)
    labels, anchors = study.dataset.labels, study.all(clean)["logits"][:, 0].argmax(-1)
    # Of an image that is wrong already the attack leaves its random start.
    right = anchors == labels
    if not right.any():
        raise ValueError("no image is right under judging key 0 before any attack")
    indices = study.indices[right]
    stays = correct(study.all(attack)["logits"], labels)[right, 0]
    rates = {name: values[right] for name, values in study.all(rates_of).items()}
    every = study.all(thresholds_of)
    found = {name: values[right] for name, values in every.items()}
    table = summarise(
        "compression",
        f"{DEFINITION}; intervals: bootstrap over the images that are right under it",
        {"rate": np.stack([rates[name] for name in NAMES], 1)},
        axis={"direction": np.array(list(NAMES.values()))},
        indices=indices,
    )
    requirements = two_requirements(anchors, every["balls"], labels)
    drawn = [
        Figure(
            "compression",
            "Compression by direction",
            f"{table.about}. Components: those that carry 90% of the variance of the "
            "images themselves.",
            partial(
                figures.dots,
                table,
                label="direction",
                value="rate",
                xlabel="compression rate (lower = stronger)",
                reference=1,
            ),
        ),
        Figure(
            "two_requirements",
            "Anchor right, ball held to it",
            f"{requirements.about}. Tried points: both replayed attacks' and four random.",
            partial(figures.requirements, requirements),
        ),
        _outcomes(rates, found, stays, indices),
        _thresholds(found, indices),
        *_stability(study.all(stability_of), study.indices),
    ]
    findings = [_requirements(requirements, wilson(~right)), _manifold(rates, indices)]
    notes = [_ratio(rates), _agreement(found)]
    try:
        predictors = predictor_table(_predictors(rates, found), stays)
    except ValueError as error:
        findings.append(Finding(15, "no AUC", "undecided", f"{error}."))
        notes.append(f"No AUC: {error}.")
    else:
        drawn.append(
            Figure(
                "predictors",
                "What tells images that stay right from others",
                f"{predictors.about}; 0.5 tells nothing.",
                partial(
                    figures.dots,
                    predictors,
                    label="predictor",
                    value="auc",
                    xlabel="AUC",
                    reference=0.5,
                ),
            )
        )
        findings.append(_prediction(predictors))
    return Report(findings, drawn, notes)


def _predictors(rates: dict, found: dict) -> dict[str, np.ndarray]:
    """Higher is more robust."""
    compressed = -rates["adversarial"]
    # Distance to the boundary over what is left of a distance: how far one has to go.
    reach = found["at_anchor"] / np.maximum(rates["adversarial"], 1e-6)
    return {
        "compression along the attack": compressed,
        "critical threshold at the anchor": found["at_anchor"],
        "threshold over compression": reach,
        "critical threshold at the image": found["at_image"],
    }


def _requirements(table: Result, wrong: Estimate) -> Finding:
    held, broken = table.estimate("share", 0), table.estimate("share", 1)
    ours = f"right, held {held}; right, not held {broken}; anchor wrong {wrong}"
    outcome = both(above(broken.low, broken.high, IDLE), above(wrong.low, wrong.high, IDLE))
    sentence = (
        f"Shares of images; it held where the anchor alone loses above {IDLE:.0%} of them "
        f"and the ball alone too, and did not where either loses less, which makes that "
        "requirement idle here."
    )
    return Finding(11, ours, outcome, sentence)


def _manifold(rates: dict, indices: np.ndarray) -> Finding:
    ratio = np.log(np.maximum(rates["on"], 1e-12)) - np.log(np.maximum(rates["off"], 1e-12))
    e = summarise("on_off", "", {"log": ratio}, indices=indices).estimate("log")
    factor = e._replace(value=np.exp(e.value), low=np.exp(e.low), high=np.exp(e.high))
    sentence = (
        "Rate along the data's components over the rate outside of them, geometric mean "
        "over images; above 1, what is off the data is compressed more."
    )
    return Finding(14, f"factor {number(factor)}", above(e.low, e.high, 0), sentence)


def _prediction(table: Result) -> Finding:
    first, second, joint = (table.estimate("auc", i) for i in range(3))
    ours = f"AUC {number(first)}, {number(second)}, joint {number(joint)}"
    sentence = (
        "AUC of the compression rate along the attack, of the critical threshold at the "
        "anchor, and of the threshold over the rate, for an image that is right to stay so "
        f"under the replayed attack; {table.notes['robust']} of {table.notes['images']} do."
    )
    return Finding(15, ours, above(joint.low, joint.high, 0.5), sentence)


def _outcomes(rates: dict, found: dict, stays: np.ndarray, indices: np.ndarray) -> Figure:
    reached = np.where(found["reached"], found["at_anchor"], np.inf)
    columns = {
        "example": indices,
        "rate": rates["adversarial"],
        "threshold": reached,
        "stays": stays.astype(int),
    }
    about = (
        "compression rate along the replayed attack (lower is stronger), and how far along "
        "it the classifier's class changes at the anchor (2025 submission, Fig. 6)"
    )
    images = Result("outcomes", about, columns, {"images": len(stays)})
    return Figure(
        "outcomes",
        "Images that stay right, and others",
        f"{about}.",
        partial(
            figures.outcomes,
            images,
            x="rate",
            y="threshold",
            outcome="stays",
            xlabel="compression rate along the attack (lower = stronger)",
            ylabel="critical threshold at the anchor (L2)",
        ),
    )


def _thresholds(found: dict, indices: np.ndarray) -> Figure:
    """The four critical thresholds of the 2025 submission."""
    table = summarise(
        "thresholds",
        "how far along the replayed attack the class changes, L2, at most "
        "what was looked at; mean over images that are right, intervals: bootstrap",
        {"threshold": np.stack([found[name] for name in THRESHOLDS], 1)},
        axis={"of": np.array(list(THRESHOLDS.values()))},
        indices=indices,
    )
    return Figure(
        "thresholds",
        "Four critical thresholds",
        f"{table.about} (2025 submission).",
        partial(
            figures.dots,
            table,
            label="of",
            value="threshold",
            xlabel="critical threshold (L2, pixels in [0, 1])",
        ),
    )


def _agreement(found: dict) -> str:
    """How the four thresholds go together over images."""
    first, *others = THRESHOLDS
    told = []
    for name in others:
        try:
            rho = correlation(found[first], found[name]).spearman
        except ValueError as error:
            return f"No correlation of the four critical thresholds: {error}."
        told.append(f"{THRESHOLDS[name]} {number(rho)}")
    return (
        "Spearman's correlation over images of the classifier's critical threshold at the "
        f"image with the other three: {', '.join(told)}."
    )


def _stability(found: dict, indices: np.ndarray) -> list[Figure]:
    """The rate against the radius with its spreads, and the leading singular values."""
    n, count = found["singular"].shape
    table = stability(found["rates"], found["radii"][0], indices=indices[:n])
    leading = summarise(
        "singular_values",
        "leading singular values of the Jacobian under judging key 0, and the share of "
        "each one's direction inside the data's components; intervals: bootstrap over "
        "images",
        {"value": found["singular"], "inside": found["on"]},
        axis={"number": np.arange(1, count + 1)},
        indices=indices[:n],
    )
    spread = "; ".join(
        f"{name.removeprefix('over_')} {np.mean(table[name]):.3f}"
        for name in ("over_directions", "over_keys", "over_images")
    )
    return [
        Figure(
            "stability",
            "The compression rate, by radius",
            f"{table.about}: standard deviations over {spread} "
            f"(means over radii; {n} images, all keys and directions).",
            partial(
                figures.curves,
                {"isotropic": table},
                x="radius",
                y="rate",
                xlabel="radius (L2, pixels in [0, 1])",
                ylabel="compression rate (lower = stronger)",
                log="x",
            ),
        ),
        Figure(
            "singular_values",
            "The directions that are compressed least",
            f"{leading.about}. Inside the components lies "
            f"{np.mean(found['on']):.0%} of them.",
            partial(
                figures.curves,
                {"Jacobian": leading},
                x="number",
                y="value",
                xlabel="number of the singular value",
                ylabel="singular value",
            ),
        ),
    ]


def _ratio(rates: dict) -> str:
    """How near the small radius is to none: at most 1 by Jensen, but for errors."""
    ratio = float(np.mean(rates["expected"]) / np.mean(rates["local"]))
    error = float(np.mean(rates["local_error"] / rates["local"]))
    return (
        f"The rate at the small radius is {ratio:.2f} times the Jacobian's root mean "
        f"square (whose own standard error is {error:.0%} an image): at most 1, and equal "
        "where all directions are compressed alike."
    )


SECTION = Section("Compression", (11, 14, 15), asks, report)
