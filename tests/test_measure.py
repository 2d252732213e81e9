"""What a network is worth: accuracy and loss, on networks that are known by heart."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxpure as jp
from jaxpure import measure, models
from jaxpure.diffusion import Linear
from jaxpure.errors import UserError


def network_that_says(value, role, trained=None):
    """A network on images `(4, 4, 1)` whose output is a function of its arguments."""

    class Module(nnx.Module):
        def __call__(self, *args):
            return value(*args)

    @dataclasses.dataclass(frozen=True)
    class Says:
        input_shape = (4, 4, 1)

        def build(self, rngs):
            return Module()

    Says.role = role
    return models.Network(Says(), {"params": {}, "stats": {}}, trained)


def denoiser_that_says(value, **trained):
    """A denoiser that was trained on four timesteps."""
    known = {"schedule": "linear", "timesteps": 4} | trained
    return network_that_says(value, "denoiser", models.Trained(**known))


@pytest.mark.parametrize("n", [1, 7, 10, 11])
def test_accuracy_counts_every_image_once(n):
    """The last batch is filled up, and what fills it is not counted."""

    def bright(x):
        mean = jnp.mean(x, (-3, -2, -1))
        return jnp.stack([1 - mean, mean], -1)

    classes = np.random.default_rng(0).integers(0, 2, n)
    images = np.ones((n, 4, 4, 1), np.float32) * classes[:, None, None, None]
    classifier = network_that_says(bright, "classifier")
    np.testing.assert_array_equal(measure.logits(classifier, images, 5)[:, 1], classes)
    labels = classes.copy()
    labels[: n // 2] ^= 1
    expected = (n - n // 2) / n
    assert measure.accuracy(classifier, images, labels, 5) == pytest.approx(expected)


def test_the_loss_of_no_noise_is_the_noises_power():
    images = np.full((120, 4, 4, 1), 0.5, np.float32)
    nothing = denoiser_that_says(lambda x, t: jnp.zeros_like(x))
    assert measure.noise_loss(nothing, images) == pytest.approx(1, abs=0.1)
    signal = Linear().alphas_cumprod

    def exact(x, t):  # grey images are zero in the denoiser's range
        return x / jnp.sqrt(1 - jnp.asarray(signal, x.dtype)[t])[:, None, None, None]

    for t in (None, 0, 3):
        found = measure.noise_loss(denoiser_that_says(exact), images, t)
        assert found == pytest.approx(0, abs=1e-9)


def test_the_loss_at_a_timestep_tells_the_denoiser_that_timestep():
    images = np.zeros((7, 4, 4, 1), np.float32)

    def told(x, t):
        return jnp.where(jnp.all(t == 6), 100.0, 0.0) * jnp.ones((*x.shape[:-1], 2))

    network = denoiser_that_says(told, label_scale=2.0)
    assert measure.noise_loss(network, images, 3) > 5000
    assert measure.noise_loss(network, images, 2) < 2
    assert measure.told_timesteps(network) == [1, 3]
    unknown = denoiser_that_says(told, schedule=None)
    with pytest.raises(UserError, match="schedule of noise"):
        measure.noise_loss(unknown, images)


@pytest.mark.parametrize("batch_size", [2, 5])
def test_purified_images_are_judged_as_a_run_judges_clean_ones(batch_size):
    """By the same keys: on noise that decides half of the images, the same are right."""
    generator = np.random.default_rng(0)
    images = generator.uniform(size=(20, 4, 4, 1)).astype(np.float32)
    labels = generator.integers(0, 2, 20)

    def shaken(key, x):
        mean = jnp.mean(x) + jax.random.normal(key)
        return jnp.stack([0.5 - mean, mean - 0.5])

    defense = jax.tree_util.Partial(shaken)
    indices = generator.permutation(50)[:20]
    rows = images, labels, indices
    got = np.concatenate(list(measure.purified_right(defense, *rows, batch_size)))
    with jax.debug_key_reuse(False):  # which is what a run does
        result = jp.evaluate(
            defense,
            "pgd(num_steps=1,step_size=0.01)",
            dataclasses.replace(jp.data.from_arrays(images, labels), indices=indices),
            ball="linf(0.01)",
            policy="replay",
            gradient="exact",
            key=jax.random.key(0),
            judging_keys=1,
        )
    expected = np.concatenate(list(result.to_pandas()["clean_correct"]))
    np.testing.assert_array_equal(got, expected)
    assert got.any() and not got.all()
