"""Readings: what is told of logits under N judging keys, each with its interval.

One table: `READINGS` says how each reading is taken; reports, summaries and comparisons
refer to it by name.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxpure.errors import UserError, check_in
from jaxpure.evaluation import statistics
from jaxpure.evaluation.statistics import Estimate


class Reading(NamedTuple):
    """One way of reading the draws of each image.

    Attributes:
      title: as a table calls it.
      meaning: one sentence.
      values: `(logits (n, keys, classes), labels (n,)) -> (n,)` in [0, 1].
      least_keys: judging keys without which it says nothing.
    """

    title: str
    meaning: str
    values: Callable[[np.ndarray, np.ndarray], np.ndarray]
    least_keys: int = 1


READINGS: dict[str, Reading] = {
    "headline": Reading(
        "headline",
        "right under judging key 0, the noise that a replaying attack was given",
        lambda logits, labels: statistics.correct(logits, labels)[:, 0],
    ),
    "unseen": Reading(
        "unseen noise",
        "share of the keys that no attack saw under which it is right, averaged",
        lambda logits, labels: statistics.correct(logits, labels)[:, 1:].mean(1),
        least_keys=2,
    ),
    "average": Reading(
        "average",
        "share of all judging keys under which it is right, averaged",
        lambda logits, labels: statistics.correct(logits, labels).mean(1),
    ),
    "worst_of_n": Reading(
        "worst of N",
        "right under every judging key",
        lambda logits, labels: np.all(statistics.correct(logits, labels), axis=1),
    ),
    "majority_vote": Reading(
        "majority vote",
        "the class predicted under most keys is right; a draw that is not finite is a "
        "wrong vote",
        statistics.majority_vote,
    ),
    "mean_logits": Reading(
        "mean logits",
        "the mean of the logits over all keys is right",
        statistics.mean_logits,
    ),
}


def read(logits: np.ndarray, labels: np.ndarray) -> dict[str, Estimate]:
    """Every reading of logits `(n, keys, classes)` that their number of keys allows."""
    return {
        name: statistics.wilson(reading.values(logits, labels))
        for name, reading in READINGS.items()
        if logits.shape[1] >= reading.least_keys
    }


def at_least(logits: np.ndarray, labels: np.ndarray, k: int) -> Estimate:
    """Right under at least `k` of the judging keys."""
    keys = logits.shape[1]
    if not 1 <= k <= keys:
        raise ValueError(f"{k=}, expected 1 to {keys}, the judging keys")
    return statistics.wilson(statistics.correct(logits, labels).sum(1) >= k)


REDUCERS = {
    "mean": "average",
    "vote": "majority_vote",
    "mean_logits": "mean_logits",
    "worst": "worst_of_n",
}
"""Short names of the readings that many draws are reduced by; see also `reduce`."""


def reduce(logits: np.ndarray, labels: np.ndarray, reducer: str) -> Estimate:
    """One reading of logits `(n, keys, classes)`, chosen by name.

    Args:
      logits: of the draws.
      labels: `(n,)`.
      reducer: one of REDUCERS or READINGS, or "at_least_3" for another number of draws.

    Raises:
      UserError: an unknown reducer, or one that needs more keys than there are.
    """
    number = reducer.removeprefix("at_least_")
    keys = logits.shape[1]
    if number != reducer and number.isdecimal():
        if not 1 <= int(number) <= keys:
            raise UserError(f"{reducer}: expected at_least_1 to at_least_{keys}, the keys")
        return at_least(logits, labels, int(number))
    name = REDUCERS.get(reducer, reducer)
    check_in("reducer", name, [*REDUCERS, "at_least_K", *READINGS])
    if name not in READINGS:
        raise UserError("at_least_K: give the number of draws for K, as in at_least_3")
    if keys < READINGS[name].least_keys:
        raise UserError(
            f"{reducer} needs {READINGS[name].least_keys} keys, there is {keys}"
        )
    return statistics.wilson(READINGS[name].values(logits, labels))


def resubmission(lost: np.ndarray, vote_lost: np.ndarray) -> dict[str, Any]:
    """What an attack's own draws said of all its iterates.

    That is the evaluation of a defense which an image may be submitted to again and again
    while it is being made: of each image the iterate that most draws lost counts on
    average, and any iterate that any draw lost (N-evaluation, Wang et al. 2024), or the
    vote of its draws (Kassis, Hengartner and Yu 2024), breaks it for good.

    Args:
      lost: `(n,)` the largest share of draws that were not right on any iterate.
      vote_lost: `(n,)` bool, whether the vote on any iterate was lost.
    """
    values = {
        "average": 1 - lost,
        "worst_of_n": lost == 0,
        "majority_vote": ~vote_lost,
    }
    return {name: statistics.wilson(value) for name, value in values.items()}
