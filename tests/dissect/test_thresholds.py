"""Anchors, the 2x2 table and critical thresholds of linear classifiers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure.dissect import thresholds
from tests.dissect import toys

KEY = jax.random.key(0)
X = jnp.full(toys.SHAPE, 0.5)
AXIS = jnp.zeros(toys.SHAPE).at[0, 0, 0].set(3.0)  # any length


def classifier(x):
    """Class 1 once the first pixel is above 1."""
    return jnp.stack([jnp.float32(1), x[0, 0, 0]])


def test_the_threshold_of_a_linear_classifier_is_the_distance_to_its_boundary():
    found = thresholds.critical_threshold(classifier, X, AXIS, maximum=2.0)
    np.testing.assert_allclose(found, 0.5, atol=2 / 16 / 2**12 + 1e-6)
    assert classifier(X.at[0, 0, 0].add(found)).argmax() == 1


def test_a_threshold_that_is_not_reached_is_infinite_and_a_broken_start_has_none():
    assert thresholds.critical_threshold(classifier, X, -AXIS, maximum=2.0) == jnp.inf
    nowhere = thresholds.critical_threshold(classifier, X * jnp.nan, AXIS, maximum=2.0)
    assert jnp.isnan(nowhere)


def test_logits_that_are_not_finite_count_as_another_class():
    def breaks(x):
        return jnp.where(x[0, 0, 0] > 0.75, jnp.nan, jnp.array([1.0, 0.0]))

    found = thresholds.critical_threshold(breaks, X, AXIS, maximum=2.0)
    np.testing.assert_allclose(found, 0.25, atol=1e-3)


def test_the_four_thresholds_of_a_compressing_purifier():
    # f(x) = 0.25 x + 0.25 * 0.5: the anchor of 0.5 is 0.25 (sigma 0), of 0.25 0.1875.
    def purifier(key, x):
        return 0.25 * x + 0.125 + toys.additive(0.0)(key, x) * 0

    found = jax.jit(
        lambda x: thresholds.four_thresholds(
            purifier, classifier, KEY, x, AXIS, maximum=8.0
        )
    )(X)
    # boundary 1: from x 0.5; from f(x) = 0.25: 0.75; through f, x must reach 3.5.
    np.testing.assert_allclose(found, [0.5, 0.75, 3.0, 3.25], atol=1e-3)


def test_anchors_and_their_accuracy():
    found = thresholds.anchor(toys.additive(0.0), classifier, KEY, 3 * X)
    assert found.prediction == 1
    broken = thresholds.anchor(lambda key, x: x * jnp.nan, lambda x: jnp.ones(2), KEY, X)
    assert broken.prediction == thresholds.NOT_FINITE
    estimate = thresholds.anchor_accuracy(np.array([1, 0, -1, 1]), np.ones(4))
    assert estimate.value == 0.5 and estimate.n == 4


def test_the_table_of_two_requirements():
    labels = np.array([1, 1, 1, 0, 0])
    anchors = np.array([1, 1, 0, 1, 0])
    balls = np.array([[1, 1], [1, 0], [0, 0], [1, 0], [0, -1]])
    table = thresholds.two_requirements(anchors, balls, labels)
    np.testing.assert_array_equal(table["anchor_right"], [1, 1, 0, 0])
    np.testing.assert_array_equal(table["ball_held"], [1, 0, 1, 0])
    np.testing.assert_array_equal(table["images"], [1, 2, 1, 1])
    np.testing.assert_allclose(table["ball_right"], [1, 0.5, 0, 0.5])
    np.testing.assert_allclose(table["share"].sum(), 1)


@pytest.mark.parametrize("scan", [1, 7])
def test_the_scan_finds_the_first_of_two_crossings_or_none(scan):
    def band(x):
        inside = (x[0, 0, 0] > 0.9) & (x[0, 0, 0] < 1.4)
        return jnp.where(inside, jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0]))

    found = thresholds.critical_threshold(band, X, AXIS, maximum=2.0, scan=scan)
    if scan == 1:  # looks at the far end alone, beyond the band
        assert found == jnp.inf
    else:
        np.testing.assert_allclose(found, 0.4, atol=1e-3)
