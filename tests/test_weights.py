"""Weights on disk: round trips, what travels with them, and files that are damaged."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxpure import models, weights
from jaxpure.diffusion import Cosine, Linear
from jaxpure.errors import UserError
from jaxpure.models import Trained
from jaxpure.weights import WeightsError

TINY = models.WideResNet(depth=10, width=1, image_size=8, in_channels=1)
SMALL = models.UNet(
    image_size=4,
    in_channels=1,
    out_channels=1,
    channels=8,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_resolutions=(),
    num_groups=4,
)
FACTS = Trained(Cosine(4000), 3000, 0.25, "learned_range", True)


@pytest.fixture(scope="module")
def network():
    return models.create(TINY, jax.random.key(0))


@pytest.fixture(scope="module")
def denoiser():
    network = models.create(SMALL, jax.random.key(0))
    return models.Network(SMALL, network.params, FACTS)


def assert_equal_params(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_network_round_trip(tmp_path, network):
    path = tmp_path / "net.safetensors"
    weights.save(path, network, {"licence": "Apache-2.0"})
    loaded = weights.load(path)
    assert loaded.architecture == network.architecture and loaded.trained is None
    assert_equal_params(loaded, network)
    card = json.loads((tmp_path / "net.json").read_text())
    assert card["licence"] == "Apache-2.0"
    assert card["architecture"].startswith("wide_resnet(depth=10,width=1,num_classes=10,")
    assert card["parameters"] == models.num_params(network)
    assert card["sha256"] == weights.digest(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.json", "net.safetensors"]


def test_a_missing_card_changes_nothing(tmp_path, denoiser):
    path = tmp_path / "net.safetensors"
    weights.save(path, denoiser, {})
    path.with_suffix(".json").unlink()
    loaded = weights.load(path)
    assert loaded.architecture == SMALL and loaded.trained == FACTS
    assert_equal_params(loaded, denoiser)
    assert weights.card(path) == {}


def test_labels_are_scaled_by_the_network_itself(denoiser):
    plain = models.Network(SMALL, denoiser.params)
    x, t = jnp.full((4, 4, 1), 0.3), jnp.float32(40.0)
    np.testing.assert_array_equal(denoiser(x, t), plain(x, 0.25 * t))
    assert denoiser.replace(compute_dtype="bfloat16").trained == FACTS


def as_version_1(path, network, diffusion=None):
    """A file as it was written before the facts of training were in its header."""
    fields = dataclasses.asdict(network.architecture)
    kind = models.ARCHITECTURES.names[type(network.architecture)]
    metadata = {
        "format": "jaxpure-network-1",
        "architecture": kind,
        "config": json.dumps(fields),
    }
    weights.save_tree(path, network.params, metadata)
    if diffusion is not None:
        path.with_suffix(".json").write_text(json.dumps({"diffusion": diffusion}))


def test_files_of_the_first_version_still_load(tmp_path, network, denoiser):
    as_version_1(tmp_path / "a.safetensors", network)
    loaded = weights.load(tmp_path / "a.safetensors")
    assert loaded.architecture == TINY and loaded.trained is None
    assert_equal_params(loaded, network)
    said = {"schedule": "linear", "timesteps": 400, "variance": "fixed_small_log"}
    as_version_1(tmp_path / "b.safetensors", denoiser, said)
    loaded = weights.load(tmp_path / "b.safetensors")
    assert loaded.trained == Trained(Linear(), 400, variance="fixed_small")


def test_half_precision_storage_is_loaded_as_float32(tmp_path, network):
    path = tmp_path / "net.safetensors"
    weights.save(path, network, {}, dtype="float16")
    loaded = weights.load(path)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(network), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_array_equal(a, np.asarray(b, np.float16).astype(np.float32))


def test_whoever_loads_chooses_the_dtype_to_compute_in(tmp_path, network):
    path = tmp_path / "net.safetensors"
    weights.save(path, network.replace(compute_dtype="bfloat16"), {})
    assert weights.load(path).architecture.compute_dtype == "float32"
    assert weights.load(path, "bfloat16").architecture.compute_dtype == "bfloat16"
    with pytest.raises(UserError, match="'float16'; known: float32, bfloat16"):
        weights.load(path, "float16")


def test_any_layout_and_shape_is_stored_as_it_is(tmp_path):
    table = np.arange(24.0).reshape(2, 3, 4)
    tree = {
        "transposed": table.transpose(2, 0, 1),
        "strided": table[:, ::2],
        "fortran": np.asfortranarray(table),
        "scalar": np.float32(3.5),
        "nested": {"empty": np.zeros((0, 3)), "list": [np.int32(1), np.ones(2, bool)]},
    }
    path = tmp_path / "tree.safetensors"
    weights.save_tree(path, tree, {})
    with jax.enable_x64(True):
        loaded = weights.load_tree(path, tree)
    jax.tree.map(np.testing.assert_array_equal, loaded, tree)
    assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(jnp.shape, tree)


def test_every_mismatch_is_listed_at_once(tmp_path):
    path = tmp_path / "tree.safetensors"
    weights.save_tree(path, {"a": np.zeros(3), "b": np.zeros(2), "old": np.zeros(1)}, {})
    like = {"a": np.zeros(3), "b": np.zeros((2, 1)), "new": np.zeros(1)}
    with pytest.raises(WeightsError) as error:
        weights.load_tree(path, like)
    for piece in ("missing new", "unexpected old", "b has shape (2,), expected (2, 1)"):
        assert piece in str(error.value)


def test_a_file_cut_short_is_refused(tmp_path, network):
    path = tmp_path / "net.safetensors"
    weights.save(path, network, {})
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="not a readable"):
            weights.load(path)


def test_another_programs_safetensors_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, path)
    with pytest.raises(WeightsError, match="not a jaxpure network.*checkpoints_convert"):
        weights.load(path)


@pytest.mark.parametrize(
    ("key", "value", "culprit"),
    [
        ("architecture", "wide_renset", "Did you mean 'wide_resnet'"),
        ("architecture", "wide_resnet(depth=11)", "depth=11"),
        ("architecture", "wide_resnet(depht=10)", "Did you mean 'depth'"),
        ("trained", '{"schedule": "linaer"}', "Did you mean 'linear'"),
        ("trained", '{"timestep": 3}', "Did you mean 'timesteps'"),
        ("trained", '{"timesteps": 0}', "timesteps=0"),
        ("trained", "{", "Expecting property name"),
    ],
)
def test_headers_that_cannot_be_read_are_refused(tmp_path, network, key, value, culprit):
    path = tmp_path / "net.safetensors"
    spec = "wide_resnet(depth=10,width=1,image_size=8,in_channels=1)"
    header = {"format": weights.FORMAT, "architecture": spec, "trained": "null"}
    weights.save_tree(path, network.params, header)
    assert weights.load(path).architecture == TINY
    weights.save_tree(path, network.params, header | {key: value})
    with pytest.raises(WeightsError, match=culprit):
        weights.load(path)


def test_unknown_names_are_told_the_closest(tmp_path, network):
    with pytest.raises(WeightsError, match="Did you mean 'digits_classifier'"):
        weights.load("digits_clasifier")
    weights.save(tmp_path / "net.safetensors", network, {})
    with pytest.raises(WeightsError, match="does not exist.*mean 'net.safetensors'"):
        weights.load(tmp_path / "nett.safetensors")


@pytest.mark.parametrize("name", ["a.pt", "b/a.pth", "a.ckpt", "a.pkl", "a.bin"])
def test_files_of_other_frameworks_are_told_the_converter(name):
    with pytest.raises(WeightsError, match=f"checkpoints_convert {name} a.safetensors"):
        weights.load(name)


def test_random_weights_are_made_by_their_spec():
    spec = "random:wide_resnet(depth=10,width=1,image_size=8,in_channels=1)"
    first, second = weights.load(spec), weights.load(spec)
    assert first.architecture == TINY and weights.card(spec) == {}
    assert_equal_params(first, second)
    assert weights.digest(spec) != weights.digest(spec + " ")
    for wrong, culprit in (
        ("random:wide_resnet(depth=11)", "depth=11"),
        ("random:wideresnet", "Did you mean 'wide_resnet'"),
        ("random:unet(channels=30)", "channels=30 is not divisible"),
    ):
        with pytest.raises(WeightsError, match=culprit):
            weights.load(wrong)


def test_bundled_weights_are_small_together():
    assert sum(path.stat().length for path in weights.bundled().values()) < 45e6


def test_the_commands_on_cards_find_their_network():
    commands = [weights.card(name).get("measured_by", "") for name in weights.bundled()]
    files = [re.search(r"--check (\S+)", text) for text in commands if text]
    assert files and all(files)
    for name in weights.bundled():
        assert weights.find(f"{name}.safetensors") == weights.bundled()[name]
        with pytest.raises(WeightsError, match="does not exist"):
            weights.find(f"elsewhere/{name}.safetensors")
    for found in files:
        assert weights.find(found[1]).exists()


@pytest.mark.parametrize("name", sorted(weights.bundled()))
def test_bundled_weights_say_what_they_are_and_run(name, tmp_path):
    path = weights.bundled()[name]
    card = json.loads(path.with_suffix(".json").read_text())
    assert {"data", "training", "seed", "steps", "result", "licence"} <= set(card)
    assert card["sha256"] == weights.digest(name)
    assert path.stat().length < (1e6 if name.startswith("digits") else 12e6)
    shutil.copy(path, tmp_path / "alone.safetensors")
    network = weights.load(tmp_path / "alone.safetensors")
    assert models.is_classifier(network) == (card["task"] == "classifier")
    assert models.is_denoiser(network) == (card["task"] == "denoiser")
    x = jnp.full(network.architecture.input_shape, 0.5)
    if models.is_classifier(network):
        out, expected = network(x), (10,)
    else:
        out, expected = network(x, jnp.float32(10)), x.shape
        assert network.trained.schedule == Linear()
        assert network.trained.timesteps == (card["training"]["max_timestep"] or 1000)
    assert out.shape == expected and bool(jnp.isfinite(out).all())


@pytest.mark.parametrize("shape", [(8, 8, 3), (9, 8, 1), (8, 8), (2, 4, 4, 1)])
def test_images_of_another_shape_are_refused_when_traced(network, shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(UserError, match=r"takes images of \(8, 8, 1\), got \("):
        jax.eval_shape(network, x)
    assert jax.eval_shape(network, jax.ShapeDtypeStruct((5, 8, 8, 1), jnp.float32))


@pytest.mark.parametrize(
    ("facts", "culprit"),
    [
        ({"schedule": "linear(100)", "timesteps": 101}, "timesteps=101.*has 100"),
        ({"variance": "huge"}, "variance 'huge'"),
        ({"label_scale": 0.0}, "label_scale=0.0"),
        ({"label_scale": float("nan")}, "label_scale=nan"),
        ({"schedule": "continuous"}, "schedule 'continuous'"),
    ],
)
def test_facts_of_training_that_cannot_be_are_named(facts, culprit):
    with pytest.raises(UserError, match=culprit):
        Trained.from_json(facts)


@pytest.mark.parametrize(
    "trained", [Trained(), FACTS, Trained("continuous_vp", 1000), Trained("linear(100)")]
)
def test_facts_of_training_survive_json(trained):
    assert Trained.from_json(json.loads(json.dumps(trained.to_json()))) == trained
    assert hash(trained) == hash(Trained.from_json(trained.to_json()))
