"""Balls: projections are inside, idempotent and nearest; excess is what is outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from jaxpure.attacks.balls import BALLS, L1, L2, Linf, ascend, check_radius, distances
from jaxpure.attacks.flow import Flow, warp
from jaxpure.errors import UserError
from jaxpure.specs import build, spec_of

from .cases import BALL_CASES

SHAPE = (2, 3, 1)
NORMS = {"linf": Linf(0.2), "l2": L2(0.4), "l1": L1(0.7)}
OF_PIXELS = {name: ball for name, ball in BALL_CASES.items() if hasattr(ball, "project")}
"""Every registered ball whose points are images."""
images = st.integers(0, 10_000).map(
    lambda seed: np.random.default_rng(seed).uniform(size=SHAPE).astype(np.float32)
)
changes = st.integers(0, 10_000).map(
    lambda seed: np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
)


def length(name, change):
    return distances(change[None], np.zeros((1, *SHAPE)))[name][0]


@pytest.mark.parametrize("name", OF_PIXELS)
@settings(deadline=None, max_examples=25)
@given(images, changes)
def test_a_projection_is_inside_and_stays(name, centre, change):
    ball = OF_PIXELS[name]
    once = ball.project(jnp.asarray(centre + change), jnp.asarray(centre))
    assert ((once >= 0) & (once <= 1)).all()
    assert ball.excess(np.asarray(once)[None], centre[None])[0] <= 1e-6
    again = ball.project(once, jnp.asarray(centre))
    np.testing.assert_allclose(again, once, atol=2e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_l1_projection_is_the_nearest_point_of_ball_and_box(seed):
    rng = np.random.default_rng(seed)
    centre, x = rng.uniform(size=4), rng.normal(0.5, 1, size=4)
    found = L1(0.6).project(
        jnp.asarray(x, jnp.float32).reshape(2, 2, 1),
        jnp.asarray(centre, jnp.float32).reshape(2, 2, 1),
    )
    # x = centre + p - q with p, q >= 0: the sum of both is the L1 norm.
    solved = optimize.minimize(
        lambda v: np.sum((centre + v[:4] - v[4:] - x) ** 2),
        np.full(8, 0.01),
        bounds=[(0, 1)] * 8,
        constraints=[
            {"type": "ineq", "fun": lambda v: 0.6 - v.sum()},
            {"type": "ineq", "fun": lambda v: centre + v[:4] - v[4:]},
            {"type": "ineq", "fun": lambda v: 1 - centre - v[:4] + v[4:]},
        ],
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    nearest = centre + solved.x[:4] - solved.x[4:]
    np.testing.assert_allclose(np.asarray(found).ravel(), nearest, atol=2e-3)
    theirs, ours = (np.sum((p - x) ** 2) for p in (nearest, np.asarray(found).ravel()))
    assert ours <= theirs + 1e-4


@pytest.mark.parametrize("name", NORMS)
@settings(deadline=None, max_examples=25)
@given(changes)
def test_the_direction_has_unit_norm_and_gains_most(name, gradient):
    ball = NORMS[name]
    direction = np.asarray(ball.direction(jnp.asarray(gradient)))
    assert length(name, direction) == pytest.approx(1, rel=1e-5)
    rng = np.random.default_rng(0)
    others = rng.normal(size=(50, *SHAPE))
    others = [other / length(name, other) for other in others]
    best = max(np.vdot(gradient, other) for other in others)
    assert np.vdot(gradient, direction) >= best - 1e-5


@pytest.mark.parametrize("name", OF_PIXELS)
def test_no_gradient_has_no_direction(name):
    assert not np.any(OF_PIXELS[name].direction(jnp.zeros(SHAPE)))


@pytest.mark.parametrize("name", OF_PIXELS)
def test_starts_are_inside_differ_by_key_and_reach_the_edge(name):
    ball, x = OF_PIXELS[name], jnp.full(SHAPE, 0.5)
    keys = jax.random.split(jax.random.key(0), 200)
    points = np.asarray(jax.vmap(ball.start, (0, None))(keys, x))
    originals = np.full_like(points, 0.5)
    assert (ball.excess(points, originals) <= 1e-6).all()
    sizes = np.asarray(jax.vmap(ball.distance, (0, None))(points, x)) / ball.eps
    assert sizes.max() > 0.85 and len(np.unique(sizes)) == 200


@pytest.mark.parametrize("name", NORMS)
def test_starts_are_uniform_in_the_ball(name):
    """By the laws of their lengths and of each pixel, and no two pixels go together."""
    ball, n, size = BALLS[name](0.2), 4000, 6
    keys = jax.random.split(jax.random.key(0), n)
    points = jax.jit(jax.vmap(ball.start, (0, None)))(keys, jnp.full(SHAPE, 0.5))
    deltas = (np.asarray(points, np.float64) - 0.5).reshape(n, size) / 0.2
    if name == "linf":
        shares, law = (deltas + 1) / 2, stats.uniform()
    else:
        lengths = np.linalg.norm(deltas, 2 if name == "l2" else 1, axis=1)
        assert stats.kstest(lengths**size, "uniform").pvalue > 1e-3
        shares = deltas / lengths[:, None]
        if name == "l2":  # a coordinate of the sphere: a shifted beta
            half = (size - 1) / 2
            law = stats.beta(half, half, loc=-1, scale=2)
        else:  # of a point of the simplex, up to its sign
            shares, law = np.abs(shares), stats.beta(1, size - 1)
    for pixel in range(size):
        assert stats.kstest(shares[:, pixel], law.cdf).pvalue > 1e-3
        assert stats.binomtest(int((deltas[:, pixel] > 0).sum()), n).pvalue > 1e-3
    correlation = np.corrcoef(deltas.T) - np.eye(size)
    assert np.abs(correlation).max() < 5 / np.sqrt(n)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("exponent", [-30, 30])
def test_the_direction_of_a_gradient_of_any_size_is_one(name, exponent):
    """Those of a confident classifier have squares below the smallest float32."""
    gradient = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    direction = jax.jit(NORMS[name].direction)
    found = direction(jnp.asarray(gradient * np.float32(10.0**exponent)))
    np.testing.assert_allclose(found, direction(jnp.asarray(gradient)), rtol=1e-5)


@pytest.mark.parametrize("name", ["linf", "l2"])
def test_a_projection_is_the_nearest_point_of_the_ball(name):
    """Where the box does not cut it: the way there and any way on make no sharp angle."""
    rng, ball = np.random.default_rng(0), NORMS[name]
    centre = rng.uniform(0.45, 0.55, SHAPE).astype(np.float32)
    far = (centre + rng.normal(size=SHAPE)).astype(np.float32)
    near = np.asarray(ball.project(jnp.asarray(far), jnp.asarray(centre)))
    for _ in range(50):
        other = rng.normal(size=SHAPE)
        other = centre + ball.eps * other / max(length(name, other), ball.eps)
        assert np.vdot(far - near, other - near) <= 1e-5


@pytest.mark.parametrize("name", OF_PIXELS)
def test_a_small_step_along_the_direction_climbs_and_random_ones_differ(name):
    """A step from the middle of the ball, which ends inside."""
    ball, rng = OF_PIXELS[name], np.random.default_rng(0)
    gradient, centre = rng.normal(size=SHAPE).astype(np.float32), jnp.full(SHAPE, 0.5)
    moved = ascend(ball, centre, centre, jnp.asarray(gradient), ball.eps / 4)
    assert np.vdot(gradient, moved - centre) > 0
    assert ball.excess(np.asarray(moved)[None], np.asarray(centre)[None])[0] <= 1e-6
    a, b = (ball.random_direction(jax.random.key(seed), centre) for seed in (0, 1))
    assert a.shape == SHAPE and np.isfinite(a).all() and np.any(a != b)


@pytest.mark.parametrize("name", BALL_CASES)
def test_the_original_is_inside_whatever_the_ball(name):
    image = np.random.default_rng(0).uniform(size=(2, 8, 8, 1)).astype(np.float32)
    assert (BALL_CASES[name].excess(image, image) == 0).all()


@pytest.mark.parametrize("name", BALL_CASES)
def test_a_spec_builds_an_equal_ball(name):
    ball = BALL_CASES[name]
    assert build(BALLS, spec_of(ball, BALLS)) == ball
    assert str(ball)


@pytest.mark.parametrize("name", NORMS)
def test_excess_is_how_far_outside(name):
    ball, centre = NORMS[name], np.full((1, *SHAPE), 0.5, np.float32)
    outside = centre.copy()
    outside[0, 0, 0, 0] += ball.eps + 0.05
    assert ball.excess(outside, centre)[0] == pytest.approx(0.05, abs=1e-4)
    assert ball.excess(centre, centre)[0] == 0


def test_a_step_goes_up_and_comes_back():
    ball, x = Linf(0.1), jnp.full(SHAPE, 0.5)
    moved = ascend(ball, x, x, jnp.ones(SHAPE), 0.3)
    np.testing.assert_allclose(moved, 0.6, atol=1e-7)


def test_a_flow_within_the_bound_has_no_excess_and_a_longer_one_has():
    ball = Flow(0.25)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(8, 8, 1)), jnp.float32)
    flow = ball.start(jax.random.key(1), x)
    inside, far = warp(x, flow), warp(x, 6 * flow)
    assert ball.excess(np.asarray(inside)[None], np.asarray(x)[None])[0] <= 1e-6
    assert ball.excess(np.asarray(far)[None], np.asarray(x)[None])[0] > 0.05
    np.testing.assert_array_equal(warp(x, jnp.zeros((8, 8, 2))), x)


@pytest.mark.parametrize("name", BALLS)
def test_balls_of_nothing_and_of_everything_are_refused(name):
    ball = BALLS[name](0.0)
    with pytest.raises(UserError, match="expected above 0"):
        check_radius(ball, SHAPE)
    check_radius(BALLS[name](ball.largest(SHAPE)), SHAPE)
