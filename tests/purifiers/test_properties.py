"""What every registered purifier promises, whichever it is."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure import specs
from jaxpure.errors import UserError
from jaxpure.keys import PartKeys
from jaxpure.purifiers import PURIFIERS
from tests.purifiers.cases import CASES, SHAPE, SIDES, images, keys, make, toy

every_case = pytest.mark.parametrize("case", SIDES)
traces = []


@jax.jit
def purified(purifier, key, x):
    traces.append(purifier)
    return purifier(key, x)


def parts_of(purifier):
    return getattr(purifier, "noise_parts", ())


def test_every_registered_purifier_has_a_case():
    assert set(CASES) == set(PURIFIERS)
    assert all(case.name == name for name, case in CASES.items())
    PURIFIERS.check()


@every_case
def test_compiled_batched_and_plain_agree(case):
    purifier, x = make(case), images(2)
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
    purifier, x = make(case), images()[0]
    a, b, c = (jax.random.key(seed) for seed in range(3))
    first = purified(purifier, a, x)
    chex.assert_trees_all_equal(first, purified(purifier, a, x))
    parts = parts_of(purifier)

    def under(**changed):
        return purified(purifier, PartKeys(c, dict.fromkeys(parts, a) | changed), x)

    chex.assert_trees_all_equal(under(), first)
    assert np.any(np.asarray(first != purified(purifier, b, x))) == bool(parts)
    for name in parts:
        assert np.any(np.asarray(under(**{name: b}) != first))


@every_case
def test_cost_is_the_number_of_calls_of_the_denoiser(case):
    """Counted where it runs, and what it is told first."""
    told = []

    def counting(x, t):
        jax.debug.callback(lambda t: told.append(float(t)), t)
        return toy(0.7, x, t)

    purifier = make(case, jax.tree_util.Partial(counting))
    jax.block_until_ready(jax.jit(lambda k, x: purifier(k, x))(keys()[0], images()[0]))
    jax.effects_barrier()
    assert len(told) == purifier.denoiser_evaluations == SIDES[case].calls
    assert max(told, default=-1) == SIDES[case].first


@every_case
def test_changed_numbers_do_not_compile_anew(case):
    x, key = images()[0], keys()[0]
    weak = purified(make(case), key, x)
    before = len(traces)
    strong = purified(make(case, jax.tree_util.Partial(toy, 0.9)), key, x)
    assert len(traces) == before
    assert np.any(np.asarray(weak != strong)) == (SIDES[case].calls > 0)


@every_case
def test_gradients_are_finite_and_of_the_image(case):
    purifier, x, key = make(case), images()[0], keys()[0]
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(purifier(key, x) ** 2)))(x)
    assert gradient.shape == x.shape and bool(jnp.isfinite(gradient).all())
    assert bool(jnp.any(gradient != 0))


@every_case
def test_its_spec_builds_its_equal(case):
    purifier, x, key = make(case), images()[0], keys()[0]
    text = specs.spec_of(purifier, PURIFIERS)
    assert text == (SIDES[case].written or SIDES[case].spec)
    again = specs.build(PURIFIERS, text, denoiser=purifier_denoiser())
    assert jax.tree.structure(again) == jax.tree.structure(purifier)
    chex.assert_trees_all_equal(purified(again, key, x), purified(purifier, key, x))


def purifier_denoiser():
    return jax.tree_util.Partial(toy, 0.7)


@pytest.mark.parametrize("name", PURIFIERS)
def test_defaults_are_the_signatures(name):
    """A spec without options is the constructor called without."""
    if name == "resized":  # has none
        with pytest.raises(UserError, match="resized needs purifier, image_size"):
            specs.build(PURIFIERS, name)
        return
    constructor = PURIFIERS[name]
    takes = inspect.signature(constructor).parameters
    given = {"denoiser": purifier_denoiser()} if "denoiser" in takes else {}
    plain, built = constructor(**given), specs.build(PURIFIERS, name, **given)
    assert jax.tree.structure(plain) == jax.tree.structure(built)
    chex.assert_trees_all_equal(jax.tree.leaves(plain), jax.tree.leaves(built))


BAD = [
    ("t_star", "0", "t_star=0"),
    ("t_star", "-3", "t_star=-3"),
    ("t_star", "1001", "timestep 1000, but there are timesteps below 1000 alone"),
    ("t_star", "five", "t_star=five, expected a whole number"),
    ("start", "t_star_minus_2", "start: unknown value 't_star_minus_2'; known: t_star_m"),
    ("schedule", "cosin", "Did you mean 'cosine'"),
    ("step_rule", "ddpn", "Did you mean 'dd"),
    ("step_rule", "ddim(num_steps=6)", "num_steps=6, expected 1 to 5"),
    ("rounds", "0", "rounds=0"),
    ("num_steps", "6", "num_steps=6.*1 to 5"),
    ("num_steps", "-1", "num_steps=-1"),
    ("eta", "1.5", "eta=1.5"),
    ("image_size", "0", "image_size=0"),
]


@pytest.mark.parametrize(
    ("name", "option", "value", "culprit"),
    [
        (name, *bad)
        for name, constructor in PURIFIERS.items()
        for bad in BAD
        if bad[0] in inspect.signature(constructor).parameters
    ],
)
def test_bad_options_are_named(name, option, value, culprit):
    spec = specs.set_option(PURIFIERS, CASES[name].spec, [option], value)
    with pytest.raises(UserError, match=culprit):
        specs.build(PURIFIERS, spec, denoiser=purifier_denoiser())
