"""PGD: the worst case where it is known, its momentum, and which iterate it keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure.attacks import L1, L2, Linf, Pgd
from jaxpure.losses import cross_entropy

from . import toys

BALLS = {"linf": Linf, "l2": L2, "l1": L1}


def attacked(attack, defense, ball, x, label=1, seed=0, policy="fresh"):
    return toys.final(attack, defense, ball, jax.random.key(seed), x, label, policy)


@pytest.mark.parametrize(
    ("loss", "random_start"), [("cross_entropy", False), ("margin", True)]
)
def test_linf_reaches_the_worst_case_of_a_linear_classifier(loss, random_start):
    """To the bit, where the box cuts the ball too, and whatever the momentum."""
    eps = 0.2
    for seed, momentum in ((0, 0.0), (1, 0.75), (2, 0.75)):
        _, defense, unit = toys.plane(1.0, "linf", seed)
        x = np.asarray(toys.image(seed, shape=unit.shape))  # near 0 and 1 too
        attack = Pgd(
            step_size=0.06,
            num_steps=8,
            loss=loss,
            momentum=momentum,
            random_start=random_start,
        )
        state = attacked(attack, defense, Linf(eps), x, seed=seed)
        worst = np.clip(x - np.float32(eps) * unit, 0, 1)
        np.testing.assert_array_equal(state.progress.adversarial, worst)


def test_l2_reaches_the_worst_case_of_a_linear_classifier():
    for seed in range(3):
        x, defense, unit = toys.plane(0.5, "l2", seed)
        attack = Pgd(step_size=3.0, num_steps=8, random_start=False)
        state = attacked(attack, defense, L2(0.3), x, seed=seed)
        np.testing.assert_allclose(state.x, x - 0.3 * unit, atol=2e-6)
        # The margin left is that of a plane 0.2 away.
        weights = np.asarray(defense.classifier.args[0])
        reach = float(np.linalg.norm(weights))
        found = float(state.progress.verdict.margin)
        assert found == pytest.approx(-0.2 * reach, abs=1e-5)


def test_l1_goes_up_one_pixel():
    x, defense, unit = toys.plane(0.1, "l1")
    attack = Pgd(step_size=0.02, num_steps=8, random_start=False)
    state = attacked(attack, defense, L1(0.05), x)
    np.testing.assert_allclose(state.progress.adversarial, x - 0.05 * unit, atol=1e-6)


@pytest.mark.parametrize("norm", BALLS)
def test_a_confident_classifier_is_attacked_all_the_same(norm):
    """Gradients whose squares are below the smallest float32 still have a direction."""
    x, defense, unit = toys.plane(0.1, norm)
    weights, bias = defense.classifier.args
    clean = float(weights @ x.ravel() + bias)
    scale = 60 / clean  # the cross-entropy's gradient is near exp(-60)
    confident = toys.undefended(
        jax.tree_util.Partial(toys.margin_of, scale * weights, scale * bias)
    )
    attack = Pgd(step_size=0.02, num_steps=1, random_start=False)
    state = attacked(attack, confident, BALLS[norm](0.05), x)
    assert int(state.progress.zero_gradients) == 0
    np.testing.assert_allclose(state.progress.adversarial, x - 0.02 * unit, atol=1e-6)


def test_momentum_is_that_of_dong():
    """Eq. 6: gradients of unit L1 norm are summed; against a loop in numpy."""
    x, label = np.asarray(toys.image(1, 0.3, 0.7)), jnp.int32(2)
    eps, size, decay = 0.2, 0.03, 0.9
    attack = Pgd(step_size=size, num_steps=6, momentum=decay, random_start=False)
    objective, ball = attack.objective(toys.UNDEFENDED, toys.policy("fresh")), Linf(eps)
    gradient_at = jax.jit(
        jax.grad(lambda x: cross_entropy(toys.UNDEFENDED.classifier(x), label))
    )
    step = jax.jit(attack.step)
    state = attack.init(objective, ball, jax.random.key(0), jnp.asarray(x), label)
    expected, velocity = x.copy(), np.zeros(x.shape)
    for _ in range(6):
        gradient = np.asarray(gradient_at(expected), np.float64)
        velocity = decay * velocity + gradient / np.abs(gradient).sum()
        moved = np.clip(expected + size * np.sign(velocity), x - eps, x + eps)
        expected = np.clip(moved, 0, 1).astype(np.float32)
        state = step(objective, ball, state)
        np.testing.assert_allclose(state.momentum, velocity, atol=1e-5)
        np.testing.assert_allclose(state.x, expected, atol=1e-6)


def ridge(x):
    """Class 1 wins in a thin shell of mean brightness around 0.55 alone."""
    height = 1 - 50 * (jnp.mean(x) - 0.55) ** 2
    return jnp.stack([jnp.zeros((), x.dtype), height])


def test_the_best_iterate_is_kept_and_not_the_last():
    """A step far too long: the last iterate overshoots, the kept one does not."""
    defense = toys.undefended(jax.tree_util.Partial(ridge))
    x = np.full(toys.SHAPE, 0.3, np.float32)
    attack = Pgd(step_size=0.2, num_steps=4, random_start=False)
    progress = attacked(attack, defense, Linf(0.5), x, label=0).progress
    visited = [0.3, 0.5, 0.7, 0.5, 0.7]  # by evaluation
    best = min(visited, key=lambda mean: abs(mean - 0.55))
    assert float(jnp.mean(progress.adversarial)) == pytest.approx(best, abs=1e-5)
    assert visited[-1] != best
    assert int(progress.broken_at) == 1 and int(progress.evaluations) == 5


def test_for_a_deterministic_defense_all_policies_are_one():
    """Where nothing breaks; where something does, full replay alone stops at once."""
    x, defense, _ = toys.plane(0.1, "linf")
    attack = Pgd(step_size=0.03, num_steps=8, random_start=False)
    for eps, breaks in ((0.05, False), (0.3, True)):
        found = {
            policy: attacked(attack, defense, Linf(eps), x, policy=policy).progress
            for policy in ("fresh", "fixed", "replay")
        }
        replayed = found.pop("replay")
        fresh = found["fresh"]
        assert (int(fresh.broken_at) >= 0) == breaks
        assert int(replayed.broken_at) == int(fresh.broken_at)
        for other in found.values():
            np.testing.assert_array_equal(other.adversarial, fresh.adversarial)
            assert int(other.evaluations) == 9
            assert int(other.broken_at) == int(fresh.broken_at)
        stops = int(replayed.broken_at) + 1 if breaks else 9
        assert int(replayed.evaluations) == stops
        if not breaks:
            np.testing.assert_array_equal(replayed.adversarial, fresh.adversarial)
