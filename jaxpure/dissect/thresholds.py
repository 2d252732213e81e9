"""Anchors, and how far one may go from them before the class changes.

The anchor of an image under key k is its own purified image f_k(x). Two things make a
purified classifier robust under replay (2505.22839): the anchor is classified right, and
the ball around the image is mapped so close to the anchor that its class is the anchor's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure.dissect.derivatives import normalise
from jaxpure.dissect.results import Result
from jaxpure.evaluation.statistics import Estimate, wilson
from jaxpure.keys import Key
from jaxpure.types import Classifier, Image, Purifier

NOT_FINITE = -1  # the class of logits that are not finite: none


def predict(logits: jax.Array) -> jax.Array:
    """The class of logits `(classes,)`: `()`; -1 where they are not all finite."""
    return jnp.where(jnp.all(jnp.isfinite(logits)), jnp.argmax(logits), NOT_FINITE)


class Anchor(NamedTuple):
    """Attributes:
    image: `(H, W, C)` f_k(x).
    prediction: `()` its class, -1 where it has none.
    """

    image: Image
    prediction: jax.Array


def anchor(purifier: Purifier, classifier: Classifier, key: Any, x: Image) -> Anchor:
    """The purified clean image under this key, and its class."""
    image = purifier(key, x)
    logits = jnp.where(jnp.all(jnp.isfinite(image)), classifier(image), jnp.nan)
    return Anchor(image, predict(logits))


def anchor_accuracy(predictions: np.ndarray, labels: np.ndarray) -> Estimate:
    """Clean accuracy under the keys of the anchors, of predictions `(n,)`."""
    return wilson(np.asarray(predictions) == np.asarray(labels))


def two_requirements(anchors: np.ndarray, balls: np.ndarray, labels: np.ndarray) -> Result:
    """The 2x2 table of relation 11: anchor right or not, ball held to the anchor or not.

    A ball is held where every point that was tried in it (attacked images first of all) has
    the anchor's class under the same key. Robust is right and held. Points without a class
    (not finite) hold nothing.

    Args:
      anchors: `(n,)` classes of the anchors.
      balls: `(n, points)` classes of the purified points of each ball.
      labels: `(n,)` true classes.

    Returns:
      four rows: `anchor_right`, `ball_held` (0 or 1), `images`, `share` with its ends, and
      `ball_right`, the share of the row's points that are classified right.
    """
    anchors, balls, labels = map(np.asarray, (anchors, balls, labels))
    right = anchors == labels
    held = ((balls == anchors[:, None]) & (balls != NOT_FINITE)).all(1)
    points = (balls == labels[:, None]).mean(1)
    rows = []
    for is_right in (True, False):
        for is_held in (True, False):
            cell = (right == is_right) & (held == is_held)
            share = wilson(cell)
            inside = float(points[cell].mean()) if cell.any() else float("nan")
            rows.append((int(is_right), int(is_held), int(cell.sum()), *share[:3], inside))
    names: list[str] = ["anchor_right", "ball_held", "images"]
    names += ["share", "share_low", "share_high", "ball_right"]
    columns = dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))
    about = (
        "anchor f_k(x) right, and every tried point of the ball of the anchor's class "
        "under the same key (2505.22839); Wilson's intervals"
    )
    return Result("two_requirements", about, columns, {"images": len(labels)})


def critical_threshold(
    classify: Callable[[Image], jax.Array],
    x: Image,
    direction: jax.Array,
    *,
    maximum: float,
    scan: int = 16,
    bisections: int = 12,
) -> jax.Array:
    """The smallest s > 0 at which the class of x + s d is another than that of x: `()`.

    The ray is looked at in `scan` even places up to `maximum`; between the last unchanged
    and the first changed one it is bisected (a class that changes and changes back between
    two places is not seen). The result is the changed end: x + s d has another class.

    Args:
      classify: `(x) -> logits`: a classifier, or a defense under one key.
      x: `(H, W, C)`.
      direction: `(H, W, C)`, brought to L2 length 1.
      maximum: how far to look, L2 in [0, 1] units.
      scan: number of places looked at.
      bisections: the result is off by maximum / scan / 2^bisections at most.

    Returns:
      the threshold; inf where no place up to `maximum` has another class; NaN where x
      itself has none. A point whose logits are not finite counts as changed.
    """
    unit = normalise(direction)
    own = predict(classify(x))

    def changed(s: jax.Array) -> jax.Array:
        return predict(classify(x + s * unit)) != own

    places = jnp.linspace(0, maximum, scan + 1, dtype=x.dtype)
    flags = jax.lax.map(changed, places[1:])
    first = jnp.argmax(flags)

    def halve(_, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        beyond = changed(middle)
        return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

    ends = (places[first], places[first + 1])
    _, high = jax.lax.fori_loop(0, bisections, halve, ends)
    found = jnp.where(jnp.any(flags), high, jnp.inf)
    return jnp.where(own == NOT_FINITE, jnp.nan, found)


class Thresholds(NamedTuple):
    """The 2025 submission's four critical thresholds along one direction, L2: `()` each.

    Attributes:
      classifier: the classifier alone, at x.
      classifier_at_anchor: the classifier alone, at f_k(x).
      system: purifier and classifier under key k, at x.
      system_at_anchor: the same at f_k(x), purified a second time.
    """

    classifier: jax.Array
    classifier_at_anchor: jax.Array
    system: jax.Array
    system_at_anchor: jax.Array


def four_thresholds(
    purifier: Purifier,
    classifier: Classifier,
    key: Key,
    x: Image,
    direction: jax.Array,
    *,
    maximum: float,
    scan: int = 16,
    bisections: int = 12,
) -> Thresholds:
    """All four thresholds along one direction; options as for `critical_threshold`.

    The 2025 submission found all four positively correlated, and the third about equal to
    the fourth.
    """
    centre = purifier(key, x)

    def system(x: Image) -> jax.Array:
        return classifier(purifier(key, x))

    def at(classify: Callable[[Image], jax.Array], x: Image) -> jax.Array:
        options = {"maximum": maximum, "scan": scan, "bisections": bisections}
        return critical_threshold(classify, x, direction, **options)

    return Thresholds(
        at(classifier, x), at(classifier, centre), at(system, x), at(system, centre)
    )
