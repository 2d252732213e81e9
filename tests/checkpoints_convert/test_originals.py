"""Originals built with random weights, saved by their own code, converted, compared."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import max_error, nhwc

from checkpoints_convert import ConversionError, convert
from jaxpure import checkpoints
from jaxpure.purifiers.resized import resize


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def diffusers(torch):
    return pytest.importorskip("diffusers")


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def small_unet(diffusers, torch):
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        attention_head_dim=None,
    )
    return model.eval()


def assert_same_function(torch, model, path):
    network = checkpoints.load(path)
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 3, 16, 16)).astype(np.float32)
    t = np.array([3.0, 700.0], np.float32)
    with torch.no_grad():
        want = model(torch.from_numpy(x), torch.from_numpy(t)).sample.numpy()
    got = jax.jit(jax.vmap(network))(jnp.asarray(nhwc(x)), jnp.asarray(t))
    assert max_error(got, nhwc(want)) < 1e-4


@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_of_diffusers(tmp_path, torch, diffusers, safe):
    model = small_unet(diffusers, torch)
    model.save_pretrained(tmp_path / "unet", safe_serialization=safe)
    scheduler = diffusers.DDPMScheduler(variance_type="fixed_large", clip_sample=True)
    scheduler.save_pretrained(tmp_path / "unet")
    card = convert(str(tmp_path / "unet"), tmp_path / "out.safetensors")
    assert card["diffusion"] == {
        "schedule": "linear",
        "variance": "fixed_large",
        "clip": True,
        "timesteps": 1000,
    }
    assert_same_function(torch, model, tmp_path / "out.safetensors")


def test_a_pipeline_of_diffusers(tmp_path, torch, diffusers):
    """Its U-Net and its scheduler are folders beside each other."""
    model = small_unet(diffusers, torch)
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=200, beta_start=5e-4, beta_end=0.1, variance_type="fixed_small"
    )
    pipeline = diffusers.DDPMPipeline(model, scheduler)
    pipeline.save_pretrained(tmp_path / "pipeline")
    card = convert(str(tmp_path / "pipeline"), tmp_path / "out.safetensors")
    assert card["diffusion"]["schedule"] == "linear(num_timesteps=200)"
    assert card["diffusion"]["timesteps"] == 200
    assert_same_function(torch, model, tmp_path / "out.safetensors")


def test_attention_under_its_old_names(tmp_path, torch, diffusers):
    """As the files of before 2023 have it, google/ddpm-cifar10-32 among them."""
    model = small_unet(diffusers, torch)
    model.save_pretrained(tmp_path / "unet", safe_serialization=False)
    file = tmp_path / "unet" / "diffusion_pytorch_model.bin"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, value in torch.load(file, weights_only=True).items():
        for new, legacy in old.items():
            name = name.replace(f".{new}.", f".{legacy}.")
        tensors[name] = value
    assert any("proj_attn" in name for name in tensors)
    torch.save(tensors, file)
    convert(str(tmp_path / "unet"), tmp_path / "out.safetensors")
    assert_same_function(torch, model, tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_eps": 1e-5}, "norm_eps = 1e-05"),
        ({"flip_sin_to_cos": True}, "flip_sin_to_cos = True"),
        ({"class_embed_type": "timestep"}, "class_embed_type = 'timestep'"),
        ({"down_block_types": ["DownBlock2D", "Strange", "DownBlock2D"]}, "Strange"),
    ],
)
def test_a_setting_that_would_be_another_function_is_refused(
    tmp_path, torch, diffusers, change, message
):
    small_unet(diffusers, torch).save_pretrained(tmp_path / "unet")
    path = tmp_path / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConversionError, match=message):
        convert(str(tmp_path / "unet"), tmp_path / "out.safetensors")


def test_a_bare_file_of_diffusers_asks_for_its_folder(tmp_path, torch, diffusers):
    small_unet(diffusers, torch).save_pretrained(tmp_path / "unet")
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(ConversionError, match="needs its config.json"):
        convert(str(file), tmp_path / "out.safetensors")


@pytest.mark.parametrize("name", ["deit_small_patch16_224", "vit_base_patch16_224"])
@pytest.mark.slow
def test_timm(tmp_path, torch, name):
    timm = pytest.importorskip("timm", exc_type=ImportError)
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "timm.pth")
    bare = {"mean": "0.0", "std": "1.0"}
    convert(str(tmp_path / "timm.pth"), tmp_path / "out.safetensors", settings=bare)
    x = np.random.default_rng(0).uniform(size=(1, 3, 224, 224)).astype(np.float32)
    with torch.no_grad():
        want = model(torch.from_numpy(x)).numpy()
    got = jax.jit(checkpoints.load(tmp_path / "out.safetensors"))(jnp.asarray(nhwc(x)))
    assert max_error(got, want) < 1e-4


@pytest.mark.parametrize(("before", "after"), [(224, 256), (256, 224), (8, 13)])
def test_resizing_is_torchs(torch, before, after):
    x = np.random.default_rng(0).uniform(size=(1, 3, before, before)).astype(np.float32)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(x), size=(after, after), mode="bilinear", align_corners=False
    ).numpy()
    got = resize(jnp.asarray(nhwc(x)[0]), (after, after))
    np.testing.assert_allclose(got, nhwc(want)[0], atol=2e-6)
