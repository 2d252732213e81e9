"""Layers alone: the convolution's own derivative rule, the norms, attention, embedding.

References are autodiff of `lax.conv_general_dilated`, and numpy in float64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import normal
from flax import nnx
from jax.test_util import check_grads

from jaxpure.errors import UserError
from jaxpure.models import bilinear, depthwise, layers

SAME = ((1, 1), (1, 1))
LOW_RIGHT = ((0, 1), (0, 1))
NONE = ((0, 0), (0, 0))

CASES = [
    # height, width, kernel, stride, padding
    (8, 8, 3, 1, SAME),
    (7, 5, 3, 1, SAME),
    (8, 8, 3, 2, SAME),
    (7, 9, 3, 2, SAME),
    (8, 8, 3, 1, LOW_RIGHT),
    (8, 8, 3, 2, LOW_RIGHT),
    (7, 5, 3, 2, LOW_RIGHT),
    (8, 6, 3, 2, NONE),  # the last row and column are never seen
    (6, 7, 3, 1, ((2, 0), (1, 3))),
    (8, 8, 1, 2, NONE),
    (7, 5, 1, 2, NONE),
    (6, 6, 1, 1, NONE),
    (9, 8, 5, 2, ((2, 2), (2, 2))),
    (2, 2, 3, 1, SAME),  # smaller than the kernel
    (2, 1, 3, 1, SAME),
    (1, 1, 3, 1, SAME),
    (2, 2, 3, 2, SAME),
    (3, 1, 5, 2, ((2, 2), (2, 2))),
]


def conv_reference(x, kernel, stride, padding):
    """A batch through lax, with whatever derivative autodiff gives it."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )


def own(x, kernel, stride, padding):
    return layers.conv2d(x, kernel, stride=stride, padding=padding)


def draw(case, lead=(2,)):
    height, width, size, stride, padding = case
    x = normal("layers/x", (*lead, height, width, 3))
    kernel = normal("layers/kernel", (size, size, 3, 4))
    return jnp.asarray(x), jnp.asarray(kernel), stride, padding


def cotangent_like(y):
    return jnp.asarray(normal("layers/cotangent", y.shape), y.dtype)


def value_and_gradients(function, x, kernel):
    @jax.jit
    def run(x, kernel):
        y, vjp = jax.vjp(function, x, kernel)
        return (y, *vjp(cotangent_like(y)))

    return run(x, kernel)


def assert_all_close(got, want, tolerance=2e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        got,
        want,
    )


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution_has_autodiffs_value_and_gradients(case):
    x, kernel, stride, padding = draw(case)
    got = value_and_gradients(lambda x, k: own(x, k, stride, padding), x, kernel)
    want = value_and_gradients(
        lambda x, k: conv_reference(x, k, stride, padding), x, kernel
    )
    assert_all_close(got, want)


@pytest.mark.parametrize("padding", [SAME, LOW_RIGHT], ids=str)
def test_small_images_are_not_made_the_kernel(padding):
    def gradients(x, kernel):
        return jax.value_and_grad(
            lambda *args: jnp.sum(own(*args, 1, padding) ** 2), (0, 1)
        )(x, kernel)

    x, kernel, *_ = draw((2, 2, 3, 1, padding))
    program = jax.jit(gradients).lower(x, kernel).compile().as_text()
    assert " convolution(" not in program
    x, kernel, *_ = draw((3, 3, 3, 1, padding))
    program = jax.jit(gradients).lower(x, kernel).compile().as_text()
    assert " convolution(" in program
    assert "01fb_o01i" not in program


@pytest.mark.parametrize("numbers", [1, 48, 10**6])
def test_a_sum_in_parts_is_the_sum(numbers, monkeypatch):
    monkeypatch.setattr(bilinear, "NUMBERS_OF_PART", 2 * 48)
    g, x = (jax.random.normal(jax.random.key(i), (24, 5, 3)) for i in range(2))

    def sums(g, x):
        return jnp.einsum("snij,snij->si", g, x)

    summed = partial(bilinear.summed_in_parts, sums, numbers_of_an_image=numbers)
    got = jax.jit(summed)(g, x)
    assert_all_close(got, jnp.einsum("nij,nij->i", g, x))


def grouped(x, kernel):
    return depthwise.depthwise(x, kernel[..., 0])


@pytest.mark.parametrize("op", [own, grouped])
def test_devices_keep_their_images_in_a_kernels_gradient(op):
    """A batch over two devices: each takes its own, and one sum of kernels is exchanged."""
    mesh = jax.make_mesh(
        (2,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2]
    )
    over, everywhere = (jax.sharding.NamedSharding(mesh, jax.P(a)) for a in ("data", None))
    x, kernel, *options = draw(CASES[0], (16,))
    call = op if op is grouped else partial(op, stride=options[0], padding=options[1])

    @jax.jit
    def gradient(x, kernel):
        return jax.grad(lambda k: jnp.sum(call(x, k) ** 2))(kernel)

    want = gradient(x, kernel)
    args = jax.device_put(x, over), jax.device_put(kernel, everywhere)
    assert "all-gather" not in gradient.lower(*args).compile().as_text()
    assert_all_close(gradient(*args), want, 1e-4)


@pytest.mark.parametrize("case", [CASES[1], CASES[6], CASES[9]], ids=str)
@pytest.mark.parametrize("lead", [(), (1,), (2, 3)], ids=str)
def test_convolution_takes_any_leading_axes(case, lead):
    x, kernel, stride, padding = draw(case, lead)
    flat = (-1, *x.shape[-3:])

    def reference(x, kernel):
        y = conv_reference(x.reshape(flat), kernel, stride, padding)
        return y.reshape(*lead, *y.shape[1:])

    def ours(x, kernel):
        return layers.conv2d(x, kernel, stride=stride, padding=padding)

    got = value_and_gradients(ours, x, kernel)
    assert_all_close(got, value_and_gradients(reference, x, kernel))
    ruled = value_and_gradients(lambda x, k: own(x, k, stride, padding), x, kernel)
    assert_all_close(ruled, got)


@pytest.mark.parametrize("case", [CASES[0], CASES[6], CASES[9]], ids=str)
def test_convolution_has_derivatives_of_both_modes_and_of_second_order(case):
    x, kernel, stride, padding = draw(case)
    v = jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)

    def derivatives(function):
        def f(x):
            return jnp.sum(jnp.sin(function(x, kernel, stride, padding)))

        @jax.jit
        def run(x):
            forward = jax.jvp(f, (x,), (v,))
            forward_over_reverse = jax.jvp(jax.grad(f), (x,), (v,))
            reverse_over_reverse = jax.grad(lambda x: jnp.vdot(jax.grad(f)(x), v))(x)
            return forward, forward_over_reverse, reverse_over_reverse

        return run(x)

    got, want = derivatives(own), derivatives(conv_reference)
    assert_all_close(got, want, 1e-4)
    np.testing.assert_allclose(got[1][1], got[2], rtol=1e-4, atol=1e-4)


def test_the_rule_is_chosen_where_the_program_is_compiled_for():
    """Autodiff's gradient of a strided convolution dilates; the CPU's rule has dots."""
    x, kernel, stride, padding = draw(CASES[2])
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(own(x, kernel, stride, padding) ** 2)))
    traced = gradient.trace(x)
    for platform, dilates in (("cpu", False), ("tpu", True), ("cuda", True)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("lhs_dilate = [2, 2]" in text) == dilates, platform
        assert ("dot_general" in text) != dilates, platform


@pytest.mark.parametrize("checked", [False, True])
def test_convolution_under_shard_map(checked):
    x, kernel, stride, padding = draw(CASES[0])
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

    def each(x, kernel):
        f = lambda x: jnp.sum(jnp.sin(own(x, kernel, stride, padding)))  # noqa: E731
        return jax.vmap(jax.grad(f))(x)

    specs = {"in_specs": (jax.P("d"), jax.P()), "out_specs": jax.P("d")}
    spread = jax.shard_map(each, mesh=mesh, check_vma=checked, **specs)
    assert_all_close(jax.jit(spread)(x, kernel), jax.jit(each)(x, kernel))


@pytest.mark.parametrize("case", [CASES[0], CASES[6]], ids=str)
def test_convolution_under_vmap_of_one_image(case):
    x, kernel, stride, padding = draw(case)

    def each(x, kernel):
        return jax.vmap(lambda x: own(x, kernel, stride, padding))(x)

    want = value_and_gradients(
        lambda x, k: conv_reference(x, k, stride, padding), x, kernel
    )
    assert_all_close(value_and_gradients(each, x, kernel), want)


def test_convolution_under_vmap_over_kernels():
    x, kernel, stride, padding = draw(CASES[6])
    kernels = jnp.stack([kernel, -2 * kernel])
    got = jax.vmap(lambda k: value_and_gradients(_with(own, stride, padding), x, k))(
        kernels
    )
    want = [
        value_and_gradients(_with(conv_reference, stride, padding), x, k) for k in kernels
    ]
    assert_all_close(got, jax.tree.map(lambda *leaves: jnp.stack(leaves), *want), 1e-4)


def _with(function, stride, padding):
    return lambda x, kernel: function(x, kernel, stride, padding)


@pytest.mark.parametrize("size", [8, 7])
def test_convolution_inside_a_scan(size):
    """Down and up again in a loop, as attacks through purifiers run it."""
    x = jnp.asarray(normal("layers/x", (2, size, size, 3)))
    same = jnp.asarray(normal("layers/kernel", (3, 3, 3, 3))) / 5
    strided = jnp.asarray(normal("layers/strided", (3, 3, 3, 3))) / 5

    def chain(conv):
        def body(x, _):
            low = conv(x, strided, 2, LOW_RIGHT)
            high = jnp.repeat(jnp.repeat(low, 2, -3), 2, -2)
            high = jnp.pad(high, ((0, 0), (0, size % 2), (0, size % 2), (0, 0)))
            return conv(jnp.tanh(x + high), same, 1, SAME), None

        return lambda x: jnp.sum(jnp.sin(jax.lax.scan(body, x, length=4)[0]))

    got = jax.jit(jax.value_and_grad(chain(own)))(x)
    want = jax.jit(jax.value_and_grad(chain(conv_reference)))(x)
    assert_all_close(got, want, 1e-4)


@pytest.mark.parametrize("case", [CASES[k] for k in (1, 6, 7, 8, 10)], ids=str)
def test_convolution_against_finite_differences(case):
    with jax.enable_x64(True):
        x, kernel, stride, padding = draw(case, (1,))
        x, kernel = x.astype(jnp.float64), kernel.astype(jnp.float64)
        check_grads(
            _with(own, stride, padding), (x, kernel), order=1, modes=["rev"], eps=1e-3
        )


def test_convolution_can_be_differentiated_for_one_argument_alone():
    x, kernel, stride, padding = draw(CASES[5])
    g = cotangent_like(own(x, kernel, stride, padding))
    both = jax.vjp(_with(own, stride, padding), x, kernel)[1](g)
    dx = jax.vjp(lambda x: own(x, kernel, stride, padding), x)[1](g)[0]
    dk = jax.vjp(lambda k: own(x, k, stride, padding), kernel)[1](g)[0]
    np.testing.assert_array_equal(dx, both[0])
    np.testing.assert_array_equal(dk, both[1])


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)], ids=str)
def test_convolution_of_upsampled_images_is_what_it_says(lead):
    """Values, and gradients in images and kernel, of the convolution after upsampling."""
    keys = jax.random.split(jax.random.key(5), 3)
    x = jax.random.normal(keys[0], (*lead, 3, 5, 4))
    kernel = jax.random.normal(keys[1], (3, 3, 4, 6))
    weights = jax.random.normal(keys[2], (*lead, 6, 10, 6))

    def plain(x, kernel):
        return jnp.sum(weights * layers.conv2d(layers.upsample(x), kernel, padding=SAME))

    def fast(x, kernel):
        return jnp.sum(weights * layers.conv2d_of_upsampled(x, kernel))

    assert layers.conv2d_of_upsampled(x, kernel).shape == weights.shape
    for a, b in zip(
        jax.value_and_grad(plain, (0, 1))(x, kernel)[1],
        jax.value_and_grad(fast, (0, 1))(x, kernel)[1],
        strict=True,
    ):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        layers.conv2d_of_upsampled(x, kernel),
        layers.conv2d(layers.upsample(x), kernel, padding=SAME),
        rtol=1e-5,
        atol=1e-5,
    )


def test_convolution_of_upsampled_images_is_one_elsewhere_and_has_every_derivative():
    x, kernel = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 5))
    value = layers.conv2d_of_upsampled
    derivatives = jax.grad(lambda x, k: value(x, k).sum(), (0, 1))
    for step in map(jax.jit, (value, derivatives)):
        lowered = {
            platform: step.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
            for platform in ("cpu", "tpu")
        }
        large = "2x8x8x3"  # of the upsampled images
        assert large in lowered["tpu"] and large not in lowered["cpu"]
    check_grads(layers.conv2d_of_upsampled, (x, kernel), order=2, atol=0.1, rtol=0.1)


def test_convolution_keeps_the_dtype_of_its_input():
    conv = layers.Conv(3, 4, rngs=nnx.Rngs(0))
    x = jnp.ones((8, 8, 3), jnp.bfloat16)
    y, vjp = jax.vjp(conv, x)
    assert y.dtype == vjp(y)[0].dtype == jnp.bfloat16


def group_norm_reference(x, groups, scale, bias, epsilon):
    """Float64, group by group, straight from the definition."""
    x = x.astype(np.float64)
    y = np.empty_like(x)
    for channels in np.split(np.arange(x.shape[-1]), groups):
        part = x[..., channels]
        mean = part.mean((-3, -2, -1), keepdims=True)
        variance = ((part - mean) ** 2).mean((-3, -2, -1), keepdims=True)
        y[..., channels] = (part - mean) / np.sqrt(variance + epsilon)
    return y * scale + bias


@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)], ids=str)
@pytest.mark.parametrize("groups", [1, 4, 8])
def test_group_norm_is_its_definition(groups, lead, mean):
    norm = layers.GroupNorm(8, groups)
    scale, bias = 1 + normal("scale", (8,)) / 10, normal("bias", (8,))
    norm.scale[...], norm.bias[...] = jnp.asarray(scale), jnp.asarray(bias)
    x = normal("layers/x", (*lead, 6, 5, 8)) + np.float32(mean)
    want = group_norm_reference(x, groups, scale, bias, 1e-6)
    # At mean 100 a float32 mean is off by an ulp or two, 1e-5; a one-pass variance
    # would be off by 1e-3.
    tolerance = 2e-6 if mean == 0 else 5e-5
    np.testing.assert_allclose(norm(jnp.asarray(x)), want, rtol=0, atol=tolerance)


def test_group_norm_of_a_small_signal_depends_on_epsilon():
    x = normal("layers/x", (4, 4, 8)) / 1000
    one, zero = np.ones(8), np.zeros(8)
    for epsilon in (1e-6, 1e-5):
        norm = layers.GroupNorm(8, 4, epsilon=epsilon)
        want = group_norm_reference(x, 4, one, zero, epsilon)
        np.testing.assert_allclose(norm(jnp.asarray(x)), want, rtol=1e-5, atol=1e-6)
    assert layers.GroupNorm(8, 4).epsilon == 1e-6


@pytest.mark.parametrize("mean", [0.0, 30.0, 300.0])
def test_group_norm_of_bfloat16_is_as_near_as_its_rounding_allows(mean):
    """One pass over narrow input errs no more, with its gradient, than two in float32."""
    norm = layers.GroupNorm(8, 2)
    x, cotangent = normal("layers/x", (16, 16, 8)) + mean, normal("g", (16, 16, 8))
    x, cotangent = jnp.asarray(x), jnp.asarray(cotangent, jnp.bfloat16)
    narrow = x.astype(jnp.bfloat16)

    def two_passes(x):
        return norm(x.astype(jnp.float32)).astype(jnp.bfloat16)

    def value_and_gradient(function, x):
        y, vjp = jax.vjp(function, x)
        return y, *vjp(cotangent.astype(y.dtype))

    want = value_and_gradient(norm, x)
    got, before = (value_and_gradient(f, narrow) for f in (norm, two_passes))
    for mine, theirs, exact in zip(got, before, want, strict=True):
        assert mine.dtype == jnp.bfloat16
        errors = [np.linalg.norm(np.float32(y) - exact) for y in (mine, theirs)]
        assert errors[0] < 1.02 * errors[1]


def test_group_norm_of_a_constant_in_bfloat16_is_its_bias():
    norm = layers.GroupNorm(8, 2)
    x = jnp.full((7, 7, 8), 0.3, jnp.bfloat16)
    np.testing.assert_allclose(np.float32(norm(x)), 0, atol=1e-3)
    assert np.isfinite(np.float32(jax.grad(lambda x: norm(x).sum())(x))).all()


def test_group_norm_gradient():
    with jax.enable_x64(True):
        norm = layers.GroupNorm(4, 2)
        x = jnp.asarray(normal("layers/x", (2, 3, 3, 4)), jnp.float64)
        check_grads(norm, (x,), order=1, modes=["rev"], eps=1e-4)


def test_group_norm_refuses_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="divisible"):
        layers.GroupNorm(6, 4)


def test_batch_norm_evaluates_on_its_running_statistics():
    norm = layers.BatchNorm(4)
    mean, var = normal("mean", (4,)), 1 + np.abs(normal("var", (4,)))
    scale, bias = normal("scale", (4,)), normal("bias", (4,))
    norm.mean[...], norm.var[...] = jnp.asarray(mean), jnp.asarray(var)
    norm.scale[...], norm.bias[...] = jnp.asarray(scale), jnp.asarray(bias)
    x = normal("layers/x", (3, 5, 5, 4))
    want = (x.astype(np.float64) - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(norm(jnp.asarray(x)), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(norm.mean[...], mean)
    np.testing.assert_array_equal(norm.var[...], var)


def test_batch_norm_trains_as_torch_does():
    """Biased variance for the output, unbiased for the running value, momentum 0.9."""
    norm = layers.BatchNorm(4)
    mean, var = np.zeros(4), np.ones(4)
    for step in range(3):
        x = 2 * normal(f"layers/x{step}", (3, 2, 2, 4)) + 5
        got = norm(jnp.asarray(x), train=True)
        rows = x.astype(np.float64).reshape(-1, 4)
        want = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
        mean = 0.9 * mean + 0.1 * rows.mean(0)
        var = 0.9 * var + 0.1 * rows.var(0, ddof=1)
        np.testing.assert_allclose(got.reshape(-1, 4), want, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5)
        np.testing.assert_allclose(norm.var[...], var, rtol=1e-5)


def test_attention_mixes_pixels_by_the_softmax_of_their_products():
    channels = 8
    layer = layers.Attention(channels, 4, rngs=nnx.Rngs(0))
    for name in ("query", "key", "value", "out"):
        dense = getattr(layer, name)
        dense.kernel[...] = jnp.asarray(normal(f"{name}/kernel", (channels, channels)))
        dense.bias[...] = jnp.asarray(normal(f"{name}/bias", (channels,)))
    x = normal("layers/x", (3, 2, channels))

    def affine(name, h):
        dense = getattr(layer, name)
        kernel, bias = np.float64(dense.kernel[...]), np.float64(dense.bias[...])
        return h @ kernel + bias

    h = group_norm_reference(x, 4, np.ones(channels), np.zeros(channels), 1e-6)
    h = h.reshape(-1, channels)
    scores = affine("query", h) @ affine("key", h).T / np.sqrt(channels)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    want = x + affine("out", weights @ affine("value", h)).reshape(x.shape)
    np.testing.assert_allclose(layer(jnp.asarray(x)), want, rtol=1e-4, atol=1e-4)


def test_attention_in_bfloat16_is_as_near_as_its_rounding_allows():
    """One product for queries, keys and values errs no more than three."""
    layer = layers.Attention(32, 4, rngs=nnx.Rngs(0))
    for name in ("query", "key", "value", "out"):
        kernel = normal(f"{name}/kernel", (32, 32)) / 6
        getattr(layer, name).kernel[...] = jnp.asarray(kernel)
    x = jnp.asarray(normal("layers/x", (6, 5, 32)))
    h = jnp.asarray(x, jnp.bfloat16).reshape(-1, 32)
    three = (layer.query, layer.key, layer.value)
    for together, alone, exact in zip(
        layer._project(h),
        (each(h) for each in three),
        layer._project(x.reshape(-1, 32)),
        strict=True,
    ):
        errors = [np.linalg.norm(np.float32(y) - exact) for y in (together, alone)]
        assert errors[0] < 1.02 * errors[1]
    got = layer(x.astype(jnp.bfloat16))
    assert got.dtype == jnp.bfloat16
    assert np.linalg.norm(np.float32(got) - layer(x)) < 0.01 * np.linalg.norm(layer(x))


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)], ids=str)
def test_timestep_embedding_is_its_formula(lead):
    t = (np.arange(np.prod(lead, dtype=int)) * 37.5 + 3).reshape(lead)
    frequencies = 10000.0 ** (-np.arange(16) / 15)
    angles = t[..., None] * frequencies
    want = np.concatenate([np.sin(angles), np.cos(angles)], -1)
    with jax.enable_x64(True):
        got = layers.timestep_embedding(jnp.asarray(t, jnp.float64), 32)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)
    got = layers.timestep_embedding(jnp.asarray(t, jnp.float32), 32)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-5)


def test_timestep_embedding_of_integers_is_that_of_floats():
    t = jnp.arange(5)
    np.testing.assert_array_equal(
        layers.timestep_embedding(t, 8), layers.timestep_embedding(t.astype(float), 8)
    )


def test_means_of_other_channels_are_told():
    """Grey less three means would be three channels, which the next layer trips over."""
    grey, colour = jnp.ones((4, 4, 1)), jnp.ones((4, 4, 3))
    assert layers.normalise(colour, (0.5,), (0.25,), "float32").max() == 2
    with pytest.raises(UserError, match=r"mean has 3 numbers and the images 1 channels"):
        layers.normalise(grey, (0.5, 0.5, 0.5), (1.0,), "float32")
    with pytest.raises(UserError, match=r"std has 2 numbers .* std=\[...\]"):
        layers.normalise(colour, (0.5,), (1.0, 1.0), "float32")
