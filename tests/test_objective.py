"""Losses and what an attack climbs: any function of logits and label, over draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure.errors import UserError
from jaxpure.keys import noise_at, part
from jaxpure.losses import LOSSES, is_ratio, is_targeted, loss_named, loss_of, margin
from jaxpure.objective import Objective
from jaxpure.policy import PRESETS

X, KEY, LABEL = jnp.array([[[0.2], [0.7]]]), jax.random.key(3), jnp.int32(1)


def noisy(weights, key, x):
    return weights @ (x + noise_at(part(key, "noise"), 0, x)).ravel()


WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)), jnp.float32)
DEFENSE = jax.tree_util.Partial(noisy, WEIGHTS)


def objective(policy="fresh", **options):
    return Objective(DEFENSE, PRESETS[policy], **options)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_rise_as_the_true_class_falls(name):
    logits = jnp.array([2.0, 1.0, 0.5, -1.0, 0.1])
    lower = logits.at[0].add(-0.5)
    before, after = (float(loss_of(name, 0, 2)(each)) for each in (logits, lower))
    assert after > before
    assert is_targeted(name) == name.startswith("targeted")
    assert is_ratio(name) == name.endswith("dlr")


def test_ratios_do_not_see_shift_and_scale():
    logits = jnp.array([2.0, 1.0, 0.5, -1.0])
    for name in ("dlr", "targeted_dlr"):
        one, other = (float(loss_of(name, 0, 2)(z)) for z in (logits, 3 * logits + 7))
        assert one == pytest.approx(other, abs=1e-6)


def test_a_function_is_a_loss_and_an_unknown_name_lists_the_known():
    assert loss_named(margin) is margin
    assert is_targeted(lambda logits, label, target: logits[target])
    assert not is_targeted(lambda logits, label, weight=1.0: logits[label])
    with pytest.raises(UserError, match="unknown loss 'margn'.*Did you mean 'margin'"):
        objective(loss="margn")
    with pytest.raises(UserError, match="at least 3 classes, got 2; use margin"):
        loss_of("dlr", 0)(jnp.zeros(2))


def test_the_gradient_of_a_users_loss_is_that_of_its_draws():
    def loss(logits, label):
        return logits[label] ** 2

    seen = objective(loss=loss, eot_samples=3)
    keys = seen.gradient_keys(KEY, jnp.int32(0))
    found = seen.gradient(keys, X, LABEL)
    assert found.logits.shape == (3, 5)
    each = [
        jax.grad(lambda x, k=k: loss(DEFENSE(k, x), LABEL))(X)
        for k in jax.random.clone(keys)
    ]
    np.testing.assert_allclose(found.gradient, np.mean(each, 0), rtol=1e-5)


def test_averaging_logits_is_the_loss_of_their_mean():
    seen = objective(loss="cross_entropy", average="logits", eot_samples=4)
    keys = seen.gradient_keys(KEY, jnp.int32(0))

    def of_mean(x):
        logits = jax.vmap(DEFENSE, (0, None))(jax.random.clone(keys), x)
        return loss_of("cross_entropy", LABEL)(jnp.mean(logits, 0))

    found = seen.gradient(keys, X, LABEL).gradient
    np.testing.assert_allclose(found, jax.grad(of_mean)(X), rtol=1e-4, atol=1e-6)


def test_under_replay_there_is_one_draw_whatever_is_asked():
    assert objective("replay", eot_samples=7).gradient_draws == 1
    assert objective("fresh", eot_samples=7).gradient_draws == 7
    assert objective("replay", eot_samples=7).extra_draws == 0
    assert objective("fresh", eot_samples=7).extra_draws == 7


def test_an_auxiliary_loss_moves_the_gradient_and_not_the_logits():
    def auxiliary(defense, key, x):
        return defense(key, x), 10 * jnp.sum(x)

    plain = objective().look(KEY, jnp.int32(0), X, LABEL)
    helped = objective(auxiliary_loss=jax.tree_util.Partial(auxiliary))
    found = helped.look(KEY, jnp.int32(0), X, LABEL)
    np.testing.assert_allclose(found.gradient, plain.gradient + 10, rtol=1e-5)
    np.testing.assert_array_equal(found.logits, plain.logits)


@pytest.mark.parametrize(("value", "bad", "zero"), [(jnp.nan, 1, 0), (0.0, 0, 1)])
def test_gradients_of_no_use_are_zero_and_counted(value, bad, zero):
    defense = jax.tree_util.Partial(lambda key, x: jnp.zeros(3) + value * jnp.sum(x))
    seen = Objective(defense, PRESETS["replay"]).look(KEY, jnp.int32(0), X, LABEL)
    assert not np.any(seen.gradient)
    assert (int(seen.bad), int(seen.zero), bool(seen.finite)) == (bad, zero, True)
    astray = objective().look(KEY, jnp.int32(0), X * jnp.nan, LABEL)
    assert not bool(astray.finite)
