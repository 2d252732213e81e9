"""Correlations, spectra and variance splits where they are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure.dissect import denoising, draws, geometry
from tests.dissect import toys

KEYS = draws.draw_keys(jax.random.key(0), "test", 40)
BIG = (16, 16, 3)
X = jax.random.uniform(jax.random.key(1), BIG)


def test_correlations_are_numpy_s():
    vectors = jax.random.normal(jax.random.key(2), (6, *toys.SHAPE)) + X[None, :4, :3, :2]
    expected = np.corrcoef(np.asarray(vectors).reshape(6, -1))
    np.testing.assert_allclose(geometry.correlations(vectors), expected, atol=1e-5)


def test_additive_noise_is_uncorrelated_over_keys_and_the_same_for_every_start():
    purifier = toys.additive(0.3)
    over_keys = geometry.correlations(geometry.displacements_over_keys(purifier, KEYS, X))
    estimate = geometry.mean_correlation(np.asarray(over_keys))
    assert estimate.low < 0 < estimate.high and abs(estimate.value) < 0.01
    starts = jax.random.uniform(jax.random.key(3), (5, *BIG))
    moved = geometry.displacements_over_starts(purifier, KEYS[0], starts)
    assert geometry.mean_correlation(np.asarray(geometry.correlations(moved))).value > 0.999


def test_a_shared_part_gives_the_correlation_that_its_variance_says():
    # Displacement: (w - 1) x + noise, so any two keys share (w - 1)^2 var(x).
    purifier = toys.additive(0.1, x_weight=0.5)
    moved = geometry.displacements_over_keys(purifier, KEYS, X)
    shared = 0.25 * float(jnp.var(X))
    estimate = geometry.mean_correlation(np.asarray(geometry.correlations(moved)))
    truth = shared / (shared + 0.01)
    assert estimate.low < truth < estimate.high
    np.testing.assert_allclose(estimate.value, truth, atol=0.02)
    assert estimate.n == 40


def test_one_noise_part_is_varied_alone():
    def purifier(key, x):
        forward = draws.noise_at(draws.part(key, "forward"), 0, x)
        return x + forward + 2 * draws.noise_at(draws.part(key, "reverse"), 0, x)

    keys = draws.part_keys(jax.random.key(9), KEYS, ["reverse"])
    moved = geometry.displacements_over_keys(purifier, keys, X)
    estimate = geometry.mean_correlation(np.asarray(geometry.correlations(moved)))
    np.testing.assert_allclose(estimate.value, 1 / 5, atol=0.05)  # 1 / (1 + 2^2)
    with pytest.raises(ValueError, match="name at least one part"):
        draws.part_keys(jax.random.key(9), KEYS, [])


def test_along_the_chain_keys_of_gaussian_data_part_and_the_image_is_left_behind():
    purifier = toys.gaussian_purifier(jnp.zeros(toys.SHAPE), jnp.full(toys.SHAPE, 0.5))
    x = X[:4, :3, :2]
    states = jax.vmap(lambda key: denoising.path(purifier, key, x).states)(KEYS)
    along = geometry.correlation_along(states, x)
    assert along.shape == (41,)
    expected = geometry.correlations(states[:, -1] - x[None])
    off = (expected.sum() - jnp.trace(expected)) / (40 * 39)
    np.testing.assert_allclose(along[-1], off, rtol=1e-4)
    assert jnp.isnan(along[0])  # the image itself has not moved: no correlation


def test_spectrum_of_a_cloud_with_known_variances():
    scales = np.r_[3.0, 2.0, 1.0, np.zeros(toys.SIZE - 3)]
    normal = np.random.default_rng(0).standard_normal((3000, toys.SIZE))
    cloud = jnp.asarray(normal * scales, jnp.float32).reshape(-1, *toys.SHAPE)
    found = geometry.spectrum(cloud)
    np.testing.assert_allclose(found.variance[:3], [9, 4, 1], rtol=0.1)
    np.testing.assert_allclose(found.explained.sum(), 1, rtol=1e-5)
    truth = 14**2 / (81 + 16 + 1)
    np.testing.assert_allclose(found.participation, truth, rtol=0.05)
    first = np.asarray(found.directions[0]).reshape(-1)
    np.testing.assert_allclose(abs(first[0]), 1, atol=0.01)


def test_the_corrected_participation_does_not_stop_at_the_number_of_draws():
    cloud = jax.random.normal(jax.random.key(5), (30, 200))
    found = geometry.spectrum(cloud)
    assert found.participation < 29
    np.testing.assert_allclose(found.participation_corrected, 200, rtol=0.25)


def test_variance_split_finds_each_part():
    rng = np.random.default_rng(1)
    size = 4000
    own = rng.standard_normal((12, 1, size)) * 1.0
    key = rng.standard_normal((1, 15, size)) * 2.0
    rest = rng.standard_normal((12, 15, size)) * 0.5
    found = geometry.variance_split(jnp.asarray(own + key + rest, jnp.float32))
    parts = np.array([found.input, found.randomness, found.interaction]) / size
    np.testing.assert_allclose(parts, [1, 4, 0.25], rtol=0.05)
    np.testing.assert_allclose(found.fixed_input / size, 4.25, rtol=0.05)
    np.testing.assert_allclose(found.fixed_randomness / size, 1.25, rtol=0.05)
    np.testing.assert_allclose(found.both, parts.sum() * size, rtol=1e-4)


def test_too_few_vectors_and_vectors_without_variation_are_refused():
    with pytest.raises(ValueError, match="at least 3"):
        geometry.mean_correlation(np.eye(2))
    still = geometry.correlations(jnp.zeros((3, 4)).at[0, 0].set(1.0).at[1, 1].set(1.0))
    with pytest.raises(ValueError, match="not finite for example 0, 1, 2"):
        geometry.mean_correlation(np.asarray(still))
    with pytest.raises(ValueError, match="at least 2 of each"):
        geometry.variance_split(jnp.zeros((1, 5, 3)))
