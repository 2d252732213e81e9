"""Weights on disk: round trips, and files that are not what they claim to be."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxpure import checkpoints, models

TINY = models.WideResNet(depth=10, width=1, image_size=8, in_channels=1)


@pytest.fixture
def network():
    return models.create(TINY, jax.random.key(0))


def test_network_round_trip(tmp_path, network):
    path = tmp_path / "net.safetensors"
    checkpoints.save(path, network, {"licence": "Apache-2.0"})
    loaded = checkpoints.load(path)
    assert loaded.config == network.config
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(network), strict=True):
        np.testing.assert_array_equal(a, b)
    card = json.loads((tmp_path / "net.json").read_text())
    assert card["licence"] == "Apache-2.0" and card["architecture"] == "wide_resnet"
    assert card["parameters"] == models.num_params(network)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.json", "net.safetensors"]


def test_half_precision_storage_is_loaded_as_float32(tmp_path, network):
    path = tmp_path / "net.safetensors"
    checkpoints.save(path, network, {}, dtype="float16")
    loaded = checkpoints.load(path)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(network), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_array_equal(a, np.asarray(b, np.float16).astype(np.float32))


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
    checkpoints.save_tree(path, tree, {})
    with jax.enable_x64(True):
        loaded = checkpoints.load_tree(path, tree)
    jax.tree.map(np.testing.assert_array_equal, loaded, tree)
    assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(jnp.shape, tree)


def test_every_mismatch_is_listed_at_once(tmp_path):
    path = tmp_path / "tree.safetensors"
    checkpoints.save_tree(
        path, {"a": np.zeros(3), "b": np.zeros(2), "old": np.zeros(1)}, {}
    )
    like = {"a": np.zeros(3), "b": np.zeros((2, 1)), "new": np.zeros(1)}
    with pytest.raises(checkpoints.CheckpointError) as error:
        checkpoints.load_tree(path, like)
    for piece in ("missing new", "unexpected old", "b has shape (2,), expected (2, 1)"):
        assert piece in str(error.value)


def test_a_file_cut_short_is_refused(tmp_path, network):
    path = tmp_path / "net.safetensors"
    checkpoints.save(path, network, {})
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(checkpoints.CheckpointError, match="not a readable"):
            checkpoints.load(path)


def test_another_programs_safetensors_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, path)
    with pytest.raises(checkpoints.CheckpointError, match="not a jaxpure network"):
        checkpoints.load(path)


def test_unknown_names_are_told_the_closest():
    with pytest.raises(checkpoints.CheckpointError) as error:
        checkpoints.load("digits_clasifier")
    assert "Did you mean 'digits_classifier'" in str(error.value)
    with pytest.raises(checkpoints.CheckpointError, match="does not exist"):
        checkpoints.load("nowhere/net.safetensors")


@pytest.mark.parametrize("name", sorted(checkpoints.bundled()))
def test_bundled_weights_have_cards_and_run(name):
    path = checkpoints.bundled()[name]
    card = json.loads(path.with_suffix(".json").read_text())
    assert {"data", "training", "seed", "steps", "result", "licence"} <= set(card)
    assert path.stat().length < (1e6 if name.startswith("digits") else 12e6)
    network = checkpoints.load(name)
    x = jnp.full(network.config.input_shape, 0.5)
    arguments = (x,) if card["task"] == "classifier" else (x, jnp.float32(10))
    out = network(*arguments)
    expected = (10,) if card["task"] == "classifier" else x.shape
    assert out.shape == expected and bool(jnp.isfinite(out).all())
