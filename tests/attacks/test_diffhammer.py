"""DiffHammer: its draws, its weights by EM, and its grafted gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpure import gradients
from jaxpure.attacks import DiffHammer, Linf, Pgd
from jaxpure.attacks.diffhammer import Draws, draw, representative, weigh
from jaxpure.defenses import PurifiedClassifier
from jaxpure.errors import UserError

from . import toys

BALL = Linf(0.1)
HAMMER = DiffHammer(step_size=0.05, num_steps=5, eot_samples=3)


def attacked(attack, row, policy="fresh", defense=toys.DEFENSE):
    return toys.final(attack, defense, BALL, *row, policy)


# The weights.


def draws_of(losses, grads):
    logits = jnp.zeros((len(losses), 2))
    return Draws(logits, jnp.asarray(losses), jnp.asarray(grads, jnp.float32))


def direction(size, gradient):
    return size * jnp.sign(gradient)


@partial(jax.jit, static_argnums=3)
def weighed(draws, size, em_lambda, steps):
    """The representative, and the weighed mean of gradients."""
    along = partial(direction, size)
    chosen = representative(draws, along)
    return chosen, weigh(draws, along, chosen, em_lambda, steps)


def numpy_em(losses, grads, eps, lam, steps):
    """The EM in plain loops, in Linf."""

    def gains(r):
        return [eps * np.sum(np.sign(r) * g) for g in grads]

    def elu(v):
        return v if v > 0 else np.exp(v) - 1

    totals = [sum(elu(v + d) for v, d in zip(losses, gains(r), strict=True)) for r in grads]
    chosen = int(np.argmax(totals))
    r = grads[chosen]
    for _ in range(steps):
        w = [
            1 / (1 + np.exp(-lam * (v + d))) for v, d in zip(losses, gains(r), strict=True)
        ]
        r = sum(wi * g for wi, g in zip(w, grads, strict=True)) / sum(w)
    return chosen, r


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), steps=st.sampled_from([1, 5]))
def test_weights_by_the_definition(seed, steps):
    random = np.random.default_rng(seed)
    grads = random.normal(size=(6, *toys.SHAPE)).astype(np.float32)
    losses = random.normal(size=6).astype(np.float32) - 1
    chosen, found = weighed(draws_of(losses, grads), 0.05, 5.0, steps)
    expected = numpy_em(losses, grads.astype(np.float64), 0.05, 5.0, steps)
    assert int(chosen) == expected[0]
    np.testing.assert_allclose(found, expected[1], atol=1e-4)


def test_draws_that_can_fall_together_outweigh_those_that_cannot():
    """The plain mean goes the way of one loud draw; the weighed one does not."""
    along = np.zeros(toys.SHAPE, np.float32)
    along[0, 0, 0] = 1
    grads = np.stack([along, along, along, -5 * along])
    losses = np.array([-0.05, -0.05, -0.05, -9.0], np.float32)
    assert grads.mean(0)[0, 0, 0] < 0
    chosen, found = weighed(draws_of(losses, grads), 0.1, 5.0, 5)
    assert int(chosen) < 3
    assert float(found[0, 0, 0]) > 0.9


def test_weights_are_of_one_sum_however_confident_the_draws_are():
    """Equal draws have equal weights, though each is next to nothing by itself."""
    gradient = np.random.default_rng(0).normal(size=toys.SHAPE).astype(np.float32)
    for loss in (-1.0, -30.0, -300.0):
        losses = np.full(5, loss, np.float32)
        _, found = weighed(draws_of(losses, np.stack([gradient] * 5)), 0.1, 5.0, 5)
        np.testing.assert_allclose(found, gradient, rtol=1e-5)


# The attack.


def test_a_steps_draws_are_what_purification_and_classifier_give():
    key, x, label = toys.example(2)
    objective = HAMMER.objective(toys.DEFENSE, toys.policy("fresh"))
    classifier = toys.DEFENSE.classifier

    def margin(purified):
        values = classifier(purified)
        return (
            jnp.max(jnp.where(jnp.arange(toys.CLASSES) == label, -jnp.inf, values))
            - (values[label])
        )

    @jax.jit
    def both(key, x):
        keys = objective.gradient_keys(key, jnp.int32(0))
        purified = jax.vmap(toys.PURIFIER, (0, None))(jax.random.clone(keys), x)
        one = jax.vmap(jax.value_and_grad(margin))(purified)
        return draw(objective, keys, x, label), one, jax.vmap(classifier)(purified)

    found, (losses, grads), logits = both(key, x)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5)
    np.testing.assert_allclose(found.logits, logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.gradients, grads, rtol=1e-4, atol=1e-6)
    assert len(np.unique(np.asarray(losses))) == 3


def test_with_one_draw_it_is_pgd_on_the_margin():
    """One draw has weight one, and its grafted gradient is the exact one."""
    policy, (key, x, label) = toys.policy("replay"), toys.example(1)
    hammer = DiffHammer(step_size=0.05, num_steps=6, em_alpha=0.0)
    pgd = Pgd(step_size=0.05, num_steps=6, loss="margin")
    pairs = [(each, each.objective(toys.DEFENSE, policy)) for each in (hammer, pgd)]

    @jax.jit
    def paths(key):
        def path(attack, objective):
            state = attack.init(objective, BALL, jax.random.clone(key), x, label)

            def call(state, _):
                return attack.step(objective, BALL, state), state.x

            return jax.lax.scan(call, state, None, 6)[1]

        return [path(*pair) for pair in pairs]

    one, other = paths(key)
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(one[0] - one[-1]).max() > 0.05


def test_an_update_keeps_some_of_the_last_gradient():
    """A share (step + 1) ** -alpha of the new one: all of the first, half of the fourth."""
    policy, (key, x, label) = toys.policy("fixed"), toys.example(1)
    ball = Linf(1.0)  # nothing is cut

    def gradients_of(em_alpha):
        attack = DiffHammer(num_steps=6, eot_samples=2, em_alpha=em_alpha, step_size=1e-7)
        objective = attack.objective(toys.DEFENSE, policy)
        state = attack.init(objective, ball, jax.random.clone(key), x, label)

        def call(state, _):
            after = attack.step(objective, ball, state)
            return after, after.gradient

        return jax.lax.scan(call, state, None, 5)[1]

    anew, kept = jax.jit(jax.vmap(gradients_of))(jnp.array([0.0, 0.5]))
    expected = np.zeros(toys.SHAPE)
    for step in range(5):  # the iterate hardly moves: each step has the gradient anew
        share = (step + 1) ** -0.5
        expected = share * np.asarray(anew[step]) + (1 - share) * expected
        np.testing.assert_allclose(kept[step], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("policy", "draws"), [("fresh", 7), ("replay", 1)])
def test_it_costs_its_draws_and_one_gradient(policy, draws):
    attack = DiffHammer(num_steps=5, eot_samples=7)
    objective = attack.objective(toys.DEFENSE, toys.policy(policy))
    assert attack.budget(objective) == (6, 1, draws, draws)


def test_its_draws_are_an_evaluation_and_fresh_noise_does_not_end_it():
    key, x, label = toys.example(3)
    wrong = (label + 1) % toys.CLASSES  # nearly every draw is wrong from the start
    progress = attacked(HAMMER, (key, x, wrong)).progress
    assert int(progress.evaluations) == 6 and int(progress.broken_at) == 0
    assert float(progress.lost) == 1 and progress.vote_lost
    still = toys.final(HAMMER, toys.DEFENSE, Linf(0.0), *toys.example(2)).progress
    assert float(still.lost) == 0 and int(still.evaluations) == 6  # of a clear image


def test_it_follows_a_gradient_rule():
    seen = PurifiedClassifier(gradients.Bpda()(toys.PURIFIER), toys.DEFENSE.classifier)
    row = toys.example(4)
    through = attacked(HAMMER, row, defense=seen).gradient
    exact = attacked(HAMMER, (jax.random.clone(row[0]), *row[1:])).gradient
    assert not np.allclose(through, exact)


def test_a_defense_without_a_purifier_is_refused():
    with pytest.raises(UserError, match="a purifier and a classifier; for another use pgd"):
        HAMMER.objective(lambda key, x: x, toys.policy("fresh"))
