"""What draws say of an image, against numpy; what an attack keeps of its iterates."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpure.attacks import Linf, Pgd, search
from jaxpure.attacks.verdict import (
    CRITERIA,
    Verdict,
    check_criterion,
    judge_draws,
    no_verdict,
)
from jaxpure.errors import UserError
from jaxpure.evaluation import statistics
from jaxpure.keys import noise_at
from jaxpure.policy import PRESETS

values = st.floats(-5, 5, width=32) | st.sampled_from([0.0, np.nan, np.inf])
draws = st.integers(1, 7).flatmap(
    lambda n: st.lists(
        st.lists(values, min_size=4, max_size=4), min_size=n, max_size=n
    ).map(lambda rows: np.array(rows, np.float32))
)


@settings(deadline=None, max_examples=60)
@given(draws, st.integers(0, 3))
def test_criteria_by_their_definitions(logits, label):
    finite = np.isfinite(logits).all(1)
    wrong = finite & (logits.argmax(1) != label)
    votes = Counter(logits.argmax(1)[finite].tolist())
    winner = min(votes, key=lambda c: (-votes[c], c)) if votes else label
    mean = logits.mean(0)
    expected = {
        "most": wrong.sum() * 2 > len(logits),
        "any": wrong.any(),
        "vote": winner != label,
        "mean_logits": bool(np.isfinite(mean).all()) and mean.argmax() != label,
    }
    for criterion in CRITERIA:
        verdict = judge_draws(jnp.asarray(logits), jnp.int32(label), criterion)
        assert bool(verdict.broken) == expected[criterion], criterion
        assert float(verdict.fooled) == pytest.approx(wrong.mean())
        right = statistics.correct(logits[None], np.array([label]))[0]
        assert float(verdict.lost) == pytest.approx(1 - right.mean(), abs=1e-6)
        reported = statistics.majority_vote(logits[None], np.array([label]))[0]
        assert bool(verdict.vote_lost) != reported  # the same statistic as the report's


def verdict(broken, score, margin):
    numbers = jnp.array(broken), jnp.array(score), jnp.array(margin)
    return Verdict(*numbers, fooled=0.0, lost=0.0, vote_lost=False)


def test_the_criterion_comes_first_then_score_then_margin():
    ranked = [
        verdict(True, 0.6, 0.0),
        verdict(True, 0.5, 1.0),
        verdict(True, 0.5, 0.0),
        verdict(False, 0.9, 9.0),
        no_verdict(jnp.zeros(())),
    ]
    for i, one in enumerate(ranked):
        for j, other in enumerate(ranked):
            assert bool(one.better_than(other)) == (i < j)


def test_an_unknown_criterion_is_named():
    with pytest.raises(UserError, match="unknown criterion 'all'; known: most, any"):
        check_criterion("all")


def split_vote(key, x):
    """Three kinds of draw, which the first pixel moves apart: one stays, two fall."""
    kind = noise_at(key, 0, x[0, 0, 0])
    moved = 4 * x[0, 0, 0] - 2
    first = jnp.array([1.0, -moved, 0.0])
    second = jnp.array([1.0, 0.0, moved])
    return jnp.where(kind < -0.4, jnp.array([1.0, 0.0, 0.0]), 0) + jnp.where(
        kind < -0.4, 0.0, jnp.where(kind < 0.4, first, second)
    )


@partial(jax.jit, static_argnames="policy")
def run(attack, key, x, label, policy=PRESETS["fixed"]):
    objective = attack.objective(jax.tree_util.Partial(split_vote), policy)
    return search(attack, objective, Linf(0.5), key, x, label)


def pgd(**options):
    usual = {"step_size": 0.1, "num_steps": 5, "random_start": False}
    return Pgd(**usual | {"eot_samples": 30} | options)


def test_broken_at_follows_the_criterion():
    """Of 30 fixed draws a third fall as the pixel rises: any is broken, most are not."""
    x, key = jnp.full((1, 1, 1), 0.5), jax.random.key(2)
    found = {
        c: run(pgd(criterion=c, loss="margin"), key, x, jnp.int32(0)) for c in CRITERIA
    }
    assert int(found["any"].broken_at) > 0
    assert int(found["most"].broken_at) == -1
    for progress in found.values():  # whatever the criterion, what was seen is the same
        assert 0 < float(progress.lost) <= 0.5
        assert not bool(progress.vote_lost)


def test_the_last_iterate_is_the_last_whatever_it_does():
    """Its draws are the gradient's own, and it costs no others."""
    x, key, label = jnp.full((1, 1, 1), 0.5), jax.random.key(2), jnp.int32(0)
    fresh, defense = PRESETS["fresh"], jax.tree_util.Partial(split_vote)
    last = pgd(iterate="last", num_steps=3, eot_samples=4)
    best = pgd(iterate="best", num_steps=3, eot_samples=4)
    costs = [each.budget(each.objective(defense, fresh)) for each in (last, best)]
    assert [cost.forward_draws for cost in costs] == [0, 4]
    assert [cost.gradient_draws for cost in costs] == [4, 4]
    progress = run(last, key, x, label, fresh)
    objective, ball = last.objective(defense, fresh), Linf(0.5)
    before = last.init(objective, ball, key, x, label)
    for _ in range(3):
        before = last.step(objective, ball, before)
    np.testing.assert_array_equal(progress.adversarial, before.x)
    moved = jnp.abs(progress.adversarial - x).max()
    assert float(moved) == pytest.approx(0.3, abs=1e-6)
    with pytest.raises(UserError, match="unknown iterate 'first'; known: best, last"):
        pgd(iterate="first")
