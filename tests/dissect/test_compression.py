"""Compression rates against linear maps and against a chain whose Jacobian is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure.dissect import compression, derivatives
from jaxpure.models.layers import conv2d, upsample
from tests.dissect import toys

SAME = ((1, 1), (1, 1))
A = toys.matrix()
SINGULAR = 0.8 ** np.arange(toys.SIZE)
X = jax.random.uniform(jax.random.key(0), toys.SHAPE)
LINEAR = toys.linear_map(jnp.asarray(A, jnp.float32))
DEVIATION = jnp.linspace(0.05, 0.8, toys.SIZE).reshape(toys.SHAPE)


def gaussian(forward=True):
    purifier = toys.gaussian_purifier(jnp.full(toys.SHAPE, 0.2), DEVIATION, forward=forward)
    return lambda x: purifier(jax.random.key(3), x)


def test_the_rate_along_a_singular_vector_is_its_singular_value():
    directions = jnp.asarray(np.linalg.svd(A)[2][:5], jnp.float32).reshape(5, *toys.SHAPE)
    near = compression.local_rates(LINEAR, X, 7 * directions)
    far = compression.rates(LINEAR, X, 0.1 * directions, radius=2.0)
    np.testing.assert_allclose(near, SINGULAR[:5], rtol=1e-5)
    np.testing.assert_allclose(far, SINGULAR[:5], rtol=1e-5)


def test_leading_singular_values_and_vectors_of_a_linear_purifier():
    found = compression.leading_singular_values(LINEAR, X, jax.random.key(1), 4)
    np.testing.assert_allclose(found.values, SINGULAR[:4], rtol=1e-4)
    overlap = np.linalg.svd(A)[2][:4] @ np.asarray(found.inputs).reshape(4, -1).T
    np.testing.assert_allclose(np.abs(overlap), np.eye(4), atol=2e-2)
    assert (found.residuals < 1e-2).all()


def test_all_singular_values_at_once_need_no_iteration():
    found = compression.leading_singular_values(
        LINEAR, X, jax.random.key(1), toys.SIZE, iterations=0
    )
    np.testing.assert_allclose(found.values, SINGULAR, atol=1e-5)


def test_jacobian_norm_is_the_root_mean_square_of_singular_values():
    found = compression.jacobian_norm(LINEAR, X, jax.random.key(2), 4000)
    truth = np.sqrt(np.mean(SINGULAR**2))
    assert abs(found.rate - truth) < 4 * found.error
    assert found.error < 0.02 * truth


def test_expected_rate_is_below_the_norm_and_equal_for_a_multiple_of_an_isometry():
    directions = compression.isotropic(jax.random.key(4), 200, X)
    expected = compression.local_rates(LINEAR, X, directions).mean()
    assert expected < np.sqrt(np.mean(SINGULAR**2))

    def half(x):
        return 0.5 * x[::-1]

    np.testing.assert_allclose(compression.local_rates(half, X, directions), 0.5, rtol=1e-5)
    norm = compression.jacobian_norm(half, X, jax.random.key(2), 2000)
    assert abs(norm.rate - 0.5) < 4 * norm.error


@pytest.mark.parametrize("forward", [True, False])
def test_the_chain_s_jacobian_for_gaussian_data(forward):
    gain = toys.gaussian_gain(np.asarray(DEVIATION, np.float64), 20, forward)
    axes = jnp.eye(toys.SIZE).reshape(toys.SIZE, *toys.SHAPE)
    near = compression.local_rates(gaussian(forward), X, axes)
    np.testing.assert_allclose(near, gain.reshape(-1), rtol=1e-4)
    far = compression.rates(gaussian(forward), X, axes, 0.5)
    np.testing.assert_allclose(far, gain.reshape(-1), rtol=1e-3)
    assert (
        0 < gain.min() < 0.01 < 0.5 < gain.max() < 1
    )  # off the manifold it compresses more


def test_a_product_with_the_jacobian_passes_through_convolutions_with_their_own_rule():
    kernels = jax.random.normal(jax.random.key(0), (2, 3, 3, 2, 2))
    x, v = jax.random.normal(jax.random.key(1), (2, 6, 6, 2))

    @jax.jit
    def both(x, v):
        def chain(x):
            return jax.lax.scan(lambda x, _: (step(x), None), x, length=3)[0]

        @jax.checkpoint
        def step(x):
            y = conv2d(jnp.tanh(x), kernels[0], stride=2, padding=SAME)
            return x + 0.1 * conv2d(upsample(y), kernels[1], padding=SAME)

        difference = (chain(x + 1e-2 * v) - chain(x - 1e-2 * v)) / 2e-2
        return derivatives.jvp(chain, x, v), difference

    product, difference = both(x, v)
    np.testing.assert_allclose(
        product, difference, atol=1e-2 * float(jnp.abs(product).max())
    )


def test_products_with_the_jacobian_and_its_transpose_are_adjoint():
    u, v = jax.random.normal(jax.random.key(5), (2, *toys.SHAPE))

    def f(x):
        return jnp.tanh(LINEAR(x)) * x[..., :1]

    forward = jnp.vdot(u, derivatives.jvp(f, X, v))
    np.testing.assert_allclose(forward, jnp.vdot(derivatives.vjp(f, X, u), v), rtol=1e-5)
    np.testing.assert_allclose(
        derivatives.jvp(f, X, v), jax.jvp(f, (X,), (v,))[1], rtol=1e-5, atol=1e-6
    )


def test_stability_tells_directions_keys_and_images_apart():
    images, keys, directions = 3, 4, 5
    rates = np.zeros((images, keys, directions, 2))
    rates += np.arange(images).reshape(-1, 1, 1, 1)
    table = compression.stability(rates, np.array([0.0, 1.0]))
    np.testing.assert_allclose(table["over_images"], 1)
    np.testing.assert_allclose(table["over_keys"], 0)
    np.testing.assert_allclose(table["over_directions"], 0)
    rates += 10 * np.arange(directions).reshape(1, 1, -1, 1)
    table = compression.stability(rates, np.array([0.0, 1.0]))
    np.testing.assert_allclose(table["over_keys"], 0, atol=1e-6)
    np.testing.assert_allclose(table["over_directions"], 10 * np.std(np.arange(5), ddof=1))


def test_a_rate_that_is_not_finite_is_named_by_its_example():
    rates = np.ones((3, 2, 2, 1))
    rates[1, 0, 1, 0] = np.nan
    with pytest.raises(ValueError, match="not finite for example 17:"):
        compression.stability(rates, np.array([0.1]), indices=np.array([4, 17, 21]))
