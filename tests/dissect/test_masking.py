"""The key matrix, gradients' cosines and their signal to noise, in closed form."""

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


def quadratic_defense(key, x):
    """Loss = |x + noise|^2 / 2 / 2, a gradient of (x + noise)."""
    return 0.5 * jnp.sum(jnp.square(toys.additive(0.5)(key, x)))[None]


def loss(logits, label):
    return logits[0] + 0 * label


def test_cosines_with_the_true_gradient_are_known_for_a_quadratic():
    key, other = draws.draw_keys(jax.random.key(1), "own", 2)
    keys = draws.draw_keys(jax.random.key(1), "others", 8)
    shape = (40, 40, 1)
    x = jnp.ones(shape)
    label = jnp.int32(0)

    def under(key):
        return lambda x: masking.loss_gradient(quadratic_defense, loss, key, x, label)

    used = {
        "same": under(key),
        "other": under(other),
        "eot": lambda x: masking.eot_gradient(quadratic_defense, loss, keys, x, label),
        "zero": jnp.zeros_like,
        "opposite": lambda x: -2 * under(key)(x),
    }
    found = masking.alignment_along(under(key), used, jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(found["same"].cosine, 1, rtol=1e-5)
    np.testing.assert_allclose(found["opposite"].cosine, -1, rtol=1e-5)
    np.testing.assert_allclose(found["opposite"].norm_ratio, 2, rtol=1e-4)
    assert (found["zero"].cosine == 0).all() and found["zero"].zero.all()
    for i, scale in enumerate((1.0, 2.0)):  # per pixel: signal scale^2, noise 0.25
        other = scale**2 / (scale**2 + 0.25)
        eot = scale**2 / np.sqrt((scale**2 + 0.25) * (scale**2 + 0.25 / 8))
        np.testing.assert_allclose(found["other"].cosine[i], other, atol=0.03)
        np.testing.assert_allclose(found["eot"].cosine[i], eot, atol=0.03)


def test_a_short_gradient_keeps_its_cosine_and_nan_stays_nan():
    tiny = jnp.array([1e-30, 1e-30])
    np.testing.assert_allclose(masking.align(tiny, 3 * tiny).cosine, 1, rtol=1e-5)
    np.testing.assert_allclose(masking.align(tiny, 3 * tiny).norm_ratio, 3, rtol=1e-5)
    assert jnp.isnan(masking.align(tiny, tiny * jnp.nan).cosine)
    curve = {"bpda": np.array([[0.5, 0.25], [0.5, np.nan]])}
    with pytest.raises(ValueError, match="cosine of bpda is not finite for example 31:"):
        masking.alignment_curve(curve, indices=np.array([30, 31]))


def test_eot_alignment_rises_with_the_draws_as_it_must():
    rng = np.random.default_rng(0)
    gradients = jnp.asarray(1 + 2 * rng.standard_normal((64, 5000)), jnp.float32)
    found = masking.eot_alignment(gradients[0], gradients[1:], [1, 4, 63])
    truth = [1 / np.sqrt(5 * (1 + 4 / n)) for n in (1, 4, 63)]
    np.testing.assert_allclose(found, truth, atol=0.03)
    with pytest.raises(ValueError, match="expected 1 to 63"):
        masking.eot_alignment(gradients[0], gradients[1:], [64])


def test_signal_and_noise_are_unbiased():
    rng = np.random.default_rng(3)
    mean = np.full(10, 0.2)  # signal 0.4, noise 10 * 4 = 40
    gradients = jnp.asarray(mean + 2 * rng.standard_normal((4000, 5, 10)), jnp.float32)
    found = jax.vmap(masking.gradient_signal)(gradients)
    error = float(jnp.std(found.signal)) / 4000**0.5
    assert abs(float(found.signal.mean()) - 0.4) < 4 * error and error < 0.15
    np.testing.assert_allclose(found.noise.mean(), 40, rtol=0.02)
    naive = float(jnp.mean(jnp.sum(gradients.mean(1) ** 2, -1)))
    assert naive > 8  # what the biased estimate would say


def test_signal_to_noise_grows_with_the_draws():
    table = masking.signal_to_noise(np.full(20, 2.0), np.full(20, 4.0), [1, 2, 8])
    np.testing.assert_allclose(table["snr"], [0.5, 1, 4])
    np.testing.assert_allclose(table["aligned"], [1 / 3, 1 / 2, 4 / 5])
    with pytest.raises(ValueError, match="nothing for EOT to average"):
        masking.signal_to_noise(np.ones(3), np.zeros(3), [1])
