"""How much of the robustness is a gradient that the attack could not see.

The replay gap (seed, Table 1), and EOT read as a transfer attack between keys (2026
submission, Sec. B). What the gradients themselves say is in `jaxpure.dissect.alignment`.
"""

from typing import NamedTuple

import jax
import numpy as np

from jaxpure.dissect.results import (
    Result,
    resampling_weights,
)
from jaxpure.evaluation.statistics import PairedGap, correct, paired_gap, wilson
from jaxpure.keys import Key
from jaxpure.types import Defense, Image


def replay_gap(fresh: np.ndarray, replay: np.ndarray, labels: np.ndarray) -> PairedGap:
    """Robust accuracy that replaying the noise takes away (relation 1), paired by image.

    Args:
      fresh: `(n, classes)` logits of the images attacked under fresh noise, as judged.
      replay: `(n, classes)` those attacked with the noise replayed; same images, budget.
      labels: `(n,)` true classes.
    """
    first = correct(np.asarray(fresh)[:, None], np.asarray(labels))[:, 0]
    second = correct(np.asarray(replay)[:, None], np.asarray(labels))[:, 0]
    return paired_gap(first, second)


def cross_logits(defense: Defense, keys: Key, images: Image) -> jax.Array:
    """Logits of images made under each attack key under each judging key.

    Args:
      defense: `(key, x) -> logits`.
      keys: `(judging keys,)`.
      images: `(attack keys, H, W, C)`, of one example.

    Returns:
      `(attack keys, judging keys, classes)`, one image after another.
    """
    return jax.lax.map(lambda x: jax.vmap(lambda key: defense(key, x))(keys), images)


class KeyMatrix(NamedTuple):
    """Success of what was made under one key under another (relation 16).

    Attributes:
      cells: columns `attack`, `judge`, `seen`, `success` with its ends, `images`: a row for
        each pair of keys.
      overall: one row: `seen`, `unseen` and their `difference`, means over all such cells,
        each with its ends over images.
    """

    cells: Result
    overall: Result


def key_matrix(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    seen: np.ndarray | None = None,
    clean: np.ndarray | None = None,
) -> KeyMatrix:
    """The matrix of attack key against judging key: EOT is a transfer attack between keys.

    Success is a wrong class, or logits that are not finite. Where `clean` is given, a pair
    of image and judging key counts only if the clean image is right under that key.

    Args:
      logits: `(n, attacks, judges, classes)`; attack a is an image made under key a, or
        under the set of keys that row a of `seen` names.
      labels: `(n,)`.
      seen: `(attacks, judges)` bool, whether the attack knew that key; by default each knew
        its own, attack a judge a.
      clean: `(n, judges, classes)` logits of the clean images.

    Raises:
      ValueError: shapes that do not fit, or a judging key under which no image counts.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    n, attacks, judges, classes = logits.shape
    seen = np.eye(attacks, judges, dtype=bool) if seen is None else np.asarray(seen, bool)
    if seen.shape != (attacks, judges):
        raise ValueError(f"seen is {seen.shape}, expected {(attacks, judges)}")
    right = correct(logits.reshape(n, attacks * judges, classes), labels)
    success = ~right.reshape(n, attacks, judges)
    counts = np.ones((n, judges), bool)
    if clean is not None:
        counts = correct(np.asarray(clean), labels)
    if not counts.any(0).all():
        key = int(np.flatnonzero(~counts.any(0))[0])
        raise ValueError(
            f"no clean image is right under judging key {key}: nothing to attack"
        )
    pairs = [(a, j) for a in range(attacks) for j in range(judges)]
    estimates = [wilson(success[counts[:, j], a, j]) for a, j in pairs]
    cells = {
        "attack": np.array([a for a, _ in pairs]),
        "judge": np.array([j for _, j in pairs]),
        "seen": seen.reshape(-1).astype(int),
        "success": np.array([e.value for e in estimates]),
        "success_low": np.array([e.low for e in estimates]),
        "success_high": np.array([e.high for e in estimates]),
        "images": np.array([e.n for e in estimates]),
    }
    about = (
        "share of images wrong under the judging key, made under the attack key "
        "(2026 submission, Sec. B); intervals: Wilson"
    )
    overall = _seen_and_unseen(success, counts, seen)
    return KeyMatrix(Result("key_matrix", about, cells, {"images": n}), overall)


def _seen_and_unseen(success: np.ndarray, counts: np.ndarray, seen: np.ndarray) -> Result:
    """Mean success over seen and over unseen cells; whole images are resampled."""
    weights = np.vstack([np.ones(len(success)), resampling_weights(len(success))])
    columns: dict[str, np.ndarray] = {}
    values: dict[str, np.ndarray] = {}
    counted = np.broadcast_to(counts[:, None], success.shape)
    for name, cells in {"seen": seen, "unseen": ~seen}.items():
        if not cells.any():
            continue
        hits = weights @ (success & counted)[:, cells].sum(1)
        tries = weights @ counted[:, cells].sum(1)
        values[name] = np.divide(hits, tries, np.full_like(hits, np.nan), where=tries > 0)
    if len(values) == 2:
        values["difference"] = values["seen"] - values["unseen"]
    for name, value in values.items():
        low, high = np.nanquantile(value[1:], [0.025, 0.975])
        ends = (value[:1], np.array([low]), np.array([high]))
        columns |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
    about = "success under keys the attack saw, and under others; bootstrap over images"
    return Result("key_transfer", about, columns, {"images": len(success)})
