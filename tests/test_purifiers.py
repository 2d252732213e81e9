"""All purifiers of the registry alike, what they promise and what they cost; and the
reverse chains against the truth, for data whose best denoiser is known in closed form.
"""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxpure.randomness import PartKeys, noise_at, part

from jaxpure.defense import PurifiedClassifier, denoiser_evaluations, noise_parts
from jaxpure.diffusion import (
    ContinuousVp,
    Ddim,
    Ddpm,
    Ode,
    Sde,
    add_noise,
    cosine,
    linear,
    make_chain,
    reverse,
)
from jaxpure.purifiers import REGISTRY, Resized

SHAPE = (3, 2, 2)
T_STAR = 5
SCHEDULE = linear(100)

CASES = {name: (name, {}) for name in REGISTRY} | {
    "diffpure, 2 rounds": ("diffpure", {"rounds": 2}),
    "diffpure, sde": ("diffpure", {"step_rule": Sde()}),
    "diffpure, fixed small": ("diffpure", {"step_rule": Ddpm("fixed_small", clip=True)}),
    "diffpure, t_star": ("diffpure", {"start": "t_star"}),
    "revpure, scaled": ("revpure", {"scale_input": True}),
    "revpure, ode": ("revpure", {"step_rule": Ode()}),
    "ddim, few steps": ("ddim", {"num_steps": 2, "eta": 1.0}),
}


def toy(a, x, t):
    return a * jnp.tanh(x + t / 1000)


DENOISER = jax.tree_util.Partial(toy, 0.7)


def build(case, denoiser=DENOISER, **changes):
    """A registry's entry with those of the usual arguments that it takes."""
    name, options = CASES[case]
    entry = REGISTRY[name]
    usual = {"denoiser": denoiser, "schedule": SCHEDULE, "t_star": T_STAR}
    taken = inspect.signature(entry).parameters
    arguments = {k: v for k, v in usual.items() if k in taken}
    return entry(**(arguments | options | changes))


def takes(case, name):
    return name in inspect.signature(REGISTRY[CASES[case][0]]).parameters


def images(n=4):
    return jnp.asarray(np.random.default_rng(0).random((n, *SHAPE), dtype=np.float32))


def keys(n=4, seed=0):
    return jax.random.split(jax.random.key(seed), n)


traces = []


@jax.jit
def purified(purifier, key, x):
    traces.append(purifier)
    return purifier(key, x)


every_case = pytest.mark.parametrize("case", CASES)


@every_case
def test_compiled_batched_and_plain_agree(case):
    purifier, x = build(case), images(2)
    alone = jnp.stack([purified(purifier, k, x[i]) for i, k in enumerate(keys(2))])
    batch = jax.jit(jax.vmap(purified, (None, 0, 0)))(purifier, keys(2), x)
    chex.assert_trees_all_close(batch, alone, rtol=1e-5, atol=1e-6)
    with jax.disable_jit():
        plain = purifier(keys(2)[1], x[1])
    chex.assert_trees_all_close(alone[1], plain, rtol=1e-5, atol=1e-6)
    assert plain.shape == SHAPE and plain.dtype == x.dtype


@every_case
def test_randomness_is_the_keys_and_only_in_the_declared_parts(case):
    """A declared part's key changes the image, and nothing else than these does."""
    purifier, x = build(case), images()[0]
    a, b, c = (jax.random.key(seed) for seed in range(3))
    first = purified(purifier, a, x)
    chex.assert_trees_all_equal(first, purified(purifier, a, x))
    parts = noise_parts(purifier)

    def under(**changed):
        return purified(purifier, PartKeys(c, dict.fromkeys(parts, a) | changed), x)

    chex.assert_trees_all_equal(under(), first)
    assert np.any(np.asarray(first != purified(purifier, b, x))) == bool(parts)
    for name in parts:
        assert np.any(np.asarray(under(**{name: b}) != first))


@every_case
def test_cost_is_the_number_of_calls_of_the_denoiser(case):
    """Counted where it runs, and what it is told: timesteps downwards, every round."""
    told = []

    def counting(x, t):
        jax.debug.callback(lambda t: told.append(float(t)), t)
        return toy(0.7, x, t)

    purifier = build(case, jax.tree_util.Partial(counting))
    jax.block_until_ready(jax.jit(lambda k, x: purifier(k, x))(keys()[0], images()[0]))
    jax.effects_barrier()
    assert len(told) == denoiser_evaluations(purifier)
    if told:
        first = T_STAR if CASES[case][1].get("start") == "t_star" else T_STAR - 1
        assert max(told) == first
        rounds = CASES[case][1].get("rounds", 1)
        assert all(told.count(t) == rounds for t in told)
        assert len(told) in (1, rounds * 2, rounds * (first + 1))


@every_case
def test_a_purifier_is_a_pytree_of_its_own_numbers(case):
    """It passes through jit as an argument: changed numbers do not compile anew."""
    x, key = images()[0], keys()[0]
    weak = purified(build(case), key, x)
    before = len(traces)
    strong = purified(build(case, jax.tree_util.Partial(toy, 0.9)), key, x)
    assert len(traces) == before
    assert np.any(np.asarray(weak != strong)) == takes(case, "denoiser")


BAD = [
    ("t_star", 0, "t_star=0"),
    ("t_star", -3, "t_star=-3"),
    ("t_star", 101, "10[01]"),
    ("start", "t_star_minus_2", "start='t_star_minus_2'.*t_star_minus_1, t_star"),
    ("rounds", 0, "rounds=0"),
    ("num_steps", T_STAR + 1, f"num_steps={T_STAR + 1}.*1 to {T_STAR}"),
    ("num_steps", -1, "num_steps=-1"),
]


@pytest.mark.parametrize(
    ("case", "option", "value", "culprit"),
    [(case, *bad) for case in REGISTRY for bad in BAD if takes(case, bad[0])],
)
def test_bad_arguments_are_named(case, option, value, culprit):
    with pytest.raises(ValueError, match=culprit):
        build(case, **{option: value})


def test_bad_rules_are_named():
    with pytest.raises(ValueError, match="variance='huge'.*fixed_small"):
        Ddpm("huge")
    for rule in (Sde, Ode):
        with pytest.raises(ValueError, match="labels='round'.*'floor'"):
            rule(labels="round")


@pytest.mark.parametrize("rule", [Ddpm(), Ddim(), Sde(), Ode()])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_denoiser_of_another_image_is_refused(rule, channels):
    denoiser = jax.tree_util.Partial(lambda x, t: jnp.zeros((3, 2, channels)))
    chain = make_chain(SCHEDULE, rule, 3)
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
            purified(build("diffpure", net, step_rule=Ddpm(rule)), key, x)
            for net, rule in (
                (with_variance(value), "learned_range"),
                (with_variance(value), variance),  # ignores the second half
                (DENOISER, variance),
            )
        ]
        chex.assert_trees_all_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("start", "first"), [("t_star_minus_1", 4), ("t_star", 5)])
@pytest.mark.parametrize("name", ["diffpure", "revpure", "one_shot"])
def test_where_a_purification_starts(name, start, first):
    """The noise level and the number of steps that `t_star` means."""
    purifier = build(name, start=start)
    signal = SCHEDULE.alphas_cumprod[first]
    if name == "one_shot":
        assert float(purifier.label) == first
    else:
        np.testing.assert_array_equal(purifier.chain.noise_index, range(first, -1, -1))
        assert denoiser_evaluations(purifier) == first + 1
    if name != "revpure":
        assert purifier.signal == signal
    assert build("revpure", start=start, scale_input=True).scale == signal**0.5


def test_noising_is_the_forward_process():
    """DiffPure with a denoiser that predicts the very noise gives the image back."""
    x, key = images()[0], keys()[0]
    noise = noise_at(part(key, "forward"), 0, x)
    noised = add_noise(SCHEDULE.alphas_cumprod[T_STAR - 1], 2 * x - 1, noise)

    def oracle(x, t):
        np.testing.assert_array_equal(t, T_STAR - 1)
        np.testing.assert_allclose(x, noised, rtol=1e-6)
        return noise

    chex.assert_trees_all_close(
        build("one_shot", jax.tree_util.Partial(oracle))(key, x), x, atol=1e-5
    )


def test_rounds_are_purifications_in_a_row_under_their_own_noise():
    x, key = images()[0], keys()[0]
    once, twice = build("diffpure"), build("diffpure", rounds=2)
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
    chain = build("revpure").chain
    round_key = jax.random.fold_in(part(key, "reverse"), 0)
    for scaled, factor in (
        (False, 1.0),
        (True, SCHEDULE.alphas_cumprod[T_STAR - 1] ** 0.5),
    ):
        expected = reverse(chain, DENOISER, round_key, jnp.float32(factor) * (2 * x - 1))
        purifier = build("revpure", scale_input=scaled)
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
    inner = build("diffpure")
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
    assert float(jnp.min(build("one_shot", far)(key, x))) == 0.0
    assert float(jnp.min(build("one_shot", far, clip=False)(key, x))) < 0.0


def test_a_defense_classifies_the_purified_image():
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(3, 12)), jnp.float32)
    classifier = jax.tree_util.Partial(lambda w, x: w @ x.ravel(), weights)
    purifier, x, key = build("diffpure"), images()[0], keys()[0]
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
    return sampled(rule, spread, linear(), 999)


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
    samples = sampled(Ddpm("fixed_large"), 1.0, linear(50), 49)
    assert_distribution(samples, MEAN, 1.0)


def test_ddpm_with_the_small_variance_is_exact_for_a_single_image():
    samples = sampled(Ddpm("fixed_small"), 0.0, linear(50), 49)
    np.testing.assert_allclose(samples, MEAN, atol=1e-4)


@pytest.mark.parametrize("start", [99, 399])
@pytest.mark.parametrize("schedule", [linear, cosine])
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


@pytest.mark.parametrize("bad", [-1, 1000])
def test_a_chain_starts_within_its_schedule(bad):
    with pytest.raises(ValueError, match=f"timestep {bad}; expected 0 to 999"):
        make_chain(linear(), Ddpm(), bad)


def test_few_ddim_steps_are_spread_over_the_chain():
    chain = make_chain(SCHEDULE, Ddim(num_steps=4), 9)
    steps = np.asarray(chain.noise_index)
    assert steps[0] == 9 and len(chain) == 4
    gaps = -np.diff(np.append(steps, -1))
    assert np.all(gaps > 0) and np.ptp(gaps) <= 1
