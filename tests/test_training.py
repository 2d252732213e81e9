"""Training: it learns, resumes to the bit, averages, augments, and counts devices out."""

import dataclasses
from functools import partial
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxpure import measure, models, training, weights
from jaxpure.diffusion import Linear
from jaxpure.models.layers import BatchNorm, Conv, Dense

SIZE, CLASSES, BATCH = 6, 3, 16


class _Tiny(nnx.Module):
    def __init__(self, config, rngs):
        outputs = CLASSES if config.classifies else 8
        self.config = config
        self.conv = Conv(1, 8, rngs=rngs)
        self.norm = BatchNorm(8) if config.classifies else None
        self.out = Dense(8, outputs, rngs=rngs)
        self.back = None if config.classifies else Conv(8, 1, rngs=rngs)

    def __call__(self, x, t=None, *, train=False):
        h = self.conv(x)
        if not self.config.classifies:
            return self.back(jax.nn.silu(self.out(jax.nn.silu(h))))
        h = jax.nn.relu(self.norm(h, train=train))
        return self.out(jnp.mean(h, (-3, -2)))


@dataclasses.dataclass(frozen=True)
class Tiny:
    """The least architecture: with statistics a classifier, without them a denoiser."""

    classifies: bool = True

    @property
    def input_shape(self):
        return (SIZE, SIZE, 1)

    def build(self, rngs):
        return _Tiny(self, rngs)


def data(n=96):
    """Three classes: stripes across, stripes down, neither."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, n).astype(np.int32)
    images = 0.3 * rng.random((n, SIZE, SIZE, 1), dtype=np.float32)
    images[labels == 0, ::2] += 0.6
    images[labels == 1, :, ::2] += 0.6
    images[labels == 2] += 0.3
    return images, labels


def sharding(devices=1):
    kind = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("data",), kind, devices=jax.devices()[:devices])
    return jax.sharding.NamedSharding(mesh, jax.P("data"))


def robust_loss(eps):
    return partial(
        training.robust_classifier_loss, eps=eps, step_size=0.01 + eps / 2, num_steps=3
    )


LOSSES = {
    "classifier": (Tiny(True), training.classifier_loss),
    "robust classifier": (Tiny(True), robust_loss(0.03)),
    "denoiser": (
        Tiny(False),
        partial(
            training.denoiser_loss,
            alphas_cumprod=jnp.asarray(Linear(50).alphas_cumprod, jnp.float32),
        ),
    ),
}


@dataclasses.dataclass
class Run:
    """A training run: `take` makes some steps of it."""

    task: str
    devices: int = 1
    ema_decay: float = 0.9
    augmentation: training.Augmentation = training.Augmentation(shift=1, flip=True)
    optimizer: optax.GradientTransformation = optax.adam(1e-2)

    def __post_init__(self):
        self.config, loss = LOSSES[self.task]
        self.step = training.make_step(
            self.config,
            loss,
            self.optimizer,
            batch_size=BATCH,
            augmentation=self.augmentation,
            ema_decay=self.ema_decay,
            sharding=sharding(self.devices),
        )
        mesh = sharding(self.devices).mesh
        replicated = jax.sharding.NamedSharding(mesh, jax.P())
        self.place = lambda tree: jax.device_put(tree, replicated)
        self.data = self.place(data())

    def start(self):
        network = models.create(self.config, jax.random.key(7))
        return self.place(training.init_state(network, self.optimizer))

    def take(self, state, steps, seed=0):
        """The state after some steps, and their losses; the given state is used up."""
        losses = []
        for _ in range(steps):
            state, loss = self.step(state, self.place(jax.random.key(seed)), *self.data)
            losses.append(float(loss))
        return state, losses


@pytest.fixture(scope="module")
def runs():
    made = {}
    return lambda task: made.setdefault(task, Run(task))


every_task = pytest.mark.parametrize("task", LOSSES)


@every_task
def test_loss_goes_down(runs, task):
    run = runs(task)
    state, losses = run.take(run.start(), 60)
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    assert int(state.step) == 60
    if task == "classifier":
        images, labels = data()
        for params in (state.params, state.ema):
            network = models.Network(run.config, params)
            assert measure.accuracy(network, images, labels, 40) > 0.9


@every_task
def test_resumed_is_unbroken_to_the_bit(runs, task, tmp_path):
    run = runs(task)
    unbroken, losses = run.take(run.start(), 6)
    half, first = run.take(run.start(), 3)
    path = tmp_path / "state.safetensors"
    weights.save_tree(path, half, {})
    loaded = weights.load_tree(path, run.start())
    chex.assert_trees_all_equal_shapes_and_dtypes(loaded, half)
    resumed, second = run.take(run.place(loaded), 3)
    assert first + second == losses
    chex.assert_trees_all_equal(resumed, unbroken)


def test_another_seed_sees_other_batches(runs):
    run = runs("classifier")
    assert run.take(run.start(), 2, seed=0)[1] != run.take(run.start(), 2, seed=1)[1]


@pytest.mark.parametrize("decay", [0.3, 0.9])
def test_average_of_the_weights(decay):
    """Each step by its formula, whose decay is less than asked for early on."""
    run = Run("classifier", ema_decay=decay)
    state = run.start()
    chex.assert_trees_all_equal(state.ema, state.params)
    average = jax.tree.map(np.array, state.ema)
    for step in range(6):
        state, _ = run.take(state, 1)
        kept = min(decay, (1 + step) / (10 + step))
        average = jax.tree.map(
            lambda e, p, kept=kept: kept * e + (1 - kept) * np.asarray(p),
            average,
            state.params,
        )
        chex.assert_trees_all_close(state.ema, average, rtol=1e-5, atol=1e-7)
    assert (kept == decay) == (decay == 0.3)


def test_statistics_move_towards_the_batchs(runs):
    run = runs("classifier")
    before = jax.tree.map(np.array, run.start().params["stats"])
    state, _ = run.take(run.start(), 1)
    after = jax.tree.map(np.array, state.params["stats"])
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.all(a != b) and np.all(np.isfinite(b))
    many, _ = run.take(run.start(), 60)
    # Activations of the last batches: the running mean is near what the data give.
    module = models.network.bind(run.config, many.params)
    plain = module.conv(jnp.asarray(data()[0]))
    mean, spread = np.mean(plain, (0, 1, 2)), np.std(plain, (0, 1, 2))
    assert np.all(np.abs(many.params["stats"]["norm"]["mean"] - mean) < spread)


def test_batch_statistics_by_their_formula():
    images, labels = data(BATCH)
    config, loss = LOSSES["classifier"]
    params = models.create(config, jax.random.key(7)).params
    _, stats = loss(config, params, images, labels, jax.random.key(0))
    module = models.network.bind(config, params)
    module(jnp.asarray(images))  # outside of training nothing moves
    chex.assert_trees_all_equal(models.network.batch_stats(module), params["stats"])
    hidden = np.asarray(module.conv(jnp.asarray(images)))
    mean, variance = hidden.mean((0, 1, 2)), hidden.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(stats["norm"]["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats["norm"]["var"], 0.9 + 0.1 * variance, rtol=1e-4)


@every_task
def test_devices_do_not_matter_but_to_rounding(task):
    """The same batches under the same keys; only sums are taken in another order.

    Plain gradient descent: Adam would make steps of the rounding of zero gradients, which
    are those of a bias before a BatchNorm.
    """
    one, eight = (Run(task, n, optimizer=optax.sgd(0.1)) for n in (1, 8))
    alone, losses = one.take(one.start(), 4)
    spread, others = eight.take(eight.start(), 4)
    np.testing.assert_allclose(losses, others, rtol=1e-5)
    one, eight = (jax.tree.map(np.asarray, state.params) for state in (alone, spread))
    chex.assert_trees_all_close(one, eight, rtol=1e-5, atol=1e-6)


def test_whole_numbers_are_images_too(runs):
    """uint8 data give the loss of the same images in [0, 1]."""
    images, labels = data()
    whole = np.round(255 * images / images.max()).astype(np.uint8)
    run = runs("denoiser")  # a BatchNorm would undo another scale
    key = jax.random.key(0)
    losses = [
        float(run.step(run.start(), run.place(key), *run.place((x, labels)))[1])
        for x in (whole, whole.astype(np.float32) / 255)
    ]
    assert losses[0] == losses[1]


def test_denoiser_loss_by_its_definition():
    """Predicting nothing costs the noise's mean square: one; predicting all: nothing."""
    images, _ = data(64)
    table = jnp.asarray(Linear(50).alphas_cumprod, jnp.float32)

    class Predicts(nnx.Module):
        def __init__(self, clean):
            self.clean = clean

        def __call__(self, x, t):
            if not self.clean:
                return jnp.zeros_like(x)
            signal = table[t][:, None, None, None]
            clean = jnp.asarray(2 * images - 1)
            return (x - jnp.sqrt(signal) * clean) / jnp.sqrt(1 - signal)

    @dataclasses.dataclass(frozen=True)
    class Config:
        clean: bool

        def build(self, rngs):
            return Predicts(self.clean)

    def loss(clean):
        empty = {"params": {}, "stats": {}}
        return training.denoiser_loss(
            Config(clean), empty, images, None, jax.random.key(0), alphas_cumprod=table
        )[0]

    assert float(loss(False)) == pytest.approx(1, abs=5 * np.sqrt(2 / images.size))
    assert float(loss(True)) < 1e-6


# What a step may do besides.


def test_min_snr_weights_are_one_for_much_noise_and_fall_with_the_signal():
    signal = jnp.array([5 / 6, 0.5, 10 / 11, 50 / 51])  # ratios 5, 1, 10, 50
    weights = training.min_snr_weights(signal, 5.0)
    np.testing.assert_allclose(weights, [1, 1, 0.5, 0.1], rtol=1e-5)


def test_min_snr_weighs_the_loss_of_each_timestep():
    images, _ = data(8)
    config = Tiny(False)
    params = models.create(config, jax.random.key(0)).params

    def loss(gamma):
        table = jnp.array([50 / 51], jnp.float32)  # one timestep, of ratio 50
        args = (config, params, images, None, jax.random.key(1))
        return training.denoiser_loss(*args, alphas_cumprod=table, min_snr_gamma=gamma)[0]

    np.testing.assert_allclose(loss(5.0), 0.1 * loss(0.0), rtol=1e-5)
    np.testing.assert_allclose(loss(60.0), loss(0.0), rtol=1e-5)


def test_smoothed_labels_cost_by_their_formula():
    images, labels = data(8)
    config = Tiny(True)
    params = models.create(config, jax.random.key(0)).params
    args = (config, params, images, labels, jax.random.key(1))
    logits = models.network.bind(config, params)(jnp.asarray(images), train=True)
    logs = jax.nn.log_softmax(logits)
    own = jnp.mean(jnp.take_along_axis(logs, labels[:, None], 1))
    expected = -(0.8 * own + 0.2 * jnp.mean(logs))
    smoothed = training.classifier_loss(*args, label_smoothing=0.2)[0]
    np.testing.assert_allclose(smoothed, expected, rtol=1e-5)


@pytest.mark.parametrize("width", [0.05, 0.1, 0.2])
def test_the_powers_average_is_as_wide_as_asked_whatever_the_number_of_steps(width):
    for steps in (200, 2000):
        kept = np.array([float(training.power_decay(i, width)) for i in range(steps)])
        weights = (1 - kept) * np.append(np.cumprod(kept[:0:-1])[::-1], 1.0)
        assert kept[0] == 0 and weights.sum() == pytest.approx(1, abs=1e-4)
        at = np.arange(1, steps + 1) / steps
        mean = np.sum(weights * at)
        spread = np.sqrt(np.sum(weights * (at - mean) ** 2))
        assert spread == pytest.approx(width, rel=0.03)


@pytest.mark.parametrize("width", [0.0, 0.3, -0.1])
def test_a_power_that_there_is_not_is_refused(width):
    with pytest.raises(ValueError, match="width"):
        training.power_decay(1, width)


def test_passes_show_every_example_once_an_epoch():
    key = jax.random.key(3)
    draw = jax.jit(partial(training.batch_of_pass, key, num_examples=11, batch_size=3))
    drawn = [draw(jnp.array(i)) for i in range(9)]
    assert [int(epoch) for _, epoch in drawn] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    epochs = np.reshape([indices for indices, _ in drawn], (3, 9))
    for epoch in epochs:
        assert len(set(epoch)) == 9  # two of eleven are left out
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len({frozenset(epoch) for epoch in epochs}) > 1


def test_alternating_flips_mirror_every_image_in_every_other_epoch():
    epochs = [
        np.asarray(training.mirrored_in(jax.random.key(0), e, 1000)) for e in range(4)
    ]
    np.testing.assert_array_equal(epochs[1], ~epochs[0])
    np.testing.assert_array_equal(epochs[2], epochs[0])
    np.testing.assert_array_equal(epochs[3], epochs[1])
    assert abs(epochs[0].sum() - 500) < 5 * np.sqrt(250)


def seen_by_steps(steps, **options):
    """The images that the loss gets, step after step, of data that tell them apart."""
    images = np.arange(8 * 3 * 3, dtype=np.float32).reshape(8, 3, 3, 1)
    seen = []

    def spy(config, params, x, y, key):
        jax.debug.callback(lambda *args: seen.append(args), x, y, ordered=True)
        return jnp.sum(params["params"]["w"]), params["stats"]

    params = {"params": {"w": jnp.zeros(1)}, "stats": {}}
    optimizer = optax.sgd(0.1)
    step = training.make_step(
        Tiny(),
        spy,
        optimizer,
        batch_size=4,
        ema_decay=0.5,
        sharding=sharding(),
        **options,
    )
    state = training.init_state(models.Network(Tiny(), params), optimizer)
    for _ in range(steps):
        state, _ = step(state, jax.random.key(0), images, np.arange(8))
    jax.effects_barrier()
    return images, seen


def test_two_epochs_of_a_run_show_every_image_both_ways():
    images, seen = seen_by_steps(
        4,
        augmentation=training.Augmentation(flip=True),
        passes=True,
        alternate_flips=True,
    )
    ways = {i: [] for i in range(8)}
    for x, y in seen:
        for image, label in zip(x, y, strict=True):
            plain = np.array_equal(image, images[label])
            assert plain or np.array_equal(image, images[label][:, ::-1])
            ways[int(label)].append(plain)
    assert all(sorted(way) == [False, True] for way in ways.values())


def test_images_are_resized_where_asked():
    images, seen = seen_by_steps(
        1, augmentation=training.Augmentation(), image_size=2, passes=True
    )
    (x, y) = seen[0]
    assert x.shape == (4, 2, 2, 1)
    np.testing.assert_allclose(x.mean((1, 2, 3)), images[y].mean((1, 2, 3)), rtol=1e-3)


@pytest.mark.parametrize("devices", [1, 2])
def test_accumulated_gradients_are_those_of_the_whole_batch(devices):
    """Of a loss without randomness or statistics of a batch."""

    def loss(config, params, x, y, key):
        module = models.network.bind(config, params)
        logits = module(x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return jnp.mean(losses), params["stats"]

    results = []
    for parts in (1, 4):
        optimizer = optax.sgd(0.5)
        step = training.make_step(
            Tiny(),
            loss,
            optimizer,
            batch_size=BATCH,
            augmentation=training.Augmentation(shift=1),
            ema_decay=0.9,
            sharding=sharding(devices),
            accumulation=parts,
        )
        network = models.create(Tiny(), jax.random.key(7))
        replicated = jax.sharding.NamedSharding(sharding(devices).mesh, jax.P())
        args = (training.init_state(network, optimizer), jax.random.key(0), *data())
        results.append(step(*jax.device_put(args, replicated)))
    (whole, value), (parted, same) = jax.tree.map(np.asarray, results)
    np.testing.assert_allclose(same, value, rtol=1e-5)
    chex.assert_trees_all_close(parted.params, whole.params, rtol=1e-4, atol=1e-6)


def test_the_robust_loss_is_that_of_images_in_their_ball_that_fool_more():
    network = models.create(Tiny(True), jax.random.key(0))
    images, labels = (jnp.asarray(x) for x in data(12))
    args = (Tiny(True), network.params, images, labels)
    clean, statistics = training.classifier_loss(*args, jax.random.key(1))
    none, same = robust_loss(0.0)(*args, jax.random.key(1))
    np.testing.assert_allclose(none, clean, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, same, statistics)
    seen = []

    def spy(config, params, moved, labels, key, *, label_smoothing):
        assert label_smoothing == 0.0
        seen.append(moved)
        return jnp.mean(moved), params["stats"]

    with mock.patch.object(training, "classifier_loss", spy):
        robust_loss(0.1)(*args, jax.random.key(1))
    (moved,) = seen
    assert float(jnp.abs(moved - images).max()) == pytest.approx(0.1, abs=1e-6)
    assert float(moved.min()) >= 0 and float(moved.max()) <= 1
    losses = [
        jnp.mean(optax.softmax_cross_entropy_with_integer_labels(network(x), labels))
        for x in (images, moved)
    ]
    assert float(losses[1]) > float(losses[0])


@pytest.mark.parametrize("task", ["classifier", "denoiser"])
def test_mixed_precision_computes_in_bfloat16_and_keeps_float32(task):
    """The step as it is traced: convolutions in bfloat16, all that it carries on not."""
    _, loss = LOSSES[task]
    shape = dict(image_size=8, in_channels=1, compute_dtype="bfloat16")
    config = {
        "classifier": models.ConvMixer(features=8, depth=1, mean=0.3, std=0.4, **shape),
        "denoiser": models.NafUNet(out_channels=1, widths=(4,), blocks=(1,), **shape),
    }[task]
    optimizer = optax.adam(1e-2)
    step = training.make_step(
        config,
        loss,
        optimizer,
        batch_size=BATCH,
        augmentation=training.Augmentation(),
        ema_decay=0.9,
        sharding=sharding(),
    )

    def start(key):
        return training.init_state(models.create(config, key), optimizer)

    state = jax.eval_shape(start, jax.random.key(0))
    images = jax.ShapeDtypeStruct((20, 8, 8, 1), jnp.float32)
    labels = jax.ShapeDtypeStruct((20,), jnp.int32)
    traced = step.trace(state, jax.random.key(0), images, labels)
    chex.assert_trees_all_equal_shapes_and_dtypes(traced.out_info[0], state)
    assert traced.out_info[1].dtype == jnp.float32
    lines = [x for x in str(traced.jaxpr).splitlines() if "conv_general_dilated[" in x]
    assert lines and all("bf16" in line for line in lines)
