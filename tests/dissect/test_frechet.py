"""The Frechet distance: closed forms, SciPy's matrix root, invariances, its interval."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg, stats

from jaxpure.dissect import frechet


def drawn(seed, n=60, d=4):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.normal(size=d)


def test_it_is_what_scipy_s_matrix_root_gives():
    a, b = drawn(0), drawn(1, 90)
    c1, c2 = np.cov(a.T), np.cov(b.T)
    between = np.sum((a.mean(0) - b.mean(0)) ** 2)
    expected = between + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    np.testing.assert_allclose(frechet.distance(a, b), expected, rtol=1e-9)


def test_of_scaled_and_moved_features_it_is_known():
    a = drawn(2)
    moved = 3 * a + 5
    # Covariances commute: the trace of C (3 - 1)^2.
    expected = np.sum((2 * a.mean(0) + 5) ** 2) + 4 * np.trace(np.cov(a.T))
    np.testing.assert_allclose(frechet.distance(moved, a), expected, rtol=1e-9)


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_it_is_a_distance_that_turning_leaves(seed, d):
    a, b = drawn(seed, 20, d), drawn(seed + 1, 12, d)
    turn = stats.ortho_group.rvs(d, random_state=seed) if d > 1 else np.eye(1)
    found = frechet.distance(a, b)
    scale = np.trace(np.atleast_2d(np.cov(a.T))) + np.trace(np.atleast_2d(np.cov(b.T)))
    assert frechet.distance(a, a) < 1e-6 * scale
    assert found >= 0
    np.testing.assert_allclose(frechet.distance(b, a), found, atol=1e-6 * scale)
    np.testing.assert_allclose(
        frechet.distance(a @ turn, b @ turn), found, atol=1e-6 * (scale + found)
    )


def test_fewer_features_than_rows_are_not_asked_for():
    a, b = drawn(0, 3, 8), drawn(1, 3, 8)
    assert np.isfinite(frechet.distance(a, b))


def test_the_interval_holds_the_distance_of_the_populations():
    covered, truth = 0, 1.0  # the mean alone differs, by 1 in one feature
    for seed in range(60):
        rng = np.random.default_rng(seed)
        samples = rng.standard_normal((150, 2, 2)) + [1, 0]
        reference = rng.standard_normal((150, 2))
        found = frechet.of_samples(samples, reference, resamples=200)
        assert found.low <= found.value <= found.high
        covered += found.low <= truth <= found.high
    assert covered >= 52


def test_more_noise_in_what_was_made_is_farther():
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((100, 3))
    made = [
        frechet.of_samples(
            reference[:, None] + s * rng.standard_normal((100, 4, 3)), reference
        )
        for s in (0.1, 1.0, 3.0)
    ]
    assert made[0].high < made[1].low and made[1].high < made[2].low


@pytest.mark.parametrize(
    "features, reference, message",
    [
        (np.zeros((5, 3)), np.zeros((5, 2)), "expected"),
        (np.zeros((1, 3)), np.zeros((5, 3)), "two rows"),
        (np.full((4, 2), np.nan), np.zeros((5, 2)), "not finite for example 0"),
    ],
)
def test_bad_input_is_told(features, reference, message):
    with pytest.raises(ValueError, match=message):
        frechet.distance(features, reference)


def test_samples_have_an_image_each():
    with pytest.raises(ValueError, match=r"\(n, k, d\)"):
        frechet.of_samples(np.zeros((4, 2, 3)), np.zeros((5, 3)))
