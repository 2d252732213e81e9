"""The key matrix and the replay gap, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxpure.dissect import draws, masking
from tests.dissect import toys

SIGMA, EPS = 1.0, 2.0


def one_hot(right):
    """Logits of two classes, class 1 being the true one."""
    return np.stack([~right, right], -1).astype(float)


def additive_logits(images, keys, seed=0):
    """Images made under key i, judged under key j, of a threshold on one noisy pixel.

    Under key k the pixel's noise is a(k); the classifier is right while pixel + a(k) > 0.
    An attack that knows k sets the pixel to -a(k) - 0.1 if that is within EPS, else to 0.
    """
    rng = np.random.default_rng(seed)
    noise = SIGMA * rng.standard_normal((images, keys)) + 1
    moved = np.where(noise + 0.1 <= EPS, -noise - 0.1, 0)
    return one_hot(moved[:, :, None] + noise[:, None, :] > 0)


def test_the_key_matrix_of_additive_noise():
    images, keys = 4000, 3
    found = masking.key_matrix(additive_logits(images, keys), np.ones(images, int))
    own, other = found.cells["success"][[0, 4]], found.cells["success"][1]
    low, high = found.cells.interval("success")
    # Known: the noise is small enough to be met, or the image wrong unattacked.
    truth = stats.norm.cdf(EPS - 0.1, 1, SIGMA)
    np.testing.assert_allclose(own, truth, atol=0.02)
    assert low[0] < truth < high[0]
    # Unknown: a(j) < a(i) + 0.1 where the attack moved, else a(j) < 0.
    x = np.random.default_rng(1).standard_normal((200000, 2)) + 1
    within = x[:, 0] + 0.1 <= EPS
    other_truth = np.mean(np.where(within, x[:, 1] < x[:, 0] + 0.1, x[:, 1] < 0))
    np.testing.assert_allclose(other, other_truth, atol=0.03)
    overall = found.overall.estimate("difference")
    np.testing.assert_allclose(overall.value, truth - other_truth, atol=0.02)
    assert overall.n == images
    covered = 0
    for seed in range(40):
        found = masking.key_matrix(additive_logits(200, keys, seed), np.ones(200, int))
        overall = found.overall.estimate("difference")
        covered += overall.low < truth - other_truth < overall.high
    assert covered >= 34


def test_the_key_matrix_counts_only_images_that_were_right():
    right = np.array([[True, True], [True, True], [False, True]])
    logits = one_hot(np.zeros((3, 2, 2), bool))
    logits[0] = one_hot(np.ones((2, 2), bool))
    found = masking.key_matrix(logits, np.ones(3, int), clean=one_hot(right))
    np.testing.assert_array_equal(found.cells["images"], [2, 3, 2, 3])
    np.testing.assert_allclose(found.cells["success"], [1 / 2, 2 / 3, 1 / 2, 2 / 3])
    with pytest.raises(ValueError, match="right under judging key 1"):
        masking.key_matrix(logits, np.ones(3, int), clean=one_hot(right & [True, False]))


def test_logits_that_are_not_finite_are_a_success_and_eot_sets_are_seen():
    logits = one_hot(np.ones((4, 1, 3), bool))
    logits[:, 0, 2, 0] = np.nan
    seen = np.array([[True, True, False]])
    found = masking.key_matrix(logits, np.ones(4, int), seen=seen)
    np.testing.assert_array_equal(found.cells["success"], [0, 0, 1])
    assert found.overall["seen"] == 0 and found.overall["unseen"] == 1


def test_cross_logits_puts_attack_before_judge():
    keys = draws.draw_keys(jax.random.key(0), "judge", 3)
    images = jnp.stack([jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1))])
    purifier = toys.additive(1.0)
    found = masking.cross_logits(lambda key, x: purifier(key, x).reshape(-1), keys, images)
    assert found.shape == (2, 3, 1)
    np.testing.assert_allclose(found[1, 2], purifier(keys[2], images[1]).reshape(-1))


def test_the_replay_gap_is_paired():
    fresh = one_hot(np.array([True, True, True, False]))
    replay = one_hot(np.array([True, False, False, False]))
    gap = masking.replay_gap(fresh, replay, np.ones(4, int))
    assert gap.gap == 0.5 and gap.only_first == 2 and gap.only_second == 0
