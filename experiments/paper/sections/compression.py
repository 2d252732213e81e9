"""Compression: how much a purifier under one key shrinks distances, and what that tells."""

from functools import partial

import numpy as np

from experiments import dissect_figures as figures
from experiments.paper.asks import Ask, ask
from experiments.paper.plans import Plan
from experiments.paper.relations import Finding, Outcome, above, number
from experiments.paper.sections.section import Figure, Report, Section
from experiments.paper.study import Study
from jaxpure.dissect.prediction import predictor_table
from jaxpure.dissect.results import Result, summarise
from jaxpure.dissect.thresholds import two_requirements
from jaxpure.evaluation.statistics import correct

NAMES = {
    "expected": "isotropic, small radius",
    "local": "Jacobian, root mean square",
    "finite": "isotropic, the attack's length",
    "adversarial": "along the attack",
    "on": "inside the data's components",
    "off": "outside of them",
}
DEFINITION = (
    "Compression rate ||f(x + d) - f(x)|| / ||d|| under judging key 0, L2; lower is "
    "stronger"
)


def asks(plan: Plan) -> list[Ask]:
    of = partial(ask, purifier=plan.purifier, denoiser=plan.denoiser)
    replayed = {"policy": "replay"}
    return [
        of("clean"),
        of("attack", **replayed, gradient="exact"),
        of("attack", **replayed, gradient="bpda"),
        of("rates"),
        of("thresholds"),
    ]


def report(study: Study) -> Report:
    clean, attack, _, rates_of, thresholds_of = asks(study.plan)
    labels, indices = study.dataset.labels, study.indices
    right = study.all(clean)["logits"][:, 0].argmax(-1)
    stays = correct(study.all(attack)["logits"], labels)[:, 0] & (right == labels)
    rates, found = study.all(rates_of), study.all(thresholds_of)
    table = summarise(
        "compression",
        f"{DEFINITION}; intervals: bootstrap over images",
        {"rate": np.stack([rates[name] for name in NAMES], 1)},
        axis={"direction": np.array(list(NAMES.values()))},
        indices=indices,
    )
    requirements = two_requirements(right, found["balls"], labels)
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
    ]
    findings = [_requirements(requirements), _manifold(rates, indices)]
    notes = [_ratio(rates)]
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


def _requirements(table: Result) -> Finding:
    held, broken, wrong_held, wrong_broken = (table.estimate("share", i) for i in range(4))
    wrong = wrong_held.value + wrong_broken.value
    ours = f"right, held {held}; right, not held {broken}; anchor wrong {100 * wrong:.1f}%"
    outcome: Outcome = "held" if broken.value > 0 and wrong > 0 else "undecided"
    sentence = (
        "Shares of images; it held where some images are lost by the anchor alone and some "
        "by the ball alone, so that neither requirement is idle."
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
        "anchor, and of the threshold over the rate, for an image to stay right under the "
        f"replayed attack; {table.notes['robust']} of {table.notes['images']} stay."
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
        f"{about[0].upper()}{about[1:]}.",
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
