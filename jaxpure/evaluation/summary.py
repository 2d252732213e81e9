"""What a finished evaluation says in numbers, as the JSON that runs leave and reports read.

The keys are published: tables, papers and scripts read them. `KEYS` maps the library's
readings to them, and `VERSION` counts their changes.
"""

from typing import Any

import numpy as np

from jaxpure.attacks import BALLS
from jaxpure.evaluation import readings, statistics
from jaxpure.evaluation.identity import Identity
from jaxpure.evaluation.result import Result
from jaxpure.policy import read_policy
from jaxpure.specs import build

VERSION = 2

# Reading: its key for clean images, its key for attacked ones.
KEYS: dict[str, tuple[str, str]] = {
    "headline": ("clean_accuracy", "robust_accuracy"),
    "unseen": ("clean_accuracy_fresh", "robust_accuracy_fresh"),
    "average": ("clean_average", "average"),
    "worst_of_n": ("clean_worst_of_n", "worst_of_n"),
    "majority_vote": ("clean_majority_vote", "majority_vote"),
    "mean_logits": ("clean_mean_logits", "mean_logits"),
}
UNDEFENDED = ("clean_accuracy_undefended", "robust_accuracy_undefended")

# A sentence for each list of examples that a reader must know of.
WARNINGS = {
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
WEAK = (
    "The undefended classifier keeps more than 10% under this attack: the attack is weak "
    "or eps is small, and the purified numbers say little."
)


def summarize(result: Result, undefended: Result | None = None) -> dict[str, Any]:
    """All that is read from the records of an evaluation.

    Args:
      result: of the defense; its `about` says what was evaluated.
      undefended: of the classifier alone, on the same examples, if it was evaluated.
    """
    about = result.about
    ball = build(BALLS, about["ball_spec"])
    summary: dict[str, Any] = {"version": VERSION, "dataset": about["data"]}
    summary |= {"num_examples": len(result), "indices": [int(i) for i in result.indices]}
    summary |= hashes(result)
    if undefended is not None:
        for key, found in zip(UNDEFENDED, _headlines(undefended), strict=True):
            summary[key] = found
    for name, (clean, robust) in KEYS.items():
        if name in result.robust_readings:
            summary[clean] = result.clean_readings[name]._asdict()
            summary[robust] = result.robust_readings[name]._asdict()
    always_zero = (result.gradient_evaluations > 0) & (
        result.zero_gradients == result.evaluations
    )
    summary |= {
        "judging_keys": about["judging_keys"],
        "policy": about["policy"],
        "knowledge": read_policy(about["policy"]).knowledge,
        "gradient": about["gradient"],
        "attack": about["attack"].partition("(")[0],
        "eps": float(ball.eps),
        "norm": ball.name,
        **_spent(result),
        "nonfinite_examples": [int(i) for i in result.nonfinite],
        "bad_gradient_examples": _indices(result, result.bad_gradients > 0),
        "zero_gradient_examples": _indices(result, always_zero),
        "stages": stages(result),
        "resubmission": resubmission(result),
    }
    return summary | {"warnings": warnings(summary)}


def hashes(result: Result) -> dict[str, str]:
    """By what evaluations are told apart, where the result says of what parts it is.

    "hash" is equal for runs of the same experiment, "subject_hash" for attacks on the same
    defense and examples.
    """
    about = result.about
    if "hash" not in about or "parts" not in about:
        return {}
    subject = Identity(about["parts"], result.example_digests).subject_hash
    return {"hash": about["hash"], "subject_hash": subject}


def stages(result: Result) -> list[dict[str, Any]]:
    """What each of several attacks tried, broke and left standing; empty for one attack."""
    names, standing, rows = result.about["stages"], result.attack_calls > 0, []
    for name in names if len(names) > 1 else ():
        broken = result.broken_by == name
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


def resubmission(result: Result) -> dict[str, Any]:
    """`readings.resubmission`, where an attack has several draws of its defense."""
    draws = result.about.get("draws", 1)
    if draws < 2 or np.isnan(result.lost).any():
        return {}
    found = readings.resubmission(result.lost, result.vote_lost)
    return {"draws": draws, **{name: value._asdict() for name, value in found.items()}}


def warnings(summary: dict[str, Any]) -> list[str]:
    """A sentence for each thing a reader must know before believing the numbers."""
    found = []
    for name, sentence in WARNINGS.items():
        if indices := summary[name]:
            where = f"(index {ranges(indices, most=8)})"
            found.append(sentence.format(f"{count_images(len(indices))} {where}"))
    kept = summary.get("robust_accuracy_undefended")
    if kept is not None and kept["value"] > 0.1:
        found.append(WEAK)
    return found


def ranges(indices: Any, most: int | None = None) -> str:
    """Indices as text: "0-199" or "3, 7-9"; after `most` pieces, how many more."""
    pieces: list[list[int]] = []
    for index in sorted(int(i) for i in indices):
        if pieces and index == pieces[-1][-1] + 1:
            pieces[-1].append(index)
        else:
            pieces.append([index])
    left = sum(map(len, pieces[most:])) if most else 0
    texts = [
        f"{piece[0]}-{piece[-1]}" if len(piece) > 1 else str(piece[0])
        for piece in pieces[:most]
    ]
    return ", ".join(texts) + (f" and {left} more" if left else "")


def count_images(n: int) -> str:
    """`1 image`, `2 images`."""
    return f"{n} image{'s' * (n != 1)}"


def _headlines(result: Result) -> tuple[dict[str, Any], dict[str, Any]]:
    clean, robust = result.clean_readings, result.robust_readings
    return clean["headline"]._asdict(), robust["headline"]._asdict()


def _spent(result: Result) -> dict[str, int | None]:
    """Purifications, and evaluations of the denoiser where the purifiers say."""
    looks = int((result.gradient_evaluations + result.forward_evaluations).sum())
    judged = 2 * len(result) * result.about["judging_keys"]
    each = result.about.get("denoiser_evaluations")
    in_attack = result.about.get("attack_denoiser_evaluations")
    evaluations = None
    if each is not None and in_attack is not None:
        evaluations = looks * in_attack + judged * each
    return {"purifications": looks + judged, "denoiser_evaluations": evaluations}


def _indices(result: Result, chosen: np.ndarray) -> list[int]:
    return [int(i) for i in result.indices[chosen]]
