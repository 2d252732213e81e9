"""FAB: its way to a hyperplane against general solvers, and the runs that it makes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from jaxpure.attacks import L1, L2, Fab, Linf
from jaxpure.attacks.fab import to_hyperplane

from . import toys

BALLS = {"linf": Linf, "l2": L2, "l1": L1}
SHAPE, SIZE = (3, 2, 2), 12


def attacked(attack, defense, ball, x, label=1, policy="fresh"):
    return toys.final(attack, defense, ball, jax.random.key(0), x, label, policy)


@pytest.mark.parametrize("norm", BALLS)
def test_the_nearest_point_of_a_hyperplane_is_found(norm):
    attack = Fab(num_steps=20, num_targets=1)
    for seed in range(3):
        x, defense, unit = toys.plane(0.1, norm, seed)
        state = attacked(attack, defense, BALLS[norm](0.2), x)
        assert 0.1 <= float(state.distance) < 0.1 * 1.01
        np.testing.assert_allclose(state.nearest, x - 0.1 * unit, atol=5e-3)
        np.testing.assert_array_equal(state.nearest, state.progress.adversarial)
        # A ball that does not reach it holds nothing but the image.
        state = attacked(attack, defense, BALLS[norm](0.09), x)
        np.testing.assert_array_equal(state.progress.adversarial, x)
        assert int(state.progress.broken_at) == -1
        assert 0.1 <= float(state.distance) < 0.1 * 1.01


@partial(jax.jit, static_argnums=0)
def way(norm, x, normal, gap):
    return to_hyperplane(norm, x, normal, gap)


LENGTHS = {
    "linf": lambda d: np.abs(d).max(),
    "l2": np.linalg.norm,
    "l1": lambda d: np.abs(d).sum(),
}


@pytest.mark.parametrize("norm", BALLS)
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), reach=st.floats(-1.3, 1.3), sparse=st.booleans())
def test_the_way_to_a_hyperplane_is_the_shortest_within_the_box(norm, seed, reach, sparse):
    random = np.random.default_rng(seed)
    x = random.uniform(size=SIZE)
    x[:3] = random.integers(0, 2, 3)  # some are at the box's edge
    normal = random.normal(size=SIZE) * (random.random(SIZE) < 0.7 if sparse else 1)
    corner = np.where(np.sign(reach) * normal > 0, 1 - x, -x) * (normal != 0)
    gap = abs(reach) * (normal @ corner)  # a share of what the box allows, or more
    with jax.enable_x64(True):
        shaped = (jnp.asarray(a.reshape(SHAPE)) for a in (x, normal))
        found = np.asarray(way(norm, *shaped, jnp.asarray(gap))).ravel()
    assert np.all((x + found >= -1e-12) & (x + found <= 1 + 1e-12))
    if abs(reach) >= 1 or not normal.any():
        np.testing.assert_allclose(found, corner if reach else 0 * corner, atol=1e-9)
        return
    assert normal @ found == pytest.approx(gap, abs=1e-9)
    assert LENGTHS[norm](found) <= shortest(norm, x, normal, gap) + 1e-6


def shortest(norm, x, normal, gap):
    """Least norm of a change in the box that gains `gap`, by linear programs or SLSQP."""
    if norm == "l2":
        found = optimize.minimize(
            lambda d: d @ d,
            np.zeros(SIZE),
            jac=lambda d: 2 * d,
            bounds=list(zip(-x, 1 - x, strict=True)),
            constraints={"type": "eq", "fun": lambda d: normal @ d - gap},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return np.sqrt(found.fun) if found.success else np.inf
    # Up and down parts, and a bound on all of them for the largest.
    up_down = np.concatenate([normal, -normal])
    rooms = [*zip(0 * x, 1 - x, strict=True), *zip(0 * x, x, strict=True)]
    if norm == "l1":
        costs = np.ones(2 * SIZE)
        return optimize.linprog(costs, A_eq=[up_down], b_eq=[gap], bounds=rooms).fun
    return optimize.linprog(
        [*np.zeros(2 * SIZE), 1],
        A_ub=np.column_stack([np.eye(2 * SIZE), -np.ones(2 * SIZE)]),
        b_ub=np.zeros(2 * SIZE),
        A_eq=[[*up_down, 0]],
        b_eq=[gap],
        bounds=[*rooms, (0, None)],
    ).fun


# Runs: restarts of each target, the likeliest first.


def test_runs_are_made_until_one_breaks():
    """Three runs of 21 looks where nothing breaks; one where the first does."""
    x, defense, _ = toys.plane(0.1, "linf")
    attack = Fab(num_steps=20, num_targets=1, num_restarts=3)
    for eps, looks in ((0.09, 63), (0.2, 21)):
        progress = attacked(attack, defense, Linf(eps), x).progress
        assert int(progress.evaluations) == looks
        assert (int(progress.broken_at) >= 0) == (eps > 0.1)


def test_what_is_misclassified_is_left_alone():
    x, defense, _ = toys.plane(0.1, "linf")
    attack = Fab(num_steps=20, num_targets=1)
    progress = attacked(attack, defense, Linf(0.2), x, label=0).progress
    np.testing.assert_array_equal(progress.adversarial, x)
    assert int(progress.broken_at) == 0 and int(progress.evaluations) == 1


def test_each_target_has_its_restarts_and_the_likeliest_comes_first():
    """All but a target's first run begin at random, half a radius away."""
    _, x, label = toys.example(2, toys.UNDEFENDED)
    logits = np.asarray(toys.UNDEFENDED.classifier(x))
    ranked = [int(c) for c in np.argsort(-logits) if c != label]
    attack, ball = Fab(num_steps=1, num_targets=4, num_restarts=2), L2(0.01)
    objective = attack.objective(toys.UNDEFENDED, toys.policy("fresh"))
    step, targets, starts = jax.jit(attack.step), [], []
    state = attack.init(objective, ball, jax.random.key(0), x, label)
    while not state.progress.done:
        state = step(objective, ball, state)
        if int(state.iteration) == 0:  # a run has begun
            targets.append(int(state.target))
            starts.append(float(np.linalg.norm(np.asarray(state.x - x))))
    assert targets == np.repeat(ranked, 2).tolist()
    assert starts[::2] == [0] * 4 and len(set(starts[1::2])) == 4
    assert all(0.004 < start <= 0.005 + 1e-6 for start in starts[1::2])
