"""Fuzzy robustness: a perturbation that succeeds under some keys and not under others.

The 2025 submission and DiffHammer (which found a large share of such images). For an image
x with its perturbation d, p = P_key[f_key(x + d) is wrong]; CFR(q) is the share of images
with p >= q.
"""

import numpy as np

from jaxpure.dissect.results import Result, bootstrap
from jaxpure.evaluation.statistics import correct, wilson


def success_probability(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The share of keys under which each image is wrong: `(n,)`, of logits `(n, keys, C)`.

    Logits that are not finite are wrong.
    """
    return 1 - correct(np.asarray(logits), np.asarray(labels)).mean(1)


def per_image(
    probability: np.ndarray, keys: int, indices: np.ndarray | None = None
) -> Result:
    """Each image's success probability `(n,)` with Wilson's interval over its keys."""
    estimates = [wilson(_draws(p, keys)) for p in probability]
    names = np.arange(len(estimates)) if indices is None else np.asarray(indices)
    columns = {
        "example": names,
        "success": np.array([e.value for e in estimates]),
        "success_low": np.array([e.low for e in estimates]),
        "success_high": np.array([e.high for e in estimates]),
    }
    about = (
        "share of keys under which the attacked image is wrong; Wilson's interval over keys"
    )
    return Result("fuzzy_images", about, columns, {"images": len(estimates), "keys": keys})


def cumulative_curve(probability: np.ndarray, keys: int) -> Result:
    """CFR(q), the share of images with success probability at least q, for q = j / keys.

    The curve is a staircase: between (j - 1) / keys and j / keys it has the value at the
    latter. Rows are j = 1 to `keys`, so the first is CFR(0+) as far as so many keys can
    tell (an estimate from below: rarer success goes unseen) and the last is CFR(1), success
    under every key drawn (from above). The interval is Wilson's over images, at each q.

    Args:
      probability: `(n,)` shares of `keys` draws.
      keys: draws an image.
    """
    hits = np.rint(np.asarray(probability, np.float64) * keys)
    levels = np.arange(1, keys + 1)
    estimates = [wilson(hits >= j) for j in levels]
    columns = {
        "probability": levels / keys,
        "share": np.array([e.value for e in estimates]),
        "share_low": np.array([e.low for e in estimates]),
        "share_high": np.array([e.high for e in estimates]),
    }
    about = "CFR(q): share of images whose perturbation succeeds under a share >= q of keys"
    return Result("cfr", about, columns, {"images": len(hits), "keys": keys})


def fuzzy_summary(probability: np.ndarray, keys: int) -> Result:
    """One row: CFR(0+) `some`, CFR(1) `all`, `fuzzy` (strictly between), `area`.

    The area under CFR from 0 to 1 is the mean success probability, exactly. `fuzzy` is the
    share of images with 0 < successes < keys (relation 8); it can only grow with the keys.
    """
    probability = np.asarray(probability, np.float64)
    hits = np.rint(probability * keys)
    columns: dict[str, np.ndarray] = {}
    some, every = hits > 0, hits == keys
    for name, value in {"some": some, "all": every, "fuzzy": some & ~every}.items():
        e = wilson(value)
        columns |= {name: np.array([e.value]), f"{name}_low": np.array([e.low])}
        columns[f"{name}_high"] = np.array([e.high])
    ends = [np.atleast_1d(end) for end in bootstrap(probability)]
    columns |= dict(zip(("area", "area_low", "area_high"), ends, strict=True))
    about = (
        "success under some key, under all, fuzzy between; mean success (area under CFR)"
    )
    return Result("fuzzy", about, columns, {"images": len(hits), "keys": keys})


def _draws(probability: float, keys: int) -> np.ndarray:
    """0/1 draws with this mean."""
    return np.arange(keys) < round(float(probability) * keys)
