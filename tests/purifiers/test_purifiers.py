"""What purifiers compute: known answers, and fits of a denoiser that are refused.

The reverse chains are compared with the truth for data whose best denoiser is known in
closed form, and with what the same purifiers gave before their options became their
constructor's.
"""

import functools
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from jaxpure import models, specs, weights
from jaxpure.defenses import PurifiedClassifier, denoiser_evaluations, noise_parts
from jaxpure.diffusion import (
    ContinuousVp,
    Cosine,
    Ddim,
    Ddpm,
    Linear,
    Ode,
    Sde,
    add_noise,
    make_chain,
    mix,
    reverse,
    reverse_states,
)
from jaxpure.errors import UserError
from jaxpure.keys import PartKeys, noise_at, part
from jaxpure.purifiers import DiffPure, OneShot, Resized, RevPure, ddim
from tests.purifiers.cases import DENOISER, SHAPE, images, keys, toy

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
T_STAR = 5
SCHEDULE = Linear(100)


def build(make, denoiser=DENOISER, **changes):
    return make(denoiser, t_star=T_STAR, schedule=SCHEDULE, **changes)


@jax.jit
def purified(purifier, key, x):
    return purifier(key, x)


@pytest.mark.parametrize("rule", [Ddpm(), Ddim(), Sde(), Ode()])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_denoiser_of_another_image_is_refused(rule, channels):
    denoiser = jax.tree_util.Partial(lambda x, t: jnp.zeros((3, 2, channels)))
    chain = make_chain(Linear(), rule, 3)
    with pytest.raises(ValueError, match=f"{channels} channels for an image of 2"):
        reverse(chain, denoiser, keys()[0], jnp.zeros(SHAPE))


def test_learned_variance_needs_a_denoiser_that_learned_it():
    chain = make_chain(SCHEDULE, Ddpm("learned_range"), 3)
    with pytest.raises(ValueError, match="learned_range.*fixed_large or fixed_small"):
        reverse(chain, DENOISER, keys()[0], jnp.zeros(SHAPE))


def test_the_second_half_of_a_prediction_is_the_variance():
    """At its two ends the learned variance is the large one and the small one."""
    x, key = images()[0], keys()[0]

    def with_variance(value):
        def predict(a, x, t):
            return jnp.concatenate([toy(a, x, t), jnp.full_like(x, value)], -1)

        return jax.tree_util.Partial(predict, 0.7)

    for value, variance in ((1, "fixed_large"), (-1, "fixed_small")):
        results = [
            purified(build(DiffPure, net, step_rule=Ddpm(rule)), key, x)
            for net, rule in (
                (with_variance(value), "learned_range"),
                (with_variance(value), variance),  # ignores the second half
                (DENOISER, variance),
            )
        ]
        chex.assert_trees_all_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("start", "first"), [("t_star_minus_1", 4), ("t_star", 5)])
@pytest.mark.parametrize("make", [DiffPure, RevPure, OneShot])
def test_where_a_purification_starts(make, start, first):
    """The noise level and the number of steps that `t_star` means."""
    purifier = build(make, start=start)
    signal = SCHEDULE.alphas_cumprod[first]
    if make is OneShot:
        assert float(purifier.label) == first
        assert purifier.levels == SCHEDULE.levels(first)
    else:
        np.testing.assert_array_equal(purifier.chain.noise_index, range(first, -1, -1))
        assert denoiser_evaluations(purifier) == first + 1
    if make is DiffPure:
        assert purifier.signal == signal
    assert build(RevPure, start=start, scale_input=True).scale == signal**0.5


def test_noising_is_the_forward_process():
    """DiffPure with a denoiser that predicts the very noise gives the image back."""
    x, key = images()[0], keys()[0]
    noise = noise_at(part(key, "forward"), 0, x)
    noised = mix(SCHEDULE.levels(T_STAR - 1), 2 * x - 1, noise)

    def oracle(x, t):
        np.testing.assert_array_equal(t, T_STAR - 1)
        np.testing.assert_allclose(x, noised, rtol=1e-6)
        return noise

    chex.assert_trees_all_close(
        build(OneShot, jax.tree_util.Partial(oracle))(key, x), x, atol=1e-5
    )


def test_rounds_are_purifications_in_a_row_under_their_own_noise():
    x, key = images()[0], keys()[0]
    once, twice = build(DiffPure), build(DiffPure, rounds=2)
    first = purified(once, key, x)
    second = 2 * first - 1
    noise = noise_at(part(key, "forward"), 1, x)
    second = add_noise(once.signal, second, noise)
    round_key = jax.random.fold_in(part(key, "reverse"), 1)
    second = (reverse(once.chain, DENOISER, round_key, second) + 1) / 2
    chex.assert_trees_all_close(purified(twice, key, x), second, atol=1e-5)
    assert denoiser_evaluations(twice) == 2 * denoiser_evaluations(once)


def test_revpure_scales_its_input_or_not():
    x, key = images()[0], keys()[0]
    chain = build(RevPure).chain
    round_key = jax.random.fold_in(part(key, "reverse"), 0)
    for scaled, factor in (
        (False, 1.0),
        (True, SCHEDULE.alphas_cumprod[T_STAR - 1] ** 0.5),
    ):
        expected = reverse(chain, DENOISER, round_key, jnp.float32(factor) * (2 * x - 1))
        purifier = build(RevPure, scale_input=scaled)
        chex.assert_trees_all_close(
            purified(purifier, key, x), (expected + 1) / 2, rtol=1e-6, atol=1e-6
        )


def test_resized_purifies_at_its_own_size():
    """The purifier meets images of that size, and its noise stays addressed by part."""
    seen = []

    def spy(key, x):
        seen.append(x.shape)
        return x

    x = images(1)[0]
    assert Resized(spy, 8)(keys(1)[0], x).shape == x.shape
    assert seen == [(8, 8, SHAPE[-1])]
    inner = build(DiffPure)
    outer = Resized(inner, 6)
    assert outer.noise_parts == inner.noise_parts
    assert outer.denoiser_evaluations == inner.denoiser_evaluations
    key, other = keys(2)
    kept = outer(PartKeys(key, {part: other for part in outer.noise_parts}), x)
    chex.assert_trees_all_close(kept, outer(other, x), rtol=1e-6)
    gradient = jax.grad(lambda x: outer(key, x).sum())(x)
    assert gradient.shape == x.shape and jnp.isfinite(gradient).all()


def test_one_shot_stays_in_the_range_of_images():
    far = jax.tree_util.Partial(lambda x, t: jnp.full_like(x, 50.0))
    x, key = images()[0], keys()[0]
    assert float(jnp.min(build(OneShot, far)(key, x))) == 0.0
    assert float(jnp.min(build(OneShot, far, clip=False)(key, x))) < 0.0


def test_a_defense_classifies_the_purified_image():
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(3, 12)), jnp.float32)
    classifier = jax.tree_util.Partial(lambda w, x: w @ x.ravel(), weights)
    purifier, x, key = build(DiffPure), images()[0], keys()[0]
    defense = PurifiedClassifier(purifier, classifier)
    chex.assert_trees_all_equal(defense(key, x), classifier(purifier(key, x)))
    plain = jax.tree_util.Partial(lambda key, x: x)
    assert noise_parts(plain) == () and denoiser_evaluations(plain) is None


# Data that are Gaussian in every pixel: what the noise is expected to be is known.

MEAN, SPREAD = 0.3, 0.5
PIXELS = (32, 32, 64)


def gaussian_denoiser(signal_of, spread):
    """E[noise | x] for data N(MEAN, spread^2), the best denoiser there is."""

    def predict(table, x, t):
        signal = table[jnp.round(t).astype(int)]
        variance = signal * spread**2 + 1 - signal
        return jnp.sqrt(1 - signal) * (x - jnp.sqrt(signal) * MEAN) / variance

    return jax.tree_util.Partial(predict, jnp.asarray(signal_of, jnp.float32))


def sampled(rule, spread, schedule, start):
    """Pixels of one image, independent of each other, from the noise at `start` down."""
    if isinstance(rule, Sde | Ode):
        signal = ContinuousVp().alphas_cumprod(np.arange(1, 1001) / 1000)
    else:
        signal = schedule.alphas_cumprod
    denoiser = gaussian_denoiser(signal, spread)
    chain = make_chain(schedule, rule, start)
    level, key = signal[start], jax.random.key(0)
    noise = jax.random.normal(jax.random.fold_in(key, 0), PIXELS)
    x = np.sqrt(level) * MEAN + np.sqrt(level * spread**2 + 1 - level) * noise
    result = jax.jit(reverse)(chain, denoiser, jax.random.fold_in(key, 1), x)
    return np.asarray(result, np.float64)


def assert_distribution(samples, mean, spread, bias=0.0):
    """Mean and variance within five standard errors, and the chain's own bias."""
    n = samples.size
    assert abs(samples.mean() - mean) < 5 * spread / np.sqrt(n) + bias
    assert abs(samples.var() / spread**2 - 1) < 5 * np.sqrt(2 / n) + bias


@functools.cache
def whole_chain(rule, spread=SPREAD):
    return sampled(rule, spread, Linear(), 999)


@pytest.mark.parametrize(
    ("rule", "bias"),
    [
        (Ddpm("fixed_large"), 0.02),
        (Ddpm("fixed_small"), 0.02),
        (Ddim(), 0.01),
        (Ddim(eta=0.5), 0.01),
        (Ddim(eta=1.0), 0.02),
        (Sde(), 0.02),
        (Ode(), 0.01),
    ],
    ids=str,
)
def test_whole_chains_turn_noise_into_the_data(rule, bias):
    assert_distribution(whole_chain(rule), MEAN, SPREAD, bias)


def test_ddpm_is_exact_for_the_data_that_its_variance_is_right_for():
    """fixed_large: unit variance (Ho et al. 2020, section 3.2), in however few steps."""
    samples = sampled(Ddpm("fixed_large"), 1.0, Linear(50), 49)
    assert_distribution(samples, MEAN, 1.0)


def test_ddpm_with_the_small_variance_is_exact_for_a_single_image():
    samples = sampled(Ddpm("fixed_small"), 0.0, Linear(50), 49)
    np.testing.assert_allclose(samples, MEAN, atol=1e-4)


@pytest.mark.parametrize("start", [99, 399])
@pytest.mark.parametrize("schedule", [Linear, Cosine])
def test_chains_begun_on_the_way_end_at_the_data(start, schedule):
    samples = sampled(Ddim(eta=0.5), SPREAD, schedule(), start)
    assert_distribution(samples, MEAN, SPREAD, 0.01)


@pytest.mark.parametrize("rule", [Ddim(), Ode()], ids=str)
def test_deterministic_chains_keep_the_order_of_pixels(rule):
    """Probability flow: a monotone map of the noise, whatever the key."""
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), 0), PIXELS)
    order = np.argsort(np.asarray(noise).ravel())
    assert np.all(np.diff(whole_chain(rule).ravel()[order]) >= -1e-5)


def test_random_chains_do_not():
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), 0), PIXELS)
    samples = whole_chain(Ddpm("fixed_large"))
    assert abs(np.corrcoef(samples.ravel(), np.asarray(noise).ravel())[0, 1]) < 0.05


def test_few_ddim_steps_are_spread_over_the_chain():
    chain = make_chain(SCHEDULE, Ddim(num_steps=4), 9)
    steps = np.asarray(chain.noise_index)
    assert steps[0] == 9 and len(chain) == 4
    gaps = -np.diff(np.append(steps, -1))
    assert np.all(gaps > 0) and np.ptp(gaps) <= 1


# What the same purifiers gave before, on the bundled networks for digits.

STORED = {
    "diffpure": lambda net: DiffPure(net, t_star=50),
    "diffpure_start": lambda net: DiffPure(net, t_star=50, start="t_star"),
    "diffpure_small_clip_rounds": lambda net: DiffPure(
        net, t_star=10, step_rule=Ddpm("fixed_small", clip=True), rounds=2
    ),
    "diffpure_ddim": lambda net: DiffPure(net, 50, Ddim(eta=0.5, num_steps=10)),
    "diffpure_sde": lambda net: DiffPure(net, t_star=20, step_rule=Sde()),
    "diffpure_ode": lambda net: DiffPure(net, t_star=20, step_rule=Ode("ceil")),
    "revpure": lambda net: RevPure(net, t_star=20),
    "revpure_scaled": lambda net: RevPure(net, t_star=20, scale_input=True),
    "ddim": lambda net: ddim(net, t_star=50, num_steps=5),
    "one_shot": lambda net: OneShot(net, t_star=100),
    "one_shot_10": lambda net: OneShot(net, t_star=10),
}


@pytest.fixture(scope="module")
def digits():
    from jaxpure import data

    denoiser = weights.load(GOLDEN / "digits_unet.safetensors")
    return denoiser, jnp.asarray(data.load("digits(split=test)", num_examples=3).floats())


@pytest.mark.parametrize("name", STORED)
def test_purifiers_give_what_they_gave_before(golden, digits, name):
    stored, (denoiser, x) = golden("purifiers_digits"), digits
    purifier = STORED[name](denoiser)
    if hasattr(purifier, "chain"):
        chain = purifier.chain
        np.testing.assert_array_equal(chain.noise_index, stored[f"{name}/index"])
        numbers = {"labels": chain.labels, "signal": chain.signal} | {
            f"c_{key}": value for key, value in chain.coefficients.items()
        }
        for key, value in numbers.items():
            if f"{name}/{key}" in stored:  # a machine's own logarithm differs by bits
                assert value.dtype == np.float64
                np.testing.assert_allclose(value, stored[f"{name}/{key}"], rtol=1e-13)
    run = jax.jit(lambda p, k, x: jax.vmap(lambda k, x: p(k, x))(k, x))
    got = run(purifier, jax.random.split(jax.random.key(7), 3), x)
    np.testing.assert_allclose(got, stored[f"{name}/image"], rtol=0, atol=3e-6)


def test_the_digits_defense_gives_what_it_gave_before(golden, digits):
    stored, (denoiser, x) = golden("purifiers_digits"), digits
    purifier = DiffPure(denoiser, t_star=50)
    defense = PurifiedClassifier(purifier, weights.load("digits_classifier"))
    run = jax.jit(lambda d, k, x: jax.vmap(lambda k, x: d(k, x))(k, x))
    got = run(defense, jax.random.split(jax.random.key(7), 3), x)
    np.testing.assert_allclose(got, stored["diffpure/logits"], rtol=0, atol=1e-4)


# What a denoiser was trained on.


def trained_as(**facts):
    spec = "image_size=4,in_channels=1,out_channels=1,channels=8,channel_mult=[1]"
    net = weights.load(
        f"random:unet({spec},num_res_blocks=1,attention_resolutions=[],num_groups=4)"
    )
    return models.Network(net.architecture, net.params, models.Trained(**facts))


def test_the_schedule_is_the_denoisers_unless_it_is_said():
    cosine = DiffPure(trained_as(schedule="cosine"), t_star=10)
    assert cosine.signal == Cosine().alphas_cumprod[9]
    said = DiffPure(trained_as(schedule="cosine"), t_star=10, schedule=Cosine(1000, 0.999))
    assert said.signal == cosine.signal
    for unknown in (trained_as(), DENOISER):
        assert DiffPure(unknown, t_star=10).signal == Linear().alphas_cumprod[9]


@pytest.mark.parametrize("make", [DiffPure, RevPure, ddim, OneShot])
def test_what_a_denoiser_was_not_trained_on_is_refused(make):
    few = trained_as(schedule="linear", timesteps=20)
    make(few, t_star=20)
    make(few, t_star=19, start="t_star")
    with pytest.raises(UserError, match="timestep 20, but the denoiser.* below 20"):
        make(few, t_star=21)
    with pytest.raises(UserError, match="timestep 20, but the denoiser.* below 20"):
        make(few, t_star=20, start="t_star")
    with pytest.raises(UserError, match="schedule=cosine.*trained on linear"):
        make(few, t_star=5, schedule=Cosine())
    with pytest.raises(UserError, match="continuous time: use .*labels=continuous"):
        make(trained_as(schedule="continuous_vp"), t_star=5)
    with pytest.raises(UserError, match="is a classifier, expected a denoiser"):
        make(weights.load("digits_classifier"), t_star=5)


def test_a_denoiser_of_continuous_time_is_told_so():
    net = trained_as(schedule="continuous_vp", timesteps=1000)
    for rule in (Sde("continuous"), Ode("continuous")):
        purifier = DiffPure(net, t_star=5, step_rule=rule)
        np.testing.assert_allclose(purifier.chain.labels[0], 999 * 5 / 1000)
        with pytest.raises(UserError, match="schedule=cosine.*leave schedule out"):
            DiffPure(net, t_star=5, step_rule=rule, schedule=Cosine())
    for rule in (Ddpm(), Ddim(), Sde("floor"), Ode("ceil")):
        with pytest.raises(UserError, match="labels=continuous"):
            DiffPure(net, t_star=5, step_rule=rule)


def test_a_class_conditional_denoiser_is_refused():
    spec = "image_size=8,channels=32,channel_mult=[1],num_res_blocks=1,attention_levels=[]"
    spec = f"guided_unet({spec},head_channels=16,num_classes=3)"
    architecture = specs.build(models.ARCHITECTURES, spec)
    with pytest.raises(UserError, match="class-conditional"):
        DiffPure(models.abstract(architecture), t_star=5)


def test_another_sampler_than_the_published_one_is_told(monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: said.append(text % args))
    net = trained_as(variance="fixed_small", clip=True)
    DiffPure(net, t_star=5, step_rule=Ddpm("fixed_small", clip=True))
    DiffPure(net, t_star=5, step_rule=Ddim())
    assert said == []
    RevPure(net, t_star=5)
    assert len(said) == 2
    assert "variance=fixed_small, the step rule ddpm has fixed_large" in said[0]
    assert "clip=true, the step rule ddpm has false" in said[1]


# Guidance.


@pytest.mark.parametrize("rule", [Ddpm(), Ddim(eta=0.5), Sde(), Ode()], ids=str)
def test_a_guide_is_added_to_the_mean_of_each_step(rule):
    """Against a loop that adds it by hand, and it is told where the chain is."""
    chain, key, x = make_chain(Linear(), rule, 3), jax.random.key(0), images()[0]

    def guide(x, step):
        level = step.signal_level**2 + step.noise_level**2  # one
        pull = step.variance * step.prediction + 0.01 * jnp.asarray(step.timestep, x.dtype)
        return level * pull - 0.1 * x

    got = jax.jit(lambda x: reverse(chain, DENOISER, key, x, guide))(x)
    states = jax.jit(lambda x: reverse_states(chain, DENOISER, key, x, guide))(x)
    np.testing.assert_array_equal(states[-1], got)
    labels, coefficients = rule.coefficients(Linear(), rule.timesteps(3))
    for i, t in enumerate(rule.timesteps(3)):
        c = {name: jnp.float32(value[i]) for name, value in coefficients.items()}
        prediction = toy(0.7, x, jnp.float32(labels[i]))
        pull = rule.noise_variance(c, x, prediction) * prediction + 0.01 * t
        x = rule.step(c, x, prediction, noise_at(key, t, x)) + pull - 0.1 * x
    np.testing.assert_allclose(got, x, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda x: reverse(chain, DENOISER, key, x, guide).sum())(x)
    assert bool(jnp.isfinite(gradient).all())


def test_a_steps_variance_is_that_of_its_noise():
    """The step's result is linear in its noise, by the root of this variance."""
    x, prediction = images()[0], toy(0.7, images()[0], 3.0)
    for rule in (Ddpm(), Ddpm("fixed_small"), Ddim(eta=1.0), Sde(), Ode()):
        _, table = rule.coefficients(Linear(), np.arange(9, -1, -1))
        c = {name: jnp.float32(value[2]) for name, value in table.items()}
        with_noise = rule.step(c, x, prediction, jnp.ones_like(x))
        spread = with_noise - rule.step(c, x, prediction, jnp.zeros_like(x))
        expected = jnp.broadcast_to(rule.noise_variance(c, x, prediction), x.shape)
        np.testing.assert_allclose(spread**2, expected, rtol=1e-3, atol=1e-9)
