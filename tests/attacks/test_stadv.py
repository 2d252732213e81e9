"""StAdv and flows: images fetched from a little way off, by their definitions."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxpure.attacks import Flow, Stadv
from jaxpure.attacks.flow import roughness, warp

from . import toys

SHAPE = (6, 5, 2)
warped = jax.jit(warp)


def picture(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def excess(image, x, bound):
    return Flow(bound).excess(image[None], x[None])[0]


def test_whole_flows_shift_and_none_does_nothing():
    x = picture()
    np.testing.assert_array_equal(warped(x, np.zeros((6, 5, 2))), x)
    down = np.broadcast_to([1.0, 0.0], (6, 5, 2))
    np.testing.assert_allclose(warped(x, down), x[[1, 2, 3, 4, 5, 5]], atol=1e-7)
    left = np.broadcast_to([0.0, -2.0], (6, 5, 2))
    np.testing.assert_allclose(warped(x, left), x[:, [0, 0, 0, 1, 2]], atol=1e-7)


def test_flows_between_pixels_are_bilinear():
    x, flow = picture(), np.zeros((6, 5, 2))
    flow[2, 2] = (0.25, 0.5)
    expected = 0.75 * (x[2, 2] + x[2, 3]) / 2 + 0.25 * (x[3, 2] + x[3, 3]) / 2
    np.testing.assert_allclose(warped(x, flow)[2, 2], expected, atol=1e-6)


def test_gradients_of_warp_and_roughness_are_those_of_finite_differences():
    with jax.enable_x64(True):
        x = jnp.asarray(picture(), jnp.float64)
        random = np.random.default_rng(1)
        flow = jnp.asarray(random.uniform(0.1, 0.9, (6, 5, 2)))  # away from the kinks
        check_grads(jax.jit(partial(warp, x)), (flow,), order=1, modes=["rev"])
        check_grads(jax.jit(roughness), (flow,), order=1, modes=["rev"])


def test_roughness_by_its_definition():
    flow = np.random.default_rng(2).normal(size=(4, 3, 2)).astype(np.float32)
    total = 0.0
    for i in range(4):
        for j in range(3):
            for di, dj in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                if 0 <= i + di < 4 and 0 <= j + dj < 3:
                    total += np.linalg.norm(flow[i, j] - flow[i + di, j + dj])
    smoothness = jax.jit(roughness)
    np.testing.assert_allclose(smoothness(flow), total, rtol=1e-5)
    assert smoothness(np.ones((4, 3, 2), np.float32)) < 1e-3


# The ball of flows.


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), bound=st.sampled_from([0.0, 0.1, 0.5, 1.2]))
def test_what_flows_make_is_told_from_what_they_cannot(seed, bound):
    x = picture(seed)
    sides = np.array([6, 5]) / 2 * bound
    flow = np.random.default_rng(seed).uniform(-1, 1, (6, 5, 2)) * sides
    corners = np.random.default_rng(seed).choice([-1.0, 1.0], (6, 5, 2)) * sides
    for each in (flow, corners):
        assert excess(np.asarray(warped(x, each)), x, bound) <= 1e-6
    beyond = np.array(warped(x, flow))
    beyond[1, 1, 0] = x[..., 0].max() + 0.3
    assert excess(beyond, x, bound) >= 0.3 - 1e-6


@pytest.mark.parametrize("side", [28, 224])
def test_the_largest_flow_of_a_large_picture_is_within_its_bound(side):
    """Places among hundreds of pixels are rounded; the flow between two is not."""
    x = np.random.default_rng(0).integers(0, 2, (side, side, 1)).astype(np.float32)
    for bound in (0.02, 0.05):
        for sign in (-1, 1):
            flow = np.full((side, side, 2), sign * np.float32(bound * side / 2))
            assert excess(np.asarray(warped(x, flow)), x, bound) <= 1e-6


def test_excess_is_exact_in_one_channel():
    """A value just inside the reach of its pixel is allowed, one just outside is not."""
    x = np.zeros((3, 3, 1))
    x[1, 2, 0] = 1.0  # reached from the middle at 0.25 of the way
    near, far = x.copy(), x.copy()
    near[1, 1, 0], far[1, 1, 0] = 0.2499, 0.2511
    bound = 0.25 / 1.5
    assert excess(near, x, bound) <= 1e-9 and excess(far, x, bound) > 1e-3


def test_starts_are_uniform_within_the_bound_of_each_side():
    ball, x = Flow(0.1), jnp.zeros((40, 20, 1))
    flow = np.asarray(ball.start(jax.random.key(0), x))
    largest = np.abs(flow).max((0, 1))
    np.testing.assert_array_less(largest, np.array([2, 1]) * (1 + 1e-6))
    np.testing.assert_allclose(largest, [2, 1], rtol=0.02)
    np.testing.assert_allclose(flow.std((0, 1)), np.array([2, 1]) / 3**0.5, rtol=0.1)


def test_a_signed_step_stops_at_the_bound():
    ball, x = Flow(0.1), jnp.zeros((40, 20, 1))
    gradient = jnp.ones((40, 20, 2)).at[0].set(-1).at[1].set(0)
    flow = jnp.zeros((40, 20, 2))
    once = np.asarray(ball.ascend(flow, x, gradient, 0.25))
    np.testing.assert_allclose(once[2:], np.broadcast_to([0.5, 0.25], (38, 20, 2)))
    far = np.asarray(ball.ascend(flow, x, gradient, 3.0))
    np.testing.assert_allclose(far[0], np.broadcast_to([-2, -1], (20, 2)), rtol=1e-6)
    assert not far[1].any()


# The attack.


def centre(x):
    return jnp.stack([jnp.full((), 0.5, x.dtype), x[2, 2, 0]])


def test_it_takes_the_best_value_within_reach_and_roughness_costs():
    """A classifier of one pixel: the flow fetches the largest value around it."""
    x = np.zeros((5, 5, 1), np.float32)
    x[2, 3], x[1, 2] = 1.0, 0.6
    defense = toys.undefended(jax.tree_util.Partial(centre))
    attack, ball = Stadv(num_steps=40, tau=0.0), Flow(0.32)  # 0.8 of a pixel

    def final(attack, seed):
        return toys.final(attack, defense, ball, jax.random.key(seed), x, 0)

    found = [float(final(attack, s).progress.adversarial[2, 2, 0]) for s in range(6)]
    assert 0.78 < max(found) <= 0.8 + 1e-6  # a signed step leaves the rows a little off
    rough = final(dataclasses.replace(attack, tau=100.0), 0)
    free = final(attack, 0)
    assert float(roughness(rough.flow)) < 0.7 * float(roughness(free.flow))


def test_an_image_of_one_grey_has_no_gradient_of_its_flow():
    """Of a grey that is no rounding: 0.5, whose parts sum up to itself."""
    defense = toys.undefended(jax.tree_util.Partial(centre))
    attack, grey = Stadv(num_steps=40, tau=0.0), np.full((5, 5, 1), 0.5, np.float32)
    progress = toys.final(attack, defense, Flow(0.32), jax.random.key(0), grey, 0).progress
    assert int(progress.zero_gradients) == int(progress.evaluations) == 41
    assert int(progress.bad_gradients) == 0


def test_without_a_random_start_it_begins_at_the_image():
    x, ball = toys.image(), Flow(0.3)
    attack = Stadv(random_start=False)
    objective = attack.objective(toys.DEFENSE, toys.policy("fresh"))
    state = attack.init(objective, ball, jax.random.key(0), x, jnp.int32(0))
    assert not state.flow.any() and state.flow.shape == (4, 4, 2)
