"""Intervals against scipy, and the reductions over judging keys by their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxpure.evaluation import readings, statistics


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (1, 200), (93, 200), (511, 512)])
def test_wilson_is_scipys(right, n):
    ours = statistics.wilson(np.arange(n) < right)
    theirs = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert ours.value == right / n and ours.n == n
    np.testing.assert_allclose((ours.low, ours.high), theirs, atol=1e-12)


def test_wilson_needs_examples():
    with pytest.raises(ValueError, match="no examples"):
        statistics.wilson(np.zeros(0))


def pairs(both, only_first, only_second, neither):
    counts = (both, only_first, only_second, neither)
    first = np.repeat([True, True, False, False], counts)
    return first, np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize(
    ("counts", "gap", "low", "high"),
    [  # as published: Newcombe 1998, table II; Fagerland et al. 2014, airway reactivity
        ((20, 12, 2, 16), 0.2, 0.0562, 0.3292),
        ((54, 0, 0, 0), 0.0, -0.0664, 0.0664),
        ((1, 1, 7, 12), -6 / 21, -0.507, -0.026),
    ],
)
def test_paired_gap_is_newcombes(counts, gap, low, high):
    result = statistics.paired_gap(*pairs(*counts))
    assert result.gap == pytest.approx(gap)
    np.testing.assert_allclose((result.low, result.high), (low, high), atol=6e-4)
    assert (result.only_first, result.only_second) == counts[1:3]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_paired_gap_properties(rows):
    first, second = np.array(rows).T
    one, other = statistics.paired_gap(first, second), statistics.paired_gap(second, first)
    assert -1 <= one.low <= one.gap <= one.high <= 1
    np.testing.assert_allclose((one.gap, one.low), (-other.gap, -other.high), atol=1e-12)
    assert one.p_value == pytest.approx(other.p_value)
    discordant = one.only_first + one.only_second
    if discordant:
        expected = stats.binomtest(one.only_first, discordant).pvalue
        assert one.p_value == pytest.approx(expected)
    else:
        assert one.p_value == 1


def test_paired_gap_refuses_unpaired():
    with pytest.raises(ValueError, match="unpaired"):
        statistics.paired_gap(np.ones(3, bool), np.ones(4, bool))


def one_hot(*predictions, classes=4):
    return np.eye(classes)[np.array(predictions)][None]


def test_majority_vote_ties_go_to_the_lowest_class():
    logits = one_hot(2, 1, 2, 1)
    assert statistics.majority_vote(logits, np.array([1]))[0]
    assert not statistics.majority_vote(logits, np.array([2]))[0]


def test_a_value_that_is_not_finite_is_never_right():
    for bad in (np.nan, np.inf, -np.inf):
        logits = one_hot(3, 3)
        logits[0, 0, 0] = bad
        label = np.array([3])
        assert statistics.correct(logits, label).tolist() == [[False, True]]
        assert not statistics.mean_logits(logits, label)[0]
        # A vote each, the other draw's and one for no class at all, which is counted first.
        assert not statistics.majority_vote(logits, label)[0]
        logits[0, 1, 1] = bad
        assert not statistics.majority_vote(logits, label)[0]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 9))
def test_reductions_are_consistent(seed, n, keys):
    random = np.random.default_rng(seed)
    logits, labels = random.normal(size=(n, keys, 3)), random.integers(0, 3, n)
    found = readings.read(logits, labels)
    right = logits.argmax(-1) == labels[:, None]
    assert found["headline"].value == pytest.approx(right[:, 0].mean())
    assert found["average"].value == pytest.approx(right.mean())
    assert found["worst_of_n"].value == pytest.approx(right.all(1).mean())
    assert found["worst_of_n"].value <= found["headline"].value + 1e-12
    assert ("unseen" in found) == (keys > 1)
    if keys > 1:
        assert found["unseen"].value == pytest.approx(right[:, 1:].mean())
    else:
        assert found["majority_vote"] == found["headline"] == found["mean_logits"]
