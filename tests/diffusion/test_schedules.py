"""Schedules and the numbers that the step rules make of them.

Against guided-diffusion's float64 tables, the float32 products that diffusers and
DiffPure use, published formulas, and values computed once by hand.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure import specs
from jaxpure.diffusion import (
    SCHEDULES,
    STEP_RULES,
    ContinuousVp,
    Cosine,
    Ddim,
    Ddpm,
    Linear,
    Ode,
    Schedule,
    Sde,
    make_chain,
)
from jaxpure.errors import UserError

ALL = np.arange(999, -1, -1)
SPACINGS = ("250", "50", "10,20,30", "ddim25", "ddim50")

# alphas_cumprod[t - 1] of the linear schedule, and the continuous one's at t / 1000.
LEVELS = [
    (10, 0.998105, 0.998007),
    (50, 0.971016, 0.970567),
    (75, 0.939121, 0.938503),
    (100, 0.897018, 0.896282),
    (125, 0.846180, 0.845380),
    (150, 0.788321, 0.787513),
    (200, 0.659039, 0.658362),
    (500, 0.078587, 0.079064),
]


def ascending(coefficients):
    return {name: values[::-1] for name, values in coefficients.items()}


def test_linear_betas_are_guided_diffusions(golden):
    tables = golden("schedules")
    schedule = Linear()
    assert schedule.num_timesteps == 1000
    assert schedule.betas.dtype == schedule.alphas_cumprod.dtype == np.float64
    # The tables hold 1 - (1 - beta), hence no closer than 1e-16 of one.
    np.testing.assert_allclose(schedule.betas, tables["guided_betas"], rtol=0, atol=2e-16)
    np.testing.assert_allclose(
        schedule.alphas_cumprod, tables["guided_alphas_cumprod"], rtol=1e-14
    )
    np.testing.assert_allclose(
        schedule.signal(np.arange(-1, 999)),
        tables["guided_alphas_cumprod_prev"],
        rtol=1e-14,
    )


@pytest.mark.parametrize("t, discrete, _", LEVELS)
def test_linear_signal_at_the_ends_in_use(t, discrete, _):
    signal = Linear().alphas_cumprod
    assert signal[t - 1] == pytest.approx(discrete, abs=5e-7)


@pytest.mark.parametrize("t, _, continuous", LEVELS)
def test_continuous_signal_at_the_ends_in_use(t, _, continuous):
    signal = ContinuousVp().alphas_cumprod(np.float64(t / 1000))
    assert signal == pytest.approx(continuous, abs=5e-7)


def test_continuous_signal_is_the_integral_of_beta():
    vp = ContinuousVp()
    times = np.linspace(0, 1, 200_001)
    betas = vp.beta(times)
    assert betas[0] == 0.1 and betas[-1] == pytest.approx(20)
    integral = np.cumsum((betas[1:] + betas[:-1]) / 2) * times[1]
    np.testing.assert_allclose(vp.alphas_cumprod(times[1:]), np.exp(-integral), rtol=1e-9)
    assert vp.alphas_cumprod(np.float64(0)) == 1


def test_continuous_and_discrete_signals_stay_close():
    vp, signal = ContinuousVp(), Linear().alphas_cumprod
    times = (np.arange(1000) + 1) / 1000
    assert np.max(np.abs(vp.alphas_cumprod(times) - signal)) < 2e-3


@pytest.mark.parametrize(
    "name",
    ["diffusers_alphas_cumprod_f32", "diffpure_ddpm_a_f32", "diffpure_sde_a_f32"],
)
def test_the_others_products_are_these_in_float32(golden, name):
    theirs = golden("schedules")[name]
    assert theirs.dtype == np.float32
    np.testing.assert_allclose(Linear().alphas_cumprod, theirs, rtol=1e-4, atol=1e-8)


def test_ancestral_coefficients_are_guided_diffusions(golden):
    tables = golden("schedules")
    labels, c = Ddpm().coefficients(Linear(), ALL)
    c = ascending(c)
    np.testing.assert_array_equal(labels, ALL)
    posterior = np.exp(c["log_small"][1:])
    for ours, name in [
        (np.exp(c["log_large"]), "betas"),
        (1 / c["signal_level"], "sqrt_recip_alphas_cumprod"),
        (c["noise_level"] / c["signal_level"], "sqrt_recipm1_alphas_cumprod"),
        (c["clean_weight"], "posterior_mean_coef1"),
        (c["x_weight"], "posterior_mean_coef2"),
        (c["log_small"], "posterior_log_variance_clipped"),
        (np.append(0.0, posterior), "posterior_variance"),
    ]:
        want = tables[f"guided_{name}"]
        np.testing.assert_allclose(ours, want, rtol=1e-11, err_msg=name)
    np.testing.assert_array_equal(c["draws"], [0.0] + [1.0] * 999)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_ancestral_variance_of_fewer_timesteps(golden, spacing):
    tables = golden("schedules")
    timesteps = tables[f"spaced_{spacing}_map"][::-1]
    labels, c = Ddpm().coefficients(Linear(), timesteps)
    np.testing.assert_array_equal(labels, timesteps)
    want = tables[f"spaced_{spacing}_betas"]
    np.testing.assert_allclose(np.exp(ascending(c)["log_large"]), want, rtol=1e-11)


def test_float64_is_needed_for_the_first_timestep():
    """In float32 `1 - alphas_cumprod[0]` is off by 2e-4 of itself, as documented."""
    schedule = Linear()
    exact = schedule.betas[0]
    assert 1 - schedule.alphas_cumprod[0] == pytest.approx(exact, rel=1e-11)
    narrow = 1 - np.float32(schedule.alphas_cumprod[0])
    assert abs(narrow / exact - 1) > 1e-4
    _, c = Ddpm().coefficients(schedule, ALL)
    assert c["noise_level"][-1] == pytest.approx(math.sqrt(1e-4), rel=1e-11)


def test_implicit_coefficients_at_eta_one_have_the_posteriors_variance():
    timesteps = np.arange(200, -1, -5)
    _, implicit = Ddim(eta=1.0).coefficients(Linear(), timesteps)
    _, ancestral = Ddpm().coefficients(Linear(), timesteps)
    np.testing.assert_allclose(
        implicit["sigma"][:-1] ** 2, np.exp(ancestral["log_small"][:-1]), rtol=1e-11
    )
    assert implicit["sigma"][-1] == implicit["noise_weight"][-1] == 0
    assert implicit["clean_weight"][-1] == 1


@pytest.mark.parametrize("num_timesteps", [100, 250, 1000, 4000])
def test_linear_keeps_the_total_noise(num_timesteps):
    schedule = Linear(num_timesteps)
    assert schedule.num_timesteps == num_timesteps
    scale = 1000 / num_timesteps
    assert schedule.betas[0] == pytest.approx(1e-4 * scale)
    assert schedule.betas[-1] == pytest.approx(2e-2 * scale)
    total = math.log(schedule.alphas_cumprod[-1])
    assert total == pytest.approx(math.log(Linear().alphas_cumprod[-1]), rel=0.15)


@pytest.mark.parametrize("num_timesteps", [50, 1000, 4000])
def test_cosine_is_its_formula(num_timesteps):
    schedule = Cosine(num_timesteps)
    assert schedule.num_timesteps == num_timesteps
    times = np.arange(num_timesteps + 1) / num_timesteps
    signal = np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2
    signal /= signal[0]
    # The last beta is capped, so the last product is not the formula's.
    np.testing.assert_allclose(schedule.alphas_cumprod[:-1], signal[1:-1], rtol=1e-9)
    assert schedule.betas[-1] == 0.999
    assert np.max(Cosine(num_timesteps, max_beta=0.5).betas) == 0.5


def test_continuous_grid_counts_whole_thousandths():
    for rule in (Sde(), Ode()):
        labels, c = rule.coefficients(Linear(), rule.timesteps(99))
        np.testing.assert_array_equal(labels, np.arange(99, -1, -1))
        np.testing.assert_allclose(c["length"][:-1], 1e-3, rtol=1e-12)
        assert c["length"][-1] == pytest.approx(1e-3 - 1e-5, rel=1e-12)
        times = np.arange(100, 0, -1) / 1000
        np.testing.assert_allclose(c["beta"], 0.1 + 19.9 * times, rtol=1e-14)
        signal = np.exp(-9.95 * times**2 - 0.1 * times)
        np.testing.assert_allclose(c["noise_level"], np.sqrt(1 - signal), rtol=1e-12)
    _, c = Sde().coefficients(Linear(), Sde().timesteps(99))
    np.testing.assert_allclose(c["diffusion"], np.sqrt(c["beta"] * c["length"]), rtol=1e-14)


@pytest.mark.parametrize("rule", [Sde, Ode])
def test_labels_of_the_continuous_rules(rule):
    timesteps = np.arange(99, -1, -1)
    told = {
        labels: rule(labels=labels).coefficients(Linear(), timesteps)[0]
        for labels in ("ceil", "floor", "continuous")
    }
    np.testing.assert_array_equal(told["ceil"], np.arange(100, 0, -1))
    np.testing.assert_array_equal(told["floor"], np.arange(99, -1, -1))
    np.testing.assert_allclose(
        told["continuous"], 0.999 * np.arange(100, 0, -1), rtol=1e-13
    )


@pytest.mark.parametrize("num_steps", [1, 2, 3, 10, 33, 99, 100])
def test_implicit_timesteps_are_spread_evenly(num_steps):
    timesteps = Ddim(num_steps=num_steps).timesteps(99)
    assert len(timesteps) == num_steps
    assert timesteps[0] == 99
    gaps = -np.diff(np.append(timesteps, -1))
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_implicit_takes_all_timesteps_by_default():
    np.testing.assert_array_equal(Ddim().timesteps(99), np.arange(99, -1, -1))


@pytest.mark.parametrize("name", STEP_RULES)
@pytest.mark.parametrize("start", [0, 1, 99, 999])
def test_chains_have_finite_numbers_for_every_step(name, start):
    chain = make_chain(Linear(), STEP_RULES[name](), start)
    assert len(chain) == start + 1
    assert chain.noise_index.dtype == np.int32
    assert f"{start + 1} steps" in repr(chain)
    for leaf in jax.tree.leaves((chain.labels, chain.coefficients)):
        assert leaf.shape == (start + 1,)
        assert np.isfinite(leaf).all()


def test_registry_makes_schedules():
    for make in SCHEDULES.values():
        assert make().num_timesteps == 1000


@dataclass(frozen=True)
class Given(Schedule):
    """Betas that are options themselves: what a schedule of one's own may look like."""

    betas_given: tuple[float, ...]
    dtype: str = "float64"

    @property
    def num_timesteps(self):
        return len(self.betas_given)

    def make_betas(self):
        return np.array(self.betas_given, self.dtype)


@pytest.mark.parametrize(
    "schedule",
    [
        Given((0.1, 0.0)),
        Given((0.1, 1.0)),
        Given((-0.1, 0.5)),
        Given((0.1, math.nan)),
        Given((0.1, 0.2), "float32"),
    ],
    ids=["zero", "one", "negative", "nan", "float32"],
)
def test_bad_betas_are_refused(schedule):
    with pytest.raises(UserError, match="0 < beta < 1"):
        _ = schedule.alphas_cumprod


def test_a_schedule_of_ones_own_makes_a_chain():
    schedule = Given((0.1, 0.2, 0.3))
    np.testing.assert_allclose(schedule.alphas_cumprod, [0.9, 0.72, 0.504], rtol=1e-12)
    assert len(make_chain(schedule, Ddpm(), 2)) == 3


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: Linear(0), "num_timesteps=0"),
        (lambda: Linear(beta_start=0.0), "beta_start=0.0"),
        (lambda: Linear(beta_end=1.5), "beta_end=1.5"),
        (lambda: Linear(beta_end=math.nan), "beta_end=nan"),
        (lambda: Cosine(-1), "num_timesteps=-1"),
        (lambda: Cosine(max_beta=1.0), "max_beta=1.0"),
    ],
)
def test_bad_options_of_schedules_are_named(make, option):
    with pytest.raises(UserError, match=option):
        make()


def test_equal_options_make_equal_schedules():
    assert Cosine(4000) == specs.build(SCHEDULES, "cosine(4000,max_beta=0.999)")
    assert Linear() == Linear(1000, 1e-4, 2e-2) != Linear(999)
    assert len({Linear(), Linear(1000), Cosine(), Cosine(1000)}) == 2


def test_tables_are_made_once_and_cannot_be_changed():
    assert Linear().betas is Linear(1000).betas
    with pytest.raises(ValueError, match="read-only"):
        Linear().alphas_cumprod[0] = 1.0


@pytest.mark.parametrize("t", [0, 1, 49, 999])
def test_levels_are_those_of_float64(t):
    signal, noise = Linear().levels(t)
    share = np.longdouble(Linear().alphas_cumprod[t])
    assert signal == pytest.approx(float(np.sqrt(share)), rel=1e-15)
    assert noise == pytest.approx(float(np.sqrt(1 - share)), rel=1e-15)


@pytest.mark.parametrize("rule", [Sde, Ode])
@pytest.mark.parametrize("schedule", [Cosine(), Linear(999)], ids=str)
def test_the_continuous_rules_refuse_another_schedule(rule, schedule):
    with pytest.raises(UserError, match="use ddpm or ddim"):
        make_chain(schedule, rule(), 9)


@pytest.mark.parametrize("start", [-1, 1000])
def test_chains_outside_the_schedule_are_refused(start):
    with pytest.raises(ValueError, match="0 to 999"):
        make_chain(Linear(), Ddpm(), start)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="fixed_large, fixed_small, learned_range"):
        Ddpm(variance="fixed")
    for rule in (Sde, Ode):
        with pytest.raises(ValueError, match="ceil, floor, continuous"):
            rule(labels="round")
    with pytest.raises(UserError, match="num_steps=-1"):
        Ddim(num_steps=-1)
    with pytest.raises(UserError, match="1 to 100"):
        make_chain(Linear(), Ddim(num_steps=101), 99)


@pytest.mark.parametrize("name", STEP_RULES)
def test_predictions_of_other_channels_are_refused(name):
    rule = STEP_RULES[name]()
    _, c = rule.coefficients(Linear(), np.array([5]))
    c = {k: jnp.asarray(v[0]) for k, v in c.items()}
    x = jnp.zeros((2, 2, 3))
    with pytest.raises(ValueError, match="returned 4 channels"):
        rule.step(c, x, jnp.zeros((2, 2, 4)), x)


def test_learned_variance_needs_a_second_head():
    rule = Ddpm(variance="learned_range")
    _, c = rule.coefficients(Linear(), np.array([5]))
    x = jnp.zeros((2, 2, 3))
    with pytest.raises(ValueError, match="twice the image's channels"):
        rule.step({k: jnp.asarray(v[0]) for k, v in c.items()}, x, x, x)
