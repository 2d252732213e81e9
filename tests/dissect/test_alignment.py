"""Gradients' cosines and their signal to noise, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure.dissect import alignment, draws
from tests.dissect import toys


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
        return lambda x: alignment.loss_gradient(quadratic_defense, loss, key, x, label)

    used = {
        "same": under(key),
        "other": under(other),
        "eot": lambda x: alignment.eot_gradient(quadratic_defense, loss, keys, x, label),
        "zero": jnp.zeros_like,
        "opposite": lambda x: -2 * under(key)(x),
    }
    found = alignment.alignment_along(under(key), used, jnp.stack([x, 2 * x]))
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
    np.testing.assert_allclose(alignment.align(tiny, 3 * tiny).cosine, 1, rtol=1e-5)
    np.testing.assert_allclose(alignment.align(tiny, 3 * tiny).norm_ratio, 3, rtol=1e-5)
    assert jnp.isnan(alignment.align(tiny, tiny * jnp.nan).cosine)
    curve = {"bpda": np.array([[0.5, 0.25], [0.5, np.nan]])}
    with pytest.raises(ValueError, match="cosine of bpda is not finite for example 31:"):
        alignment.alignment_curve(curve, indices=np.array([30, 31]))


def test_eot_alignment_rises_with_the_draws_as_it_must():
    rng = np.random.default_rng(0)
    gradients = jnp.asarray(1 + 2 * rng.standard_normal((64, 5000)), jnp.float32)
    found = alignment.eot_alignment(gradients[0], gradients[1:], [1, 4, 63])
    truth = [1 / np.sqrt(5 * (1 + 4 / n)) for n in (1, 4, 63)]
    np.testing.assert_allclose(found, truth, atol=0.03)
    with pytest.raises(ValueError, match="expected 1 to 63"):
        alignment.eot_alignment(gradients[0], gradients[1:], [64])


def test_signal_and_noise_are_unbiased():
    rng = np.random.default_rng(3)
    mean = np.full(10, 0.2)  # signal 0.4, noise 10 * 4 = 40
    gradients = jnp.asarray(mean + 2 * rng.standard_normal((4000, 5, 10)), jnp.float32)
    found = jax.vmap(alignment.gradient_signal)(gradients)
    error = float(jnp.std(found.signal)) / 4000**0.5
    assert abs(float(found.signal.mean()) - 0.4) < 4 * error and error < 0.15
    np.testing.assert_allclose(found.noise.mean(), 40, rtol=0.02)
    naive = float(jnp.mean(jnp.sum(gradients.mean(1) ** 2, -1)))
    assert naive > 8  # what the biased estimate would say


def test_signal_to_noise_grows_with_the_draws():
    table = alignment.signal_to_noise(np.full(20, 2.0), np.full(20, 4.0), [1, 2, 8])
    np.testing.assert_allclose(table["snr"], [0.5, 1, 4])
    np.testing.assert_allclose(table["aligned"], [1 / 3, 1 / 2, 4 / 5])
    with pytest.raises(ValueError, match="nothing for EOT to average"):
        alignment.signal_to_noise(np.ones(3), np.zeros(3), [1])
