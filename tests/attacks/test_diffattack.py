"""DiffAttack: the states of a purification, how far they stray, and where that goes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxpure import gradients
from jaxpure.attacks import Apgd, DiffAttack, Linf, cascade
from jaxpure.attacks.diffattack import Deviation
from jaxpure.defenses import PurifiedClassifier
from jaxpure.diffusion import Linear
from jaxpure.errors import UserError
from jaxpure.keys import noise_at, part
from jaxpure.purifiers import DiffPure, Identity, Resized, RevPure

from . import toys


def denoiser(a, x, t):
    return a * jnp.tanh(x + t / 1000)


SCHEDULE = Linear(100)
PURIFIER = DiffPure(jax.tree_util.Partial(denoiser, 0.3), t_star=4, schedule=SCHEDULE)
DEFENSE = PurifiedClassifier(PURIFIER, toys.bent_classifier())
KEY = 5


@jax.jit
def both(purifier, x):
    """A purification and its states, under the same key."""
    key = jax.random.key(KEY)
    return purifier(key, x), purifier.trajectory(jax.random.clone(key), x)


@jax.jit
def forward_noise(like):
    return noise_at(part(jax.random.key(KEY), "forward"), 0, like)


@pytest.mark.parametrize("rounds", [1, 2])
def test_the_trajectory_is_the_purification(rounds):
    x = toys.image(5)
    purified, found = both(dataclasses.replace(PURIFIER, rounds=rounds), x)
    np.testing.assert_allclose(found.purified, purified, atol=1e-6)
    np.testing.assert_allclose((found.denoised[-1] + 1) / 2, purified, atol=1e-6)
    assert found.noised.shape == found.denoised.shape == (4 * rounds, *toys.SHAPE)


def test_the_trajectory_noises_with_the_purifications_own_noise():
    x = toys.image(6)
    _, found = both(PURIFIER, x)
    noise, image = forward_noise(x), 2 * np.asarray(x) - 1
    for i, t in enumerate((2, 1, 0)):  # after the steps at timesteps 3, 2, 1
        signal = SCHEDULE.alphas_cumprod[t]
        expected = np.sqrt(signal) * image + np.sqrt(1 - signal) * noise
        np.testing.assert_allclose(found.noised[i], expected, atol=1e-5)
    np.testing.assert_allclose(found.noised[3], image, atol=1e-6)


def test_at_another_size_the_states_are_of_that_size():
    purified, found = both(Resized(PURIFIER, 8), toys.image(9))
    assert found.denoised.shape == found.noised.shape == (4, 8, 8, 2)
    np.testing.assert_allclose(found.purified, purified, atol=1e-6)


# How far they stray.


@jax.jit
def deviates(defense, weight, x):
    key = jax.random.key(KEY)
    return Deviation(weight)(defense, key, x), defense(jax.random.clone(key), x)


def test_the_deviation_by_its_definition():
    """The mean square of every third difference, the end of the chain among them."""
    x, weight = toys.image(7), 2.5
    _, found = both(PURIFIER, x)
    strayed = np.asarray(found.noised - found.denoised)[[0, 3]]
    (logits, added), plain = deviates(DEFENSE, weight, x)
    np.testing.assert_allclose(added, weight * np.mean(strayed**2), rtol=1e-5)
    np.testing.assert_allclose(logits, plain, rtol=1e-5)


def test_its_gradient_is_that_of_finite_differences():
    with jax.enable_x64(True):
        x = jnp.asarray(np.asarray(toys.image(7)), jnp.float64)

        @jax.jit
        def total(x):
            (logits, added), _ = deviates(DEFENSE, 2.5, x)
            return jnp.sum(jnp.sin(logits)) + added

        check_grads(total, (x,), order=1, modes=["rev"], rtol=1e-5)


def test_it_is_added_to_the_gradient_and_not_to_the_loss():
    key, x, label = toys.example(8)
    stage = DiffAttack(deviation_weight=3.0, eot_samples=3).attacks()[0][1]
    objective = stage.objective(toys.DEFENSE, toys.policy("fresh"))
    plain = dataclasses.replace(objective, auxiliary_loss=None)

    @jax.jit
    def all_three(key):
        keys = objective.gradient_keys(key, jnp.int32(0))
        first, second, third = keys, jax.random.clone(keys), jax.random.clone(keys)
        deviation = jax.grad(lambda x, k: Deviation(3.0)(toys.DEFENSE, k, x)[1])
        added = jax.vmap(deviation, (None, 0))(x, third)
        return (
            objective.gradient(first, x, label),
            plain.gradient(second, x, label),
            jnp.mean(added, 0),
        )

    found, alone, added = all_three(key)
    np.testing.assert_allclose(found.logits, alone.logits, atol=1e-6)
    np.testing.assert_allclose(found.gradient - alone.gradient, added, atol=1e-5)
    assert float(jnp.abs(added).max()) > 1e-3


# The attack.


def test_it_is_apgd_on_two_losses_with_the_deviation():
    attack = DiffAttack(num_steps=12, eot_samples=3, deviation_weight=2.0)
    stages = cascade(attack, "", DEFENSE, toys.policy("fresh"))
    assert [stage.name for stage in stages] == ["apgd-ce", "apgd-dlr"]
    for stage, loss in zip(stages, ("cross_entropy", "dlr"), strict=True):
        plain = Apgd(num_steps=12, eot_samples=3, loss=loss)
        assert dataclasses.replace(stage.attack, auxiliary_loss=None) == plain
        assert stage.objective.auxiliary_loss == Deviation(2.0)
    undefended = Apgd(num_steps=12, eot_samples=3)
    assert attack.undefended() == undefended


@jax.jit
def path(attack, objective, row):
    """What the first calls evaluate: the image, the start, and two updates."""
    state = attack.init(objective, Linf(0.05), *row)

    def call(state, _):
        return attack.step(objective, Linf(0.05), state), state.x

    return jax.lax.scan(call, state, None, 4)[1]


def test_without_weight_it_is_apgd_and_with_weight_it_is_not():
    key, x, label = toys.example(8)
    attacks = [DiffAttack(6, 2, weight).attacks()[0][1] for weight in (0.0, 300.0)]
    plain, without, weighted = (
        path(
            attack,
            attack.objective(toys.DEFENSE, toys.policy("fresh")),
            (jax.random.clone(key), x, label),
        )
        for attack in (Apgd(num_steps=6, eot_samples=2), *attacks)
    )
    np.testing.assert_allclose(without, plain, atol=1e-5)
    np.testing.assert_array_equal(weighted[:2], without[:2])
    assert np.abs(weighted[2] - without[2]).max() > 0.01


@pytest.mark.parametrize(
    "purifier",
    [
        Identity(),
        RevPure(PURIFIER.denoiser, t_star=2, schedule=SCHEDULE),
        gradients.Bpda()(PURIFIER),
        Resized(Identity(), 8),
    ],
    ids=lambda purifier: type(purifier).__name__,
)
def test_a_purifier_without_states_is_refused(purifier):
    defense = PurifiedClassifier(purifier, toys.bent_classifier())
    stage = cascade(DiffAttack(), "", defense, toys.policy("fresh"))[0]
    with pytest.raises(UserError, match="states of the forward and the reverse pass"):
        keys = jax.random.key(0)[None]
        stage.objective.gradient(keys, toys.image(), jnp.int32(0))
