"""The page's tables: accuracies, diagnostics, what was run, and its config."""

from typing import Any

import numpy as np

from jaxpure.evaluation.result import Result
from jaxpure.report.words import (
    asked_policy,
    count_images,
    data_split,
    duration,
    interval,
    norm_ball,
    ranges,
    thousands,
)


def accuracies(summary: dict[str, Any], defended: Result) -> list[dict[str, Any]]:
    """A row for each reading of the draws: what it is, clean and attacked."""
    keys = defended.logits.shape[1]
    get = summary.get
    rows = [
        (
            "Undefended classifier",
            "without a purifier, attacked on its own",
            get("clean_accuracy_undefended"),
            get("robust_accuracy_undefended"),
        ),
        (
            "Purified, single draw",
            "under judging key 0: the headline",
            get("clean_accuracy"),
            get("robust_accuracy"),
        ),
        (
            "Purified, unseen keys",
            f"mean over the {keys - 1} draws no attack saw",
            get("clean_accuracy_fresh"),
            get("robust_accuracy_fresh"),
        ),
        (
            "Average",
            f"mean over all {keys} draws",
            get("clean_average"),
            get("average"),
        ),
        (
            "Majority vote",
            f"what most of {keys} draws predict",
            get("clean_majority_vote"),
            get("majority_vote"),
        ),
        (
            "Mean logits",
            f"of {keys} draws",
            get("clean_mean_logits"),
            get("mean_logits"),
        ),
        (
            f"Worst of {keys}",
            "right under every one of the draws",
            get("clean_worst_of_n"),
            get("worst_of_n"),
        ),
        *_resubmission(get("resubmission") or {}),
    ]
    return [
        {
            "label": label,
            "note": note,
            "headline": "single draw" in label,
            "undefended": label.startswith("Undefended"),
            "clean": _cell(clean),
            "attacked": _cell(attacked),
            "n": (attacked or clean or {}).get("n", ""),
        }
        for label, note, clean, attacked in rows
        if clean or attacked
    ]


def _resubmission(found: dict[str, Any]) -> list[tuple[str, str, None, Any]]:
    """Rows of what the attack's own draws said while the images were made."""
    if not found:
        return []
    draws, what = found["draws"], "best of all iterates, own draws"
    return [
        (f"Resubmitted, average of {draws}", what, None, found["average"]),
        (f"Resubmitted, vote of {draws}", what, None, found["majority_vote"]),
        (f"Resubmitted, worst of {draws}", what, None, found["worst_of_n"]),
    ]


def _cell(estimate: dict[str, Any] | None) -> dict[str, Any] | None:
    if not estimate:
        return None
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return {
        "value": f"{value:.1f}%",
        "interval": f"{low:.1f} to {high:.1f}",
        "bar": {"value": round(value, 2), "low": round(low, 2), "high": round(high, 2)},
    }


def stages(summary: dict[str, Any]) -> list[dict[str, str]]:
    """What each of a sequence of attacks did; empty for a single attack."""
    return [
        {
            "attack": stage["attack"],
            "tried": str(stage["tried"]),
            "broke": str(stage["broke"]),
            "left": interval(stage["robust_accuracy"]),
        }
        for stage in summary.get("stages") or []
    ]


def diagnostics(defended: Result, undefended: Result | None) -> list[tuple[str, list[str]]]:
    """Rows of `(what, [purified, undefended])`, the latter where there is one."""
    both = [result for result in (defended, undefended) if result is not None]

    def row(what: str, measure: Any) -> tuple[str, list[str]]:
        return what, [measure(result) for result in both]

    def evaluations(result: Result) -> str:
        spent = result.evaluations[result.evaluations > 0]
        return f"{spent.mean():.1f}" if len(spent) else "none"

    def distance(result: Result, norm: str) -> str:
        values = getattr(result, norm)[result.evaluations > 0]
        if not len(values):
            return "none"
        if norm == "linf":
            return f"{255 * values.mean():.2f} / {255 * values.max():.2f}"
        return f"{values.mean():.3f} / {values.max():.3f}"

    def affected(counts: np.ndarray, result: Result) -> str:
        images, steps = int((counts > 0).sum()), int(counts.sum())
        if not images:
            return "0"
        total = int(result.evaluations.sum())
        return f"{count_images(images)}, {steps} of {total} evaluations"

    return [
        row("Images attacked", lambda r: str(int((r.evaluations > 0).sum()))),
        row(
            "Wrong to begin with, left alone",
            lambda r: str(int((r.evaluations == 0).sum())),
        ),
        row("Seen broken by the attack", lambda r: str(int((r.broken_at >= 0).sum()))),
        row("Evaluations for an attacked image, mean", evaluations),
        row("L-inf distance × 255, mean / max", lambda r: distance(r, "linf")),
        row("L2 distance, mean / max", lambda r: distance(r, "l2")),
        row("Gradient identically zero", lambda r: affected(r.zero_gradients, r)),
        row("Gradient not finite", lambda r: affected(r.bad_gradients, r)),
        row(
            "Logits not finite",
            lambda r: count_images(len(r.nonfinite)) if len(r.nonfinite) else "0",
        ),
    ]


def run(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of `(what, value)`: what was run and what it cost, as far as it is known."""
    get = summary.get
    dataset = f"{get('dataset')}: " if get("dataset") else ""
    devices = f"{get('num_devices')} × {get('device_kind')}"
    speed = get("images_per_second")
    rows = [
        ("Attack", get("attack")),
        ("Ball", norm_ball(summary)),
        ("Noise policy", asked_policy(summary)),
        ("Gradient", get("gradient")),
        ("Judging keys", get("judging_keys")),
        (
            "Data",
            f"{dataset}{count_images(summary['num_examples'])} of {data_split(summary)}",
        ),
        ("Indices", ranges(get("indices") or [])),
        ("Experiment", get("hash")),
        ("Seed", get("seed")),
        ("Time", None if get("seconds") is None else duration(get("seconds", 0.0))),
        ("Images per second", None if speed is None else f"{speed:.3g}"),
        ("Purifications", thousands(get("purifications"))),
        ("Denoiser evaluations", thousands(get("denoiser_evaluations"))),
        ("Devices", devices if get("device_kind") else None),
        ("Versions", ", ".join(f"{k} {v}" for k, v in (get("versions") or {}).items())),
        ("Commit", get("git")),
    ]
    return [(what, str(value)) for what, value in rows if value not in (None, "")]


def config(config: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of `(field, value)`."""
    return [(name, '""' if value == "" else str(value)) for name, value in config.items()]
