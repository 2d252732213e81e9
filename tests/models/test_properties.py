"""What every registered architecture promises, whichever it is."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxpure import models, specs, weights
from jaxpure.errors import UserError
from jaxpure.models import ARCHITECTURES
from jaxpure.models import network as network_of_models
from tests.models.cases import CASES, filled

every_case = pytest.mark.parametrize("name", CASES)


@functools.cache
def network(name):
    return filled(specs.build(ARCHITECTURES, CASES[name]))


def inputs(net, n=2):
    shape = (n, *net.architecture.input_shape)
    x = jnp.asarray(np.random.default_rng(0).random(shape, dtype=np.float32))
    return (x,) if models.is_classifier(net) else (x, jnp.arange(1.0, n + 1.0))


call = jax.jit(lambda net, *args: net(*args))


def test_every_registered_architecture_has_a_case():
    assert set(CASES) == set(ARCHITECTURES)
    ARCHITECTURES.check()


@every_case
def test_its_spec_builds_its_equal(name):
    architecture = network(name).architecture
    text = specs.spec_of(architecture, ARCHITECTURES)
    assert text == CASES[name]
    assert specs.build(ARCHITECTURES, text) == architecture
    assert hash(specs.build(ARCHITECTURES, text)) == hash(architecture)
    assert specs.build(ARCHITECTURES, name) == ARCHITECTURES[name]()


@every_case
def test_it_is_a_classifier_or_a_denoiser(name):
    net = network(name)
    assert models.is_classifier(net) != models.is_denoiser(net)
    (x, *t) = inputs(net)
    out = call(net, x, *t)
    if models.is_classifier(net):
        assert out.shape == (2, net.architecture.num_classes)
    else:
        assert out.shape[:-1] == x.shape[:-1]
        assert out.shape[-1] in (x.shape[-1], 2 * x.shape[-1])
    assert out.dtype == x.dtype and bool(jnp.isfinite(out).all())


@every_case
def test_a_batch_is_its_images(name):
    net = network(name)
    args = inputs(net)
    batch = call(net, *args)
    mapped = jax.jit(jax.vmap(lambda net, *args: net(*args), (None, *(0,) * len(args))))(
        net, *args
    )
    chex.assert_trees_all_close(batch, mapped, rtol=1e-4, atol=1e-5)


@every_case
def test_derivatives_of_both_modes_agree(name):
    """<v, J u> taken forwards and backwards."""
    net = network(name)
    args = [a[0] for a in inputs(net)]

    def at(x):
        return net(x, *args[1:])

    u = jnp.cos(jnp.arange(args[0].size, dtype=jnp.float32)).reshape(args[0].shape)
    y, forwards = jax.jit(lambda x: jax.jvp(at, (x,), (u,)))(args[0])
    v = jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
    backwards = jax.jit(lambda x: jax.vjp(at, x)[1](v)[0])(args[0])
    np.testing.assert_allclose(
        jnp.vdot(v, forwards), jnp.vdot(backwards, u), rtol=1e-3, atol=1e-5
    )


@every_case
def test_another_shape_or_dtype_is_refused(name):
    net = network(name)
    height, width, channels = net.architecture.input_shape
    x = jax.ShapeDtypeStruct((height + 4, width, channels), jnp.float32)
    rest = () if models.is_classifier(net) else (jax.ShapeDtypeStruct((), jnp.float32),)
    with pytest.raises(UserError, match="takes images of"):
        jax.eval_shape(net, x, *rest)
    with pytest.raises(UserError, match="'float64'; known: float32, bfloat16"):
        net.replace(compute_dtype="float64")
    half = jax.eval_shape(net.replace(compute_dtype="bfloat16"), *inputs(net))
    assert half.dtype == jnp.float32


@every_case
def test_it_is_stored_and_loaded(name, tmp_path):
    net = network(name)
    weights.save(tmp_path / "net.safetensors", net, {})
    loaded = weights.load(tmp_path / "net.safetensors")
    assert loaded.architecture == net.architecture
    chex.assert_trees_all_equal(loaded.params, net.params)


def test_initialisers_get_the_keys_that_flax_gives():
    ours, flax = network_of_models._rngs(jax.random.key(3)), nnx.Rngs(jax.random.key(3))
    for _ in range(3):
        chex.assert_trees_all_equal(ours.params(), flax.params())
