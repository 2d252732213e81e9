"""What a finished run says in numbers: all of summary.json, read from its records."""

from typing import Any

import jax
import numpy as np

from experiments import config as configs
from experiments import program
from experiments.build import Experiment
from experiments.report.words import count_images, ranges
from jaxpure import attacks
from jaxpure.defense import denoiser_evaluations
from jaxpure.evaluation import Result, statistics


def summarize(
    experiment: Experiment, name: str, bare: Result, defended: Result, seconds: float
) -> dict[str, Any]:
    """All that summary.json holds, read from the records."""
    config, attack = experiment.config, experiment.attack
    clean = statistics.reductions(defended.clean_logits, defended.labels)
    robust = statistics.reductions(defended.logits, defended.labels)
    bare_clean = statistics.reductions(bare.clean_logits, bare.labels)
    bare_robust = statistics.reductions(bare.logits, bare.labels)
    looks = int((defended.gradient_evaluations + defended.forward_evaluations).sum())
    purifications = looks + 2 * len(defended.labels) * config.judging_keys
    each = denoiser_evaluations(experiment.defense.purifier)
    in_attack = denoiser_evaluations(experiment.seen.purifier)
    evaluations = None
    if each is not None and in_attack is not None:
        evaluations = looks * in_attack + (purifications - looks) * each
    accuracies = {
        "clean_accuracy_undefended": bare_clean["single"],
        "robust_accuracy_undefended": bare_robust["single"],
        "clean_accuracy": clean["single"],
        "robust_accuracy": robust["single"],
        "clean_accuracy_fresh": clean["unseen"],
        "robust_accuracy_fresh": robust["unseen"],
        "clean_average": clean["average"],
        "average": robust["average"],
        "clean_worst_of_n": clean["worst_of_n"],
        "worst_of_n": robust["worst_of_n"],
        "clean_majority_vote": clean["majority_vote"],
        "majority_vote": robust["majority_vote"],
        "clean_mean_logits": clean["mean_logits"],
        "mean_logits": robust["mean_logits"],
    }
    attacked = defended.gradient_evaluations > 0
    always_zero = attacked & (defended.zero_gradients == defended.evaluations)
    summary = {
        "name": name,
        "config": configs.as_dict(config),
        "dataset": experiment.dataset.name,
        "num_examples": len(experiment.dataset),
        "indices": [int(i) for i in experiment.dataset.indices],
        "seed": config.seed,
        **{key: value._asdict() for key, value in accuracies.items()},
        "judging_keys": config.judging_keys,
        "policy": str(attack.policy),
        "gradient": config.gradient,
        "attack": config.attack.name,
        "eps": float(attack.eps),
        "norm": attack.norm,
        "seconds": round(seconds, 2),
        "purifications": purifications,
        "denoiser_evaluations": evaluations,
        "images_per_second": len(experiment.dataset) / seconds,
        "nonfinite_examples": [int(i) for i in defended.nonfinite],
        "bad_gradient_examples": _indices(defended, defended.bad_gradients > 0),
        "zero_gradient_examples": _indices(defended, always_zero),
        "stages": stages(attack, defended),
        "resubmission": resubmission(experiment, defended),
        "num_devices": jax.device_count(),
        "device_kind": jax.devices()[0].device_kind,
        "versions": program.versions(),
        "git": program.git_commit(),
    }
    return summary | {"warnings": warnings(summary)}


def stages(attack: Any, defended: Result) -> list[dict[str, Any]]:
    """What each of a sequence of attacks tried, broke and left standing; else empty."""
    if not isinstance(attack, attacks.Sequence):
        return []
    standing, rows = defended.attack_calls > 0, []
    for name, _ in attack.stages:
        broken = defended.broken_by == name
        left = standing & ~broken
        rows.append(
            {
                "attack": name,
                "tried": int(standing.sum()),
                "broke": int(broken.sum()),
                "robust_accuracy": statistics.wilson(left)._asdict(),
            }
        )
        standing = left
    return rows


def resubmission(experiment: Experiment, defended: Result) -> dict[str, Any]:
    """What the attack's own draws said of all its iterates; empty where there is one draw.

    That is the evaluation of a defense which an image may be submitted to again and again
    while it is being made: of each image the iterate that fooled most draws counts on
    average, and any iterate that fooled any draw (N-evaluation, Wang et al. 2024), or the
    vote of its draws (Kassis, Hengartner and Yu 2024), breaks it for good.
    """
    rule, _ = configs.parse_spec(experiment.config.gradient)
    draws = getattr(experiment.attack, "draws", 1)
    # The draws of a transfer attack are of another defense.
    if draws < 2 or rule == "transfer" or np.isnan(defended.fooled).any():
        return {}
    readings = {
        "average": 1 - defended.fooled,
        "worst_of_n": defended.fooled == 0,
        "majority_vote": ~defended.outvoted,
    }
    estimates = {k: statistics.wilson(v)._asdict() for k, v in readings.items()}
    return {"draws": draws, **estimates}


def _indices(result: Result, chosen: np.ndarray) -> list[int]:
    return [int(i) for i in result.indices[chosen]]


def warnings(summary: dict[str, Any]) -> list[str]:
    """A sentence for each thing a reader must know before believing the numbers."""
    meanings = {
        "nonfinite_examples": (
            "Logits were not finite on {}. Such draws count as wrong; find the cause "
            "before quoting these numbers."
        ),
        "zero_gradient_examples": (
            "The attack's gradient was identically zero at every evaluation on {}. This "
            "is gradient masking: the attack was blind there, and an image that stands "
            "may stand for that reason alone. Use another gradient rule or loss."
        ),
        "bad_gradient_examples": (
            "The attack's gradient was not finite at some step on {}. It was taken as "
            "zero there, so the attack was weaker than its budget says."
        ),
    }
    found = []
    for name, sentence in meanings.items():
        if indices := summary[name]:
            where = f"(index {ranges(indices, most=8)})"
            found.append(sentence.format(f"{count_images(len(indices))} {where}"))
    if summary["robust_accuracy_undefended"]["value"] > 0.1:
        found.append(
            "The bare classifier keeps more than 10% under this attack: the attack is weak "
            "or eps is small, and the purified numbers say little."
        )
    return found
