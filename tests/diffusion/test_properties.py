"""What every registered step rule and schedule promises, whichever it is."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure import specs
from jaxpure.diffusion import SCHEDULES, STEP_RULES, Linear, make_chain, reverse

RULES = {
    "ddpm": "ddpm(variance=fixed_small,clip=true)",
    "ddim": "ddim(eta=0.5,num_steps=3,clip=true,rederive_noise=true)",
    "sde": "sde(labels=ceil,ends_at=0.0001)",
    "ode": "ode(labels=continuous)",
}
NOISE = {
    "linear": "linear(num_timesteps=500,beta_start=0.0002,beta_end=0.01)",
    "cosine": "cosine(num_timesteps=50,max_beta=0.9)",
}
"""A case with other options than the defaults for each that is registered."""


def kinds():
    for registry, cases in ((STEP_RULES, RULES), (SCHEDULES, NOISE)):
        yield from ((registry, name, text) for name, text in cases.items())


def test_every_registered_rule_and_schedule_has_a_case():
    assert set(RULES) == set(STEP_RULES) and set(NOISE) == set(SCHEDULES)
    STEP_RULES.check()
    SCHEDULES.check()


@pytest.mark.parametrize(("registry", "name", "text"), kinds())
def test_its_spec_builds_its_equal(registry, name, text):
    thing = specs.build(registry, text)
    assert specs.spec_of(thing, registry) == text
    assert specs.build(registry, text) == thing and hash(thing) == hash(thing)
    assert specs.build(registry, name) == registry[name]() != thing


@pytest.mark.parametrize("text", NOISE.values())
def test_schedules_lose_signal_step_by_step(text):
    schedule = specs.build(SCHEDULES, text)
    assert schedule.betas.shape == schedule.alphas_cumprod.shape
    assert len(schedule.betas) == schedule.num_timesteps
    assert np.all(np.diff(schedule.alphas_cumprod) < 0)
    assert schedule.alphas_cumprod.dtype == np.float64
    assert schedule.signal(np.array([-1, 0]))[0] == 1


@pytest.mark.parametrize("text", RULES.values())
def test_chains_are_random_exactly_where_the_rule_says_so(text):
    rule = specs.build(STEP_RULES, text)
    chain = make_chain(Linear(), rule, 4)
    x = jnp.linspace(-1, 1, 12).reshape(2, 2, 3)
    denoiser = jax.tree_util.Partial(lambda x, t: jnp.tanh(x + t / 1000))
    a, b = (jax.jit(reverse)(chain, denoiser, jax.random.key(k), x) for k in (0, 1))
    assert bool(jnp.any(a != b)) == rule.is_random
    with jax.disable_jit():
        plain = reverse(chain, denoiser, jax.random.key(0), x)
    chex.assert_trees_all_close(a, plain, rtol=1e-5, atol=1e-6)
    assert {"signal_level", "noise_level"} <= set(chain.coefficients)
    assert a.shape == x.shape and bool(jnp.isfinite(a).all())
