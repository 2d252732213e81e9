"""Optimizers: what Muon's update is, and rates that differ by parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure import optimizers


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6)])
def test_orthogonalised_keeps_directions_and_evens_out_lengths(shape):
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.normal(size=(shape[0], min(shape))))
    v, _ = np.linalg.qr(rng.normal(size=(shape[1], min(shape))))
    lengths = np.geomspace(0.1, 5, min(shape))
    result = optimizers.orthogonalised(jnp.asarray((u * lengths) @ v.T, jnp.float32))
    within = u.T @ np.asarray(result) @ v
    np.testing.assert_allclose(within, np.diag(np.diag(within)), atol=1e-4)
    assert np.all(np.diag(within) > 0.6) and np.all(np.diag(within) < 1.3)


def test_a_step_of_muon_by_its_formula():
    kernel, gradient = (jax.random.normal(jax.random.key(i), (3, 3, 4, 8)) for i in (0, 1))
    rule = optimizers.muon(0.25, momentum=0.6)
    state = rule.init({"w": kernel})
    update, state = rule.update({"w": gradient}, state, {"w": kernel})
    direction = optimizers.orthogonalised(1.6 * gradient.reshape(36, 8))
    length = np.sqrt(8) / np.linalg.norm(kernel)
    expected = kernel * length - 0.25 * direction.reshape(kernel.shape)
    np.testing.assert_allclose(kernel + update["w"], expected, atol=1e-5)
    again, _ = rule.update({"w": gradient}, state, {"w": kernel})
    ahead = optimizers.orthogonalised((1 + 0.6 * 1.6) * gradient.reshape(36, 8))
    np.testing.assert_allclose(
        again["w"] - update["w"],
        0.25 * (direction - ahead).reshape(kernel.shape),
        atol=1e-5,
    )


def test_muon_follows_a_schedule():
    rule = optimizers.muon(lambda step: 0.1 * step, momentum=0.0)
    kernel = jax.random.normal(jax.random.key(0), (1, 1, 2, 2))
    kernel *= jnp.sqrt(2.0) / jnp.linalg.norm(kernel)
    state = rule.init(kernel)
    first, state = rule.update(kernel, state, kernel)
    np.testing.assert_allclose(first, 0, atol=1e-6)
    second, _ = rule.update(kernel, state, kernel)
    assert float(jnp.linalg.norm(second)) > 0.05


def test_factors_go_by_name_and_leave_the_decay_alone():
    params = {"norm": {"bias": jnp.array([2.0])}, "logits": jnp.array([2.0])}
    rule = optimizers.sgd(0.1, momentum=0.5, weight_decay=0.3, rate_factors={"bias": 64.0})
    state = rule.init(params)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, _ = rule.update(gradients, state, params)
    # Nesterov: the first step goes 1 + momentum times the gradient.
    np.testing.assert_allclose(updates["norm"]["bias"], -0.1 * 1.5 * (64 + 0.6), rtol=1e-6)
    np.testing.assert_allclose(updates["logits"], -0.1 * 1.5 * (1 + 0.6), rtol=1e-6)
