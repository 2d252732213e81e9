"""Two evaluations side by side, paired on the examples that they share.

The interval of a gap is Newcombe's, the p-value McNemar's exact one. Of a fresh run and a
replayed one, in this order, the gap is what masking hid.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxpure.errors import UserError
from jaxpure.evaluation import statistics
from jaxpure.evaluation.statistics import Estimate, PairedGap


class Judged(Protocol):
    """What is paired: a `Result`, or what of one a finished run's files hold.

    Attributes:
      indices: `(n,)` in the published set.
      labels: `(n,)`.
      clean_logits: `(n, keys, classes)`.
      logits: `(n, keys, classes)` of the adversarial images.
      example_digests: of each example, by index; None where the images are not known.
      about: what was evaluated; "data" names the set.
    """

    @property
    def indices(self) -> np.ndarray: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def clean_logits(self) -> np.ndarray: ...
    @property
    def logits(self) -> np.ndarray: ...
    @property
    def example_digests(self) -> Mapping[int, str] | None: ...
    @property
    def about(self) -> dict[str, Any]: ...


class PairedReading(NamedTuple):
    """One reading of both.

    Attributes:
      first: of the first evaluation, on the shared examples.
      second: of the second.
      gap: first minus second.
    """

    first: Estimate
    second: Estimate
    gap: PairedGap


class Comparison(NamedTuple):
    """What the shared examples say of two evaluations.

    Attributes:
      indices: `(n,)` of the shared examples.
      readings: by name: "robust accuracy" and "clean accuracy" under judging key 0, and
        "worst of N".
      about: what each evaluation says of itself.
    """

    indices: np.ndarray
    readings: dict[str, PairedReading]
    about: tuple[dict[str, Any], dict[str, Any]]

    @property
    def gap(self) -> PairedGap:
        """Of the robust accuracy."""
        return self.readings["robust accuracy"].gap

    def __str__(self) -> str:
        return describe(self)


PAIRED: dict[str, Callable[[Judged], np.ndarray]] = {
    "robust accuracy": lambda r: statistics.correct(r.logits, r.labels)[:, 0],
    "worst of N": lambda r: np.all(statistics.correct(r.logits, r.labels), axis=1),
    "clean accuracy": lambda r: statistics.correct(r.clean_logits, r.labels)[:, 0],
}


def compare(first: Judged, second: Judged) -> Comparison:
    """Pairs two evaluations: the first's accuracy minus the second's.

    Raises:
      UserError: they share no example, or are not of the same examples: of other sets, or
        of one whose labels, or images where both know them, were changed in between.
    """
    names = [result.about.get("data", "a data set") for result in (first, second)]
    shared, rows, others = np.intersect1d(
        first.indices, second.indices, return_indices=True
    )
    if not len(shared):
        raise UserError(
            f"the two evaluations, of {names[0]} and of {names[1]}, have no example in "
            "common"
        )
    if names[0] != names[1]:
        raise UserError(
            f"one evaluation is of {names[0]}, the other of {names[1]}: the examples are "
            "not the same"
        )
    changed = shared[_differ(first, second, shared, rows, others)]
    if len(changed):
        raise UserError(
            f"example {changed[0]} of {names[0]} ({len(changed)} of {len(shared)} in all) "
            "is not the same image and label in the two evaluations: the set was changed "
            "between them; evaluate one of them again"
        )
    found = {}
    for name, read in PAIRED.items():
        a, b = read(first)[rows], read(second)[others]
        found[name] = PairedReading(
            statistics.wilson(a), statistics.wilson(b), statistics.paired_gap(a, b)
        )
    return Comparison(shared, found, (first.about, second.about))


def _differ(
    first: Judged, second: Judged, shared: np.ndarray, rows: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """`(n,)` whether each shared example is another one in the second evaluation."""
    differ = first.labels[rows] != second.labels[others]
    ours, theirs = first.example_digests, second.example_digests
    if ours is None or theirs is None:
        return differ
    return differ | np.array([ours[int(i)] != theirs[int(i)] for i in shared])


def describe(comparison: Comparison, names: tuple[str, str] = ("A", "B")) -> str:
    """The comparison as people read it: a table and a sentence.

    Args:
      comparison: what to tell.
      names: what to call the two, besides A and B.
    """
    policies = [about.get("policy", "unknown") for about in comparison.about]
    lines = [
        f"{letter}  {'' if name == letter else f'{name}  '}(policy {policy})"
        for letter, name, policy in zip("AB", names, policies, strict=True)
    ]
    lines += [
        f"{len(comparison.indices)} examples in both",
        "",
        f"{'':16} {'A':>22} {'B':>22} {'A - B, paired':>24}   McNemar p",
    ]
    for name, (first, second, gap) in comparison.readings.items():
        cells = [_points(estimate) for estimate in (first, second)]
        lines.append(
            f"{name:16} {cells[0]:>22} {cells[1]:>22} {_points(gap):>24}   "
            f"{gap.p_value:.2g}"
        )
    return "\n".join([*lines, "", verdict(comparison.gap, *policies)])


def verdict(gap: PairedGap, first: str, second: str) -> str:
    """One sentence on the gap between two policies."""
    if gap.low <= 0 <= gap.high:
        return (
            f"No clear difference between policy {first} and policy {second} on these "
            f"{gap.n} examples (the interval includes zero)."
        )
    higher, lower = (first, second) if gap.gap > 0 else (second, first)
    return (
        f"Under policy {lower} the defense keeps {abs(100 * gap.gap):.1f} points less than "
        f"under policy {higher}, on the same {gap.n} examples; the interval excludes zero."
    )


def _points(estimate: Estimate | PairedGap) -> str:
    value = estimate.gap if isinstance(estimate, PairedGap) else estimate.value
    return f"{100 * value:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"
