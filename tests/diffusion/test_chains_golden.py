"""The step rules and DiffPure against six implementations, state by state.

pesser's, guided-diffusion's and diffusers' samplers and DiffPure's runners were run on
an elementwise toy network with stored noise. Float64 is compared tightly: there nothing
but the formulas is left to differ. Float32 is compared as far as the references' own
float32 agrees with their float64.
"""

import dataclasses
import functools
import json
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import NoiseTable, nhwc

import jaxpure.diffusion.chain
import jaxpure.purifiers.diffpure
import jaxpure.purifiers.one_shot
from jaxpure import keys as jaxpure_keys
from jaxpure.diffusion import (
    Chain,
    Ddim,
    Ddpm,
    Linear,
    Ode,
    Sde,
    StepRule,
    add_noise,
    make_chain,
    mix,
    reverse,
)
from jaxpure.diffusion.steps import predicted_clean
from jaxpure.purifiers import DiffPure, OneShot


def predict(x, t):
    """The references' toy network; its constants are checked against each fixture."""
    return 0.9 * jnp.tanh(1.3 * x + 0.7 * t / 1000)


def predict_with_variance(x, t):
    value = 0.8 * jnp.cos(1.7 * x - 0.4 * t / 1000)
    return jnp.concatenate([predict(x, t), value], -1)


class Case(NamedTuple):
    """A stored run.

    Attributes:
      rule: the step rule that should make it.
      spacing: its timesteps: a number counts down from there to 0, a tuple is
        `(first, step)`, a name is one of guided-diffusion's maps.
      steps: how many of them, from the end; 0 means all.
    """

    rule: StepRule
    spacing: int | tuple[int, int] | str = 99
    steps: int = 0


LEARNED = Ddpm("learned_range", clip=True)

CASES = {
    "pesser_fixedlarge": Case(Ddpm("fixed_large", clip=True)),
    "pesser_fixedsmall": Case(Ddpm("fixed_small", clip=True)),
    "guided_p_250": Case(LEARNED, "250"),
    "guided_p_ddim25": Case(LEARNED, "ddim25"),
    "diffusers_ddpm_100spaced": Case(Ddpm("fixed_large", clip=True), (990, 10)),
    "diffusers_ddpm_last100of1000": Case(Ddpm("fixed_large", clip=True)),
    "diffusers_ddpm_small_last100of1000": Case(Ddpm("fixed_small", clip=True)),
    "diffusers_ddim_100spaced_eta0": Case(Ddim(clip=True), (990, 10)),
    "diffusers_ddim_100spaced_eta0.5": Case(Ddim(0.5, clip=True), (990, 10)),
    "diffusers_ddim_100spaced_eta0_clippedeps": Case(
        Ddim(clip=True, rederive_noise=True), (990, 10)
    ),
    "diffusers_ddim_last100of1000_eta0": Case(Ddim(clip=True)),
    "diffusers_ddim_last100of1000_eta0.5": Case(Ddim(0.5, clip=True)),
} | {
    f"guided_ddim_{spacing}_eta{eta}": Case(
        Ddim(eta, clip=True, rederive_noise=True), spacing, steps
    )
    for spacing, steps in (("250", 100), ("ddim25", 0))
    for eta in (0.0, 0.5)
}

PURIFIERS = {
    "diffpure_ddpm_fixedlarge": Ddpm("fixed_large"),
    "diffpure_ddpm_fixedsmall": Ddpm("fixed_small"),
    "diffpure_guided": LEARNED,
}


class Run(NamedTuple):
    """What the reference did, arrays `(..., H, W, C)` in the asked dtype."""

    meta: dict
    x: jax.Array
    noises: jax.Array
    out: np.ndarray
    mid: np.ndarray
    clean_mid: np.ndarray | None
    model_t: np.ndarray
    spread: dict


@pytest.fixture
def load(golden):
    """Reads a stored run in one precision."""

    def read(name, dtype):
        stored = golden(f"sampler_{name}")
        meta = json.loads(str(stored["meta"]))
        assert meta["toy"] == dict(a=0.9, b=1.3, c=0.7, p=0.8, q=1.7, r=-0.4)
        suffix = {"float32": "f32", "float64": "f64"}[dtype]
        key = f"x0_mid_{suffix}"
        return Run(
            meta,
            jnp.asarray(nhwc(stored["x_in"]), dtype),
            jnp.asarray(nhwc(stored["noises"]), dtype),
            nhwc(stored[f"x_out_{suffix}"]),
            nhwc(stored[f"x_mid_{suffix}"]),
            nhwc(stored[key]) if key in stored else None,
            stored[f"model_t_{suffix}"],
            json.loads(str(stored["spread"])),
        )

    return read


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def make_timesteps(case, golden):
    if isinstance(case.spacing, str):
        timesteps = golden("schedules")[f"spaced_{case.spacing}_map"][::-1]
    elif isinstance(case.spacing, tuple):
        first, step = case.spacing
        timesteps = np.arange(first, -1, -step)
    else:
        return case.rule.timesteps(case.spacing)
    return timesteps[-case.steps :]


@functools.partial(jax.jit, static_argnames="denoiser")
def trajectory(chain, denoiser, x, noises):
    """The state after each step, `(n, B, H, W, C)`, under the given noises."""

    def one(x, noises):
        def body(x, step):
            label, c, noise = step
            x = chain.rule.step(c, x, denoiser(x, label), noise)
            return x, x

        return jax.lax.scan(body, x, (*numbers(chain, x.dtype), noises))[1]

    return jax.vmap(one, (0, 1), 1)(x, noises)


def numbers(chain, dtype):
    """Labels and coefficients as `reverse` casts them."""
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), (chain.labels, chain.coefficients))


def at(k, tree):
    """The k-th entry of every leaf."""
    return jax.tree.map(lambda a: a[k], tree)


def check_states(run, states, dtype):
    """After 1 step, half of them, all but one, and all."""
    states = np.asarray(states)
    assert states.dtype == run.out.dtype
    tolerance = tolerance_of(run, dtype, "x_mid")
    for after, want in zip(run.meta["mid_after"], run.mid, strict=True):
        np.testing.assert_allclose(states[after - 1], want, rtol=0, atol=tolerance)
    tolerance = tolerance_of(run, dtype, "x_out")
    np.testing.assert_allclose(states[-1], run.out, rtol=0, atol=tolerance)


def tolerance_of(run, dtype, array):
    """In float32 ten times what the reference's own float32 differs from its float64."""
    return 1e-10 if dtype == "float64" else 10 * run.spread[array]["max_abs"]


def pad(noises, n):
    """With a noise for the steps that drew none: it has to be without effect."""
    missing = n - len(noises)
    return jnp.concatenate([noises, jnp.full((missing, *noises.shape[1:]), 7.0)])


@pytest.mark.parametrize("name", CASES)
def test_sampler(golden, load, name, dtype):
    case, run = CASES[name], load(name, dtype)
    timesteps = make_timesteps(case, golden)
    labels, coefficients = case.rule.coefficients(Linear(), timesteps)
    np.testing.assert_array_equal(labels, run.model_t)
    signal = np.ones(len(timesteps))  # no step looks at it
    chain = Chain(case.rule, timesteps.astype(np.int32), labels, signal, coefficients)
    denoiser = predict_with_variance if name.startswith("guided") else predict
    noises = pad(run.noises, len(chain))
    states = trajectory(chain, denoiser, run.x, noises)
    check_states(run, states, dtype)
    tolerance = tolerance_of(run, dtype, "x0_mid")
    for after, want in zip(run.meta["mid_after"], run.clean_mid, strict=True):
        x = run.x if after == 1 else states[after - 2]
        label, c = at(after - 1, numbers(chain, dtype))
        clean = predicted_clean(c, x, predict(x, label), case.rule.clip)
        np.testing.assert_allclose(clean, want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", PURIFIERS)
def test_diffpure_states(load, name, dtype):
    run = load(name, dtype)
    t_star = run.meta["t"]
    chain = make_chain(Linear(), PURIFIERS[name], t_star - 1)
    np.testing.assert_array_equal(chain.labels, run.model_t)
    x = add_noise(Linear().alphas_cumprod[t_star - 1], run.x, run.noises[0])
    denoiser = predict_with_variance if name == "diffpure_guided" else predict
    states = trajectory(chain, denoiser, x, run.noises[1:])
    check_states(run, states, dtype)


SDE_LABELS = {
    "diffpure_sde_score_sde": dict(float32="continuous", float64="continuous"),
    "diffpure_sde_guided_diffusion": dict(float32="ceil", float64="floor"),
}


def standard_noises(increments, chain, like):
    """Increments of Brownian motion as standard normal noise: `(n, B, H, W, C)`."""
    batch, height, width, channels = like.shape
    shape = (len(increments), batch, channels, height, width)
    lengths = chain.coefficients["length"].reshape(-1, 1, 1, 1, 1)
    noises = nhwc(increments.astype(np.float64).reshape(shape)) / np.sqrt(lengths)
    return jnp.asarray(noises, like.dtype)


@pytest.mark.parametrize("name", SDE_LABELS)
def test_sde(golden, load, name, dtype):
    run = load(name, dtype)
    chain = make_chain(Linear(), Sde(labels=SDE_LABELS[name][dtype]), 99)
    # 2e-3: what float32 times add up to. A shifted index would be off by one.
    slack = 2e-3 if dtype == "float32" and "score" in name else 1e-9
    np.testing.assert_allclose(chain.labels, run.model_t, rtol=0, atol=slack)
    noises = standard_noises(golden(f"sampler_{name}")["dW"], chain, run.x)
    x = add_noise(Linear().alphas_cumprod[99], run.x, run.noises[0])
    states = trajectory(chain, predict, x, noises)
    check_states(run, states, dtype)


@pytest.mark.parametrize(
    "name", ["diffpure_ode_score_sde", "diffpure_ode_guided_diffusion"]
)
def test_ode(load, name, dtype):
    run = load(name, dtype)
    chain = make_chain(Linear(), Ode(labels="continuous"), 99)
    if name == "diffpure_ode_score_sde":
        slack = 1e-4 if dtype == "float32" else 1e-9
        np.testing.assert_allclose(chain.labels, run.model_t, rtol=0, atol=slack)
    else:
        # The solver's rounded times make it ask for some indices twice and for others
        # never, in either precision: a rounding that is not reproduced here.
        chain = dataclasses.replace(chain, labels=run.model_t)
    x = add_noise(Linear().alphas_cumprod[99], run.x, run.noises[0])
    states = trajectory(chain, predict, x, jnp.full((100, *x.shape), jnp.nan))
    check_states(run, states, dtype)


@jax.jit
def call_with_noise(purifier, table, keys, x):
    """The purifier on each image, its draws looked up in the table."""

    def noise_at(key, index, like):
        assert table.noise.dtype == like.dtype
        return table(jax.random.fold_in(key, index))

    with (
        mock.patch.object(jaxpure.diffusion.chain, "noise_at", noise_at),
        mock.patch.object(jaxpure.purifiers.diffpure, "noise_at", noise_at),
        mock.patch.object(jaxpure.purifiers.one_shot, "noise_at", noise_at),
    ):
        return jax.vmap(lambda key, x: purifier(key, x))(keys, x)


def purify(purifier, x, draws):
    """Purifies images `(B, H, W, C)` in [-1, 1], each under its own key.

    `draws(key, b)` says what the purification of image b under this key should draw:
    the keys from which `noise_at` would make it, and the noise.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(len(x)))
    expected = [draws(keys[b], b) for b in range(len(x))]
    table = NoiseTable.create(
        jnp.concatenate([keys for keys, _ in expected]),
        np.concatenate([np.asarray(noise) for _, noise in expected]),
        x.dtype,
    )
    return 2 * call_with_noise(purifier, table, keys, (x + 1) / 2) - 1


def chain_keys(key, timesteps):
    """Keys of the forward noise and of the reverse steps, in the order of the run."""
    forward = jax.random.fold_in(jaxpure_keys.part(key, "forward"), 0)
    reverse_key = jax.random.fold_in(jaxpure_keys.part(key, "reverse"), 0)
    steps = jax.vmap(lambda t: jax.random.fold_in(reverse_key, t))(timesteps)
    return jnp.concatenate([forward[None], steps])


@pytest.mark.parametrize("name", PURIFIERS)
def test_whole_purifier(load, name, dtype):
    """DiffPure from image to image: ranges, noise by key and timestep, start, chain."""
    run = load(name, dtype)
    t_star = run.meta["t"]
    denoiser = predict_with_variance if name == "diffpure_guided" else predict
    purifier = DiffPure(
        jax.tree_util.Partial(denoiser), t_star=t_star, step_rule=PURIFIERS[name]
    )
    assert purifier.denoiser_evaluations == t_star

    def draws(key, b):
        keys = chain_keys(key, jnp.arange(t_star - 1, -1, -1))
        return keys, run.noises[:, b]

    purified = purify(purifier, run.x, draws)
    tolerance = tolerance_of(run, dtype, "x_out")
    np.testing.assert_allclose(purified, run.out, rtol=0, atol=tolerance)


def test_whole_purifier_by_the_sde(golden, load, dtype):
    name = "diffpure_sde_guided_diffusion"
    run = load(name, dtype)
    rule = Sde(labels=SDE_LABELS[name][dtype])
    purifier = DiffPure(jax.tree_util.Partial(predict), step_rule=rule)
    increments = golden(f"sampler_{name}")["dW"]
    noises = standard_noises(increments, purifier.chain, run.x)

    def draws(key, b):
        keys = chain_keys(key, jnp.arange(99, -1, -1))
        return keys, jnp.concatenate([run.noises[:1, b], noises[:, b]])

    purified = purify(purifier, run.x, draws)
    tolerance = tolerance_of(run, dtype, "x_out")
    np.testing.assert_allclose(purified, run.out, rtol=0, atol=tolerance)


def test_whole_purifier_by_the_ode(load, dtype):
    run = load("diffpure_ode_score_sde", dtype)
    rule = Ode(labels="continuous")
    purifier = DiffPure(jax.tree_util.Partial(predict), step_rule=rule)
    purified = purify(
        purifier, run.x, lambda key, b: (chain_keys(key, jnp.array([])), run.noises[:1, b])
    )
    tolerance = tolerance_of(run, dtype, "x_out")
    np.testing.assert_allclose(purified, run.out, rtol=0, atol=tolerance)


@pytest.fixture
def one_step(golden):
    """The stored single steps, one for each of a list of timesteps."""
    stored = golden("sampler_oneshot")
    return stored, json.loads(str(stored["meta"]))["t_list"]


def single_tolerance(stored, name, dtype):
    spread = json.loads(str(stored["spread"]))
    return 1e-10 if dtype == "float64" else 10 * spread[name]["max_abs"]


def test_one_step_of_prediction(one_step, dtype):
    """Predicted clean image, posterior mean and learned variance at every level."""
    stored, t_list = one_step
    suffix = "f64" if dtype == "float64" else "f32"
    # The whole chain: at timestep 0 the stored logarithm is that of timestep 1.
    _, coefficients = LEARNED.coefficients(Linear(), np.arange(999, -1, -1))
    for k, t in enumerate(t_list):
        c = {n: jnp.asarray(v[999 - t], dtype) for n, v in coefficients.items()}
        x = jnp.asarray(nhwc(stored["x_in"][k]), dtype)
        prediction = predict_with_variance(x, jnp.asarray(t, dtype))
        predicted_noise, learned = prediction[..., :3], prediction[..., 3:]
        for name, got in [
            ("x_out", predicted_clean(c, x, predicted_noise, clip=False)),
            ("x0_clipped", predicted_clean(c, x, predicted_noise, clip=True)),
            ("p_mean_clipped", LEARNED.step(c, x, prediction, jnp.zeros_like(x))),
            ("p_log_variance", LEARNED.log_variance(c, learned)),
        ]:
            np.testing.assert_allclose(
                got,
                nhwc(stored[f"{name}_{suffix}"][k]),
                rtol=0,
                atol=single_tolerance(stored, name, dtype),
                err_msg=f"{name} at {t}",
            )


def test_one_step_of_noising(one_step, dtype):
    stored, t_list = one_step
    suffix = "f64" if dtype == "float64" else "f32"
    exact = {"float32": 5e-7, "float64": 1e-10}[dtype]
    # In float32 `add_noise` takes the noise's share from the signal's: 2e-6 at timestep 0.
    rounded = {"float32": 5e-6, "float64": 1e-10}[dtype]
    x = jnp.asarray(nhwc(stored["q_x0"]), dtype)
    for k, t in enumerate(t_list):
        noise = jnp.asarray(nhwc(stored["noises"][k]), dtype)
        want = nhwc(stored[f"q_sample_{suffix}"][k])
        noised = mix(Linear().levels(t), x, noise)
        np.testing.assert_allclose(noised, want, rtol=0, atol=exact)
        noised = add_noise(Linear().alphas_cumprod[t], x, noise)
        np.testing.assert_allclose(noised, want, rtol=0, atol=rounded)


@pytest.mark.parametrize("clip", [False, True])
def test_one_shot_purifier(one_step, clip):
    """The image is chosen so that, noised, it is the state that the reference saw."""
    stored, t_list = one_step
    want = stored["x0_clipped_f64" if clip else "x_out_f64"]
    with jax.enable_x64(True):
        for k, t in enumerate(t_list):
            state = np.float64(nhwc(stored["x_in"][k]))
            noise = np.float64(nhwc(stored["noises"][k]))
            signal = Linear().alphas_cumprod[t]
            x = jnp.asarray((state - np.sqrt(1 - signal) * noise) / np.sqrt(signal))
            denoiser = jax.tree_util.Partial(predict_with_variance)
            purifier = OneShot(denoiser, t_star=t + 1, clip=clip)
            assert purifier.denoiser_evaluations == 1

            def draws(key, b, noise=noise):
                key = jax.random.fold_in(jaxpure_keys.part(key, "forward"), 0)
                return key[None], noise[b][None]

            purified = purify(purifier, x, draws)
            np.testing.assert_allclose(purified, nhwc(want[k]), rtol=1e-10, atol=1e-10)


RULES = [
    Ddpm(),
    Ddpm("learned_range", clip=True),
    Ddim(eta=1.0, num_steps=3),
    Sde(),
    Ode(labels="continuous"),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_reverse_is_the_loop_over_its_steps(rule):
    """With the noise of each timestep by its number; and so is its derivative."""
    with jax.enable_x64(True):
        chain = make_chain(Linear(), rule, 5)
        assert len(chain) == (3 if isinstance(rule, Ddim) else 6)
        x = jax.random.normal(jax.random.key(0), (4, 4, 3), jnp.float64)

        key, timesteps = jax.random.key(1), rule.timesteps(5)
        noises = [jaxpure_keys.noise_at(key, int(t), x) for t in timesteps]
        steps = jax.tree.map(jnp.asarray, rule.coefficients(Linear(), timesteps))

        def loop(x):
            for k, noise in enumerate(noises):
                label, c = at(k, steps)
                x = rule.step(c, x, predict_with_variance(x, label), noise)
            return x

        def scan(x):
            return reverse(chain, predict_with_variance, key, x)

        def both(f):
            def value_and_gradient(x):
                y, vjp = jax.vjp(f, x)
                return y, vjp(2 * y)[0]

            return jax.jit(value_and_gradient)

        want, got = both(loop)(x), both(scan)(x)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11),
            got,
            want,
        )
