"""The gradient check against derivatives that are right, wrong, zero and approximate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure import gradients, keys, purifiers
from jaxpure.checks import check_gradient
from jaxpure.defenses import PurifiedClassifier
from jaxpure.diffusion import Linear

SHAPE = (4, 4, 1)
EXACT = gradients.Exact()


def denoise(a, x, t):
    return a * jnp.tanh(x + t / 100)


def classify(weights, x):
    return jnp.sin(3 * x.reshape(-1)) @ weights


def noisy(key, x):
    return x + 0.1 * keys.noise_at(key, 0, x)


@jax.custom_vjp
def doubled(x):
    return jnp.sin(x)


doubled.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (2 * g * jnp.cos(x),))


def defenses(purifier, rule=EXACT):
    weights = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    classifier = jax.tree_util.Partial(classify, jnp.asarray(weights))
    return [PurifiedClassifier(p, classifier) for p in (rule(purifier), purifier)]


def diffpure():
    denoiser = jax.tree_util.Partial(denoise, jnp.float32(0.7))
    return purifiers.DiffPure(denoiser, t_star=7, schedule=Linear(100))


def check(purifier, rule=EXACT):
    x = np.random.default_rng(1).uniform(size=SHAPE).astype(np.float32)
    return check_gradient(
        *defenses(purifier, rule), jax.random.key(0), x, 1, num_segments=3
    )


def test_an_exact_gradient_is_the_derivative_in_every_segment():
    found = check(diffpure())
    assert found.relative_error < 1e-6 and found.cosine > 1 - 1e-9
    assert [(s.first, s.last) for s in found.segments] == [(6, 4), (3, 2), (1, 0)]
    assert all(s.relative_error < 1e-6 for s in found.segments)
    assert found.finite and found.gradient_norm > 0


@pytest.mark.parametrize(
    "rule",
    [gradients.Bpda(), gradients.Surrogate(purifiers.Identity())],
)
def test_an_approximation_is_told_by_its_error(rule):
    found = check(diffpure(), rule)
    assert found.relative_error > 0.01
    assert all(s.relative_error < 1e-6 for s in found.segments)  # the chain itself is fine


def test_a_wrong_rule_of_a_length_of_two_is_found():
    found = check(lambda key, x: doubled(noisy(key, x)))
    assert found.relative_error == pytest.approx(1, abs=1e-6)
    assert found.cosine == pytest.approx(1, abs=1e-9)
    assert found.segments == []


def test_zero_and_not_finite_gradients_are_told():
    rounded = check(lambda key, x: jnp.round(8 * noisy(key, x)) / 8)
    assert rounded.gradient_norm == 0 and rounded.finite
    broken = check(lambda key, x: jnp.sqrt(jnp.maximum(noisy(key, x) - 10, 0)))
    assert not broken.finite


def test_it_leaves_the_precision_of_the_process_alone():
    check(noisy)
    assert jnp.ones(()).dtype == jnp.float32
