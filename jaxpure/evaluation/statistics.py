"""What is read from the records: reductions over judging keys, and their intervals.

Runs on the host in float64. A draw whose logits are not finite is never correct.
"""

import math
from typing import NamedTuple

import numpy as np

Z95 = 1.959963984540054


class Estimate(NamedTuple):
    """A proportion with its 95% interval.

    Attributes:
      value: the point estimate.
      low: lower end.
      high: upper end.
      n: number of examples.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        value, low, high = (100 * x for x in self[:3])
        return f"{value:.1f}% ({low:.1f} to {high:.1f})"


class PairedGap(NamedTuple):
    """The difference of two proportions on the same examples.

    Attributes:
      gap: first minus second.
      low: lower end of the 95% interval.
      high: upper end.
      only_first: examples that only the first has right.
      only_second: examples that only the second has right.
      p_value: McNemar's exact two-sided p.
      n: number of examples.
    """

    gap: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float
    n: int


def wilson(values: np.ndarray) -> Estimate:
    """The mean of `values` `(n,)` in [0, 1] with Wilson's score interval.

    For 0/1 values it is Wilson's interval (1927). For averages over draws in between,
    whose variance is smaller, it is conservative.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no examples to estimate a proportion from")
    p = float(np.mean(values, dtype=np.float64))
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return Estimate(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), n)


def paired_gap(first: np.ndarray, second: np.ndarray) -> PairedGap:
    """How much more often `first` is right than `second`, both `(n,)` bool.

    Interval: Newcombe 1998, method 10 (Wilson limits of both, with their correlation).
    """
    if first.shape != second.shape:
        raise ValueError(f"unpaired: {first.shape} and {second.shape}")
    n = len(first)
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    a, b = wilson(first), wilson(second)
    margins = (
        (both + only_first)
        * (only_second + neither)
        * (both + only_second)
        * (only_first + neither)
    )
    excess = both * neither - only_first * only_second
    # Newcombe's continuity correction of a positive correlation.
    excess = max(excess - n / 2, 0) if excess > 0 else excess
    phi = excess / math.sqrt(margins) if margins else 0.0

    def reach(da: float, db: float) -> float:
        return math.sqrt(max(da**2 - 2 * phi * da * db + db**2, 0.0))

    gap = a.value - b.value
    low = gap - reach(a.value - a.low, b.high - b.value)
    high = gap + reach(a.high - a.value, b.value - b.low)
    p = _two_sided(only_first, only_first + only_second)
    return PairedGap(gap, low, high, only_first, only_second, p, n)


def _two_sided(successes: int, trials: int) -> float:
    """The exact p-value of as many successes, were each as likely as not; 1 of none."""
    if not trials:
        return 1.0
    from scipy import stats  # here: importing it takes longer than all of the rest

    return float(stats.binomtest(successes, trials).pvalue)


def correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether each draw is right: logits `(n, keys, classes)`, labels `(n,)`."""
    finite = np.isfinite(logits).all(-1)
    return finite & (np.argmax(logits, -1) == labels[:, None])


def margin(logits: np.ndarray, label: int) -> float:
    """The best wrong logit of `(classes,)` minus the true one; not finite counts as inf."""
    if not np.isfinite(logits).all():
        return float("inf")
    return float(np.delete(logits, label).max() - logits[label])


def majority_vote(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the class predicted most often is right; ties go to the lowest class.

    A draw that is not finite is a wrong vote: all of them together are one more class,
    below the others, which no image has.
    """
    finite = np.isfinite(logits).all(-1)
    predicted = np.where(finite, np.argmax(logits, -1) + 1, 0)
    counts = np.eye(logits.shape[-1] + 1)[predicted].sum(1)
    return counts.argmax(-1) == labels + 1


def mean_logits(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the mean logits over all draws are right."""
    mean = logits.mean(1, dtype=np.float64)
    return np.isfinite(mean).all(-1) & (mean.argmax(-1) == labels)
