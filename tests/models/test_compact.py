"""The small networks that are trained here: their parts against plain computation."""

import dataclasses
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure import models
from jaxpure.errors import UserError
from jaxpure.models import airnet, depthwise, naf_unet
from jaxpure.models.layers import SAME_3X3, conv2d
from tests.models.cases import filled

SMALL = {
    "airnet": models.AirNet(widths=(4, 6, 6), image_size=16, num_classes=5),
    "conv_mixer": models.ConvMixer(features=8, depth=2, image_size=8, num_classes=5),
}
DENOISER = models.NafUNet(image_size=8, widths=(8, 12), blocks=(1, 2), time_features=8)


call = jax.jit(lambda network, *args: network(*args))
mapped = jax.jit(lambda network, *args: jax.vmap(network)(*args))


# Whitening.


def test_whitened_patches_are_uncorrelated_and_of_unit_power():
    images = jax.random.uniform(jax.random.key(0), (50, 12, 12, 3))
    images = images + jnp.roll(images, 1, 1) + 0.5 * images[..., :1]  # correlated
    images = images - jnp.mean(images)
    kernel = airnet.whitening_kernel(images, 2, 0.0)
    assert kernel.shape == (2, 2, 3, 24)
    outputs = conv2d(images, kernel, padding=((0, 0), (0, 0))).reshape(-1, 24)
    power = outputs.T @ outputs / len(outputs)
    np.testing.assert_allclose(power[:12, :12], np.eye(12), atol=2e-3)
    np.testing.assert_array_equal(outputs[:, 12:], -outputs[:, :12])


def test_whitening_leaves_directions_without_variance_small():
    images = jnp.ones((4, 6, 6, 1))
    kernel = airnet.whitening_kernel(images, 2, 1e-2)
    lengths = jnp.linalg.norm(kernel.reshape(4, -1), axis=0)
    np.testing.assert_allclose(jnp.sort(lengths)[-1], 10, rtol=1e-3)


def test_fit_changes_the_first_layer_alone():
    config = SMALL["airnet"]
    network = filled(config)
    images = jax.random.uniform(jax.random.key(0), (10, 16, 16, 3))
    fitted = config.fit(network.params, images)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), network.params, fitted)
    assert moved["stats"]["whitening"]
    assert sum(jax.tree.leaves(moved)) == 1
    normalised = (images - jnp.asarray(config.mean).reshape(1, 1, 1, -1)) / jnp.asarray(
        config.std
    ).reshape(1, 1, 1, -1)
    expected = airnet.whitening_kernel(normalised, 2, airnet.EPSILON)
    np.testing.assert_allclose(fitted["stats"]["whitening"], expected, rtol=1e-3)


def test_airnets_convolutions_begin_as_the_identity():
    conv = models.create(SMALL["airnet"], jax.random.key(0)).params["params"]["groups"][1][
        "conv1"
    ]
    x = jax.random.normal(jax.random.key(0), (5, 5, 4))
    y = conv2d(x, conv["kernel"], padding=SAME_3X3)
    np.testing.assert_allclose(y[..., :4], x, rtol=1e-6)


def test_max_pool_takes_maxima_and_drops_the_rest():
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 3))
    expected = x[:, :4, :6].reshape(2, 2, 2, 3, 2, 3).max((2, 4))
    np.testing.assert_array_equal(airnet.max_pool(x, 2), expected)


# Convolutions.


def grouped(x, kernel, stride):
    """A depthwise convolution as lax has it."""
    y = jax.lax.conv_general_dilated(
        x.reshape(-1, *x.shape[-3:]),
        kernel[:, :, None, :],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=kernel.shape[-1],
    )
    return y.reshape(*x.shape[:-3], *y.shape[1:])


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (5, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("shape", [(6, 7, 4), (3, 2, 2, 5, 4)], ids=str)
def test_depthwise_is_a_grouped_convolution(size, stride, shape):
    """Its value, and its derivatives of both modes, of second order, and under vmap."""
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = depthwise.depthwise_init(jax.random.key(1), size, 4)
    tangents = jnp.cos(x), jnp.sin(kernel)

    @partial(jax.jit, static_argnums=0)
    def everything(convolve, x, kernel):
        def value(x, kernel):
            return jnp.sum(jnp.sin(convolve(x, kernel, stride)))

        gradient = jax.grad(value, (0, 1))
        many = jnp.stack([x, 2 * x]), jnp.stack([kernel, -kernel])
        return (
            convolve(x, kernel, stride),
            gradient(x, kernel),
            jax.jvp(value, (x, kernel), tangents),
            jax.jvp(gradient, (x, kernel), tangents),
            jax.vmap(gradient, (0, None))(many[0], kernel),
            jax.vmap(gradient, (None, 0))(x, many[1]),
        )

    chex.assert_trees_all_close(
        everything(depthwise.depthwise, x, kernel),
        everything(grouped, x, kernel),
        rtol=1e-4,
        atol=1e-4,
    )


def test_pixels_become_channels_and_pixels_again():
    x = jax.random.normal(jax.random.key(0), (3, 4, 6, 5))
    packed = naf_unet.pixels_to_channels(x)
    assert packed.shape == (3, 2, 3, 20)
    np.testing.assert_array_equal(
        jnp.sort(packed[0, 0, 0]), jnp.sort(x[0, :2, :2].reshape(-1))
    )
    np.testing.assert_array_equal(naf_unet.channels_to_pixels(packed), x)


# Networks.


@pytest.mark.parametrize("name", SMALL)
def test_classifiers_take_an_image_or_a_batch(name):
    network = filled(SMALL[name])
    x = jax.random.uniform(jax.random.key(0), (3, *SMALL[name].input_shape))
    logits = call(network, x)
    assert logits.shape == (3, 5) and float(jnp.std(logits)) > 1e-3
    np.testing.assert_allclose(mapped(network, x), logits, atol=1e-4)


def test_the_denoiser_takes_an_image_or_a_batch_and_looks_at_the_time():
    network = filled(DENOISER)
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 3))
    t = jnp.array([0, 10, 200])
    noise = call(network, x, t)
    assert noise.shape == x.shape
    np.testing.assert_allclose(mapped(network, x, t), noise, atol=1e-4)
    other = call(network, x, jnp.array([0, 10, 250]))
    assert float(jnp.abs(other - noise)[2].max()) > 1e-3
    np.testing.assert_array_equal(other[:2], noise[:2])


def test_the_denoiser_of_any_size_sees_a_neighbourhood_alone():
    """Far from the edges a part of an image is denoised as all of it is."""
    config = dataclasses.replace(DENOISER, any_size=True)
    network, t = filled(config), jnp.array(10)
    x = jax.random.normal(jax.random.key(0), (80, 72, 3))
    whole, part = call(network, x, t), call(network, x[8:72, 4:68], t)
    assert whole.shape == x.shape
    middle = whole[8:72, 4:68][28:36, 28:36]
    np.testing.assert_allclose(part[28:36, 28:36], middle, atol=1e-5)
    with pytest.raises(UserError, match="divisible by 4"):
        network(x[:, :-2], t)
    with pytest.raises(UserError, match="takes images of"):
        filled(DENOISER)(x, t)


def test_the_denoiser_sees_further_than_a_patch():
    network = filled(DENOISER)
    t = jnp.array(10)
    x = jax.random.normal(jax.random.key(0), (8, 8, 3))
    moved = call(network, x.at[0, 0].add(3.0), t) - call(network, x, t)
    assert float(jnp.abs(moved[-1, -1]).max()) > 0


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: models.AirNet(image_size=8), "image_size"),
        (lambda: models.ConvMixer(kernel_size=4), "odd"),
        (lambda: models.ConvMixer(patch_size=5), "patch_size"),
        (lambda: models.NafUNet(blocks=(1,)), "levels"),
        (lambda: models.NafUNet(image_size=28), "halved"),
    ],
)
def test_what_does_not_fit_is_told(make, word):
    with pytest.raises(ValueError, match=word):
        make()
