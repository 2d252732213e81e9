"""Square: its windows and bumps by their definitions, and every query on the ball."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure.attacks import L2, Linf, Square
from jaxpure.attacks.square import (
    HALVINGS,
    change_l2,
    change_linf,
    is_better,
    stripes,
    tiles,
    two_bumps,
    window_size,
)

from . import toys


def attacked(attack, defense, ball, x, label=1, policy="fresh"):
    return toys.final(attack, defense, ball, jax.random.key(0), x, label, policy)


def test_windows_shrink_as_the_schedule_says():
    """Over the 10000 queries of the paper, in an image that is no square."""
    halvings = np.searchsorted(HALVINGS, np.arange(10000))
    sides = np.sqrt(0.8 / 2.0**halvings * 28 * 32).round()
    sizes = jax.jit(jax.vmap(lambda i: window_size(0.8, i, (28, 32, 3))))
    got = sizes(jnp.arange(10000))
    np.testing.assert_array_equal(got, np.clip(sides, 1, 28))
    assert got[0] == 27 and got[-1] == 1


@jax.jit
def bumps(size):
    place = jnp.arange(12) - 2  # the window begins at 2; around it all is 0
    return two_bumps(place[:, None], place[None], size, 9)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8])
def test_bumps_are_sums_of_nested_rectangles(size):
    """Of heights 1, 1/4, 1/9, ... around the middle of each half (the paper's eta)."""

    def half(rows):
        total, middle = np.zeros((rows, size)), (rows // 2, size // 2)
        for k in range(max(rows // 2, size // 2) + 1):
            up, left = (max(m - k, 0) for m in middle)
            down, right = (m + k + 1 for m in middle)
            total[up:down, left:right] += 1 / (k + 1) ** 2
        return total / np.linalg.norm(total) if rows else total

    want = np.concatenate([half(size // 2), -half(size - size // 2)])
    want /= np.linalg.norm(want)
    got = np.asarray(bumps(jnp.int32(size)))
    np.testing.assert_allclose(got[2 : 2 + size, 2 : 2 + size], want, atol=1e-6)
    assert np.linalg.norm(got) == pytest.approx(1, abs=1e-6)  # nothing around it


@pytest.mark.parametrize("side", [3, 14])
def test_l2_queries_are_on_the_sphere_for_any_size(side):
    """Those too at which the reference's first grid does not fit (14)."""
    x, eps = jnp.full((side, side + 2, 3), 0.5), 0.2

    @jax.jit
    def queries(key, size):
        first = tiles(jax.random.fold_in(key, 0), x, eps)
        return first, change_l2(jax.random.fold_in(key, 1), x, first, size, eps)

    for seed in range(3):
        found = queries(jax.random.key(seed), jnp.int32(3 + 2 * seed))
        for image in found:
            length = np.linalg.norm(np.asarray(image) - 0.5)
            assert length == pytest.approx(eps, rel=1e-4)
        assert (np.asarray(found[0]) != np.asarray(found[1])).any()


def test_linf_queries_are_at_the_corners_of_the_ball():
    """Stripes down every column; then a square window, of one sign in each channel."""
    x, eps = jnp.full((7, 9, 2), 0.5), 0.2

    @jax.jit
    def queries(key, size):
        first = stripes(jax.random.fold_in(key, 0), x, eps)
        return first, change_linf(jax.random.fold_in(key, 1), x, first, size, eps)

    moved = 0
    for seed in range(8):
        first, after = queries(jax.random.key(seed), jnp.int32(3))
        for image in (first, after):
            np.testing.assert_allclose(np.abs(image - 0.5), eps, atol=1e-6)
        assert (np.asarray(first) == np.asarray(first)[:1]).all()
        changed = np.asarray(first) != np.asarray(after)
        rows, columns, _ = np.nonzero(changed)
        if not rows.size:
            continue  # it drew the signs that were there
        moved += 1
        assert np.ptp(rows) == 2 and np.ptp(columns) <= 2
        window = np.asarray(after)[rows.min() : rows.max() + 1]
        for channel in range(2):
            where = changed[rows.min(), :, channel]
            assert len(np.unique(window[:, where, channel])) <= 1
    assert moved >= 5


def test_a_misclassified_image_is_better_whatever_its_loss():
    wrong, loss = jnp.array([False, False, True, True]), jnp.array([0.0, 9.0, -1.0, 0.0])
    better = is_better(wrong[:, None], loss[:, None], wrong[None], loss[None])
    np.testing.assert_array_equal(better, np.tri(4, k=-1, dtype=bool))


def test_what_is_far_enough_from_the_edge_falls():
    """Its windows never end at the last row or column: it does not reach every corner."""
    x, defense, _ = toys.plane(0.1, "linf", shape=(8, 8, 1))
    attack = Square(num_queries=500)
    for eps, falls in ((0.095, False), (0.3, True)):
        state = attacked(attack, defense, Linf(eps), x, policy="replay")
        progress = state.progress
        assert (int(progress.broken_at) >= 0) == falls
        # Of the clean image, of the first, and of 500 others, where it stands.
        looks = int(progress.broken_at) + 1 if falls else 502
        assert int(progress.evaluations) == looks
        np.testing.assert_allclose(np.abs(progress.adversarial - x), eps, atol=1e-6)
        weights, bias = map(np.asarray, defense.classifier.args)
        margin = weights @ np.asarray(progress.adversarial).ravel() + bias
        assert float(state.highest_loss) == pytest.approx(-margin, abs=1e-4)
        assert margin < weights @ x.ravel() + bias  # some way towards the edge


def test_runs_are_made_until_one_breaks_and_go_to_their_end():
    x, defense, _ = toys.plane(0.1, "l2", shape=(8, 8, 1))
    attack = Square(num_queries=30, num_restarts=3)
    for eps, runs in ((0.05, 3), (2.0, 1)):
        progress = attacked(attack, defense, L2(eps), x).progress
        assert (int(progress.broken_at) >= 0) == (eps > 0.1)
        assert int(progress.evaluations) == 1 + 31 * runs


def test_what_is_misclassified_is_left_alone():
    x, defense, _ = toys.plane(0.1, "l2", shape=(8, 8, 1))
    progress = attacked(Square(num_queries=30), defense, L2(2.0), x, label=0).progress
    np.testing.assert_array_equal(progress.adversarial, x)
    assert int(progress.broken_at) == 0 and int(progress.evaluations) == 1
