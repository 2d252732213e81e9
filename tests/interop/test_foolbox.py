"""Foolbox's own attacks on a defense of ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure import gradients, keys
from jaxpure.defenses import PurifiedClassifier
from jaxpure.interop.foolbox import foolbox_model


def noisy(key, x):
    return x + 0.1 * keys.noise_at(key, 0, x)


def linear(weights, x):
    return jnp.tanh(2 * x.reshape(-1) - 1) @ weights


@pytest.mark.parametrize("rule", [gradients.Exact(), gradients.Bpda()])
def test_an_attack_of_foolbox_breaks_what_the_key_decides(rule):
    foolbox = pytest.importorskip("foolbox")
    random = np.random.default_rng(0)
    weights = jnp.asarray(random.normal(size=(32, 5)).astype(np.float32))
    purifier = jax.tree_util.Partial(noisy)
    classifier = jax.tree_util.Partial(linear, weights)
    defense = PurifiedClassifier(rule(purifier), classifier)
    images = jnp.asarray(random.uniform(size=(6, 4, 4, 2)).astype(np.float32))
    key = jax.random.key(1)

    def predict(images):
        plain = PurifiedClassifier(purifier, classifier)
        return jax.vmap(lambda x: plain(jax.random.clone(key), x).argmax())(images)

    with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        labels = predict(images)
        model = foolbox_model(defense, key)
        assert foolbox.accuracy(model, images, labels) == 1
        attack = foolbox.attacks.LinfPGD(steps=20, rel_stepsize=0.1)
        _, found, success = attack(model, images, labels, epsilons=0.3)
        broken = np.asarray(predict(found) != labels)
    np.testing.assert_array_equal(broken, np.asarray(success))
    assert broken.mean() > 0.5
    assert float(jnp.abs(found - images).max()) <= 0.3 + 1e-5
