"""The engine of rules: every tensor used once, every parameter filled once, or an error."""

import pathlib

import numpy as np
import pytest

from checkpoints_convert import rules
from checkpoints_convert.families import FAMILIES
from checkpoints_convert.family import Contents
from checkpoints_convert.rules import ConversionError, Layer
from jaxpure import models, weights

TABLE = [Layer("conv", r"stem\.(\d+)", r"convs.\1"), Layer("dense", "head", "logits")]
SOURCES = {
    "stem.0.weight": (8, 3, 5, 5),
    "stem.0.bias": (8,),
    "head.weight": (10, 8),
    "head.bias": (10,),
}
TARGETS = {
    "params.convs.0.kernel": (5, 5, 3, 8),
    "params.convs.0.bias": (8,),
    "params.logits.kernel": (8, 10),
    "params.logits.bias": (10,),
}


def test_every_parameter_gets_its_tensor_in_our_layout():
    random = np.random.default_rng(0)
    tensors = {name: random.normal(size=shape) for name, shape in SOURCES.items()}
    assigned = rules.assign(TABLE, SOURCES, TARGETS)
    filled = dict(rules.fill(assigned, tensors.__getitem__))
    assert {name: value.shape for name, value in filled.items()} == TARGETS
    for value in filled.values():
        assert value.dtype == np.float32 and value.flags.c_contiguous
    kernel, source = filled["params.convs.0.kernel"], tensors["stem.0.weight"]
    np.testing.assert_allclose(kernel[1, 2, 0, 7], source[7, 0, 1, 2], rtol=1e-6)


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        (
            SOURCES | {"stem.1.weight": (8, 8, 3, 3)},
            TARGETS,
            "1 tensors that nothing uses: stem.1.weight",
        ),
        (
            SOURCES,
            TARGETS | {"params.logits.scale": (8,)},
            "1 parameters that nothing fills: params.logits.scale",
        ),
        (
            SOURCES | {"head.weight": (10, 9)},
            TARGETS,
            r"head.weight \(10, 9\) gives \(9, 10\), params.logits.kernel is \(8, 10\)",
        ),
        (
            SOURCES | {"head.weight": (10,)},
            TARGETS,
            r"head.weight \(10,\) gives \(10,\), params.logits.kernel is \(8, 10\)",
        ),
        (
            {k.replace("head", "heads"): v for k, v in SOURCES.items()},
            TARGETS,
            r"heads.weight \(near params.logits.kernel\)|2 parameters that nothing fills",
        ),
    ],
)
def test_what_does_not_fit_is_listed(sources, targets, message):
    with pytest.raises(ConversionError, match=message):
        rules.assign(TABLE, sources, targets)


def test_two_tensors_for_one_parameter_are_refused():
    table = [Layer("dense", "a|b", "logits")]
    sources = {"a.weight": (10, 8), "b.weight": (10, 8)}
    with pytest.raises(ConversionError, match="b.weight and a.weight both fill"):
        rules.assign(table, sources, {"params.logits.kernel": (8, 10)})


KEYS = pathlib.Path(__file__).parent / "keys"
PUBLISHED = {
    "pesser_ddpm_cifar10": ("pesser", models.UNet.cifar10(), 35_746_307),
    "openai_guided_256_uncond": (
        "guided_diffusion",
        models.GuidedUNet.imagenet256(),
        552_814_086,
    ),
    "score_sde_cifar10_ddpmpp_deep": (
        "score_sde",
        models.NcsnPp.cifar10_deep(),
        106_632_579,
    ),
    "robustbench_WRN-28-10_Standard": (
        "robustbench_wrn",
        models.WideResNet.wrn_28_10(),
        36_479_194,
    ),
    "robustbench_DMWideResNet-70-16": (
        "deepmind_wrn",
        models.WideResNet(
            depth=70,
            width=16,
            activation="swish",
            pad_after=True,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2471, 0.2435, 0.2616),
        ),
        266_796_506,
    ),
    "diffpure_wrn-70-16-dropout": (
        "diffpure_wrn_dropout",
        models.WideResNet(
            depth=70,
            width=16,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2471, 0.2435, 0.2616),
        ),
        266_796_506,
    ),
    "diffpure_cifar10_resnet50": (
        "cifar_resnet",
        models.ResNet.resnet50(
            stem="cifar",
            num_classes=10,
            image_size=32,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2023, 0.1994, 0.2010),
        ),
        23_520_842,
    ),
    "torchvision_resnet50": (
        "torchvision_resnet",
        models.ResNet.resnet50(),
        25_557_032,
    ),
    "torchvision_wide_resnet50_2": (
        "torchvision_resnet",
        models.ResNet.wide_resnet50_2(),
        68_883_240,
    ),
    "timm_deit_small_patch16_224": (
        "timm_vit",
        models.VisionTransformer.deit_small(),
        22_050_664,
    ),
    "efficientnet_lite0": (
        "efficientnet_lite",
        models.EfficientNetLite(),
        4_652_008,
    ),
    "he_resnet20": (
        "he_resnet",
        models.ResNet(
            layers=(3, 3, 3),
            planes=(16, 32, 64),
            block="basic",
            stem="cifar",
            stem_width=16,
            shortcut="zero_pad",
            num_classes=10,
            image_size=32,
        ),
        269_722,
    ),
    "diffusers_ddpm_cifar10_32": (
        "diffusers_unet",
        models.UNet.cifar10(),
        35_746_307,
    ),
}
# What a family reads beside the tensors.
SETTINGS = {
    "diffusers_ddpm_cifar10_32": {
        "sample_size": 32,
        "block_out_channels": [128, 256, 256, 256],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"] + ["DownBlock2D"] * 2,
        "up_block_types": ["UpBlock2D"] * 2 + ["AttnUpBlock2D", "UpBlock2D"],
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
        "attention_head_dim": None,
    }
}


def test_every_family_has_a_published_list_of_tensors():
    assert {family for family, _, _ in PUBLISHED.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_list_of_tensors_is_recognised_and_fits(name):
    """Names and shapes alone, as the published files have them."""
    family, architecture, num_params = PUBLISHED[name]
    shapes = {}
    for line in (KEYS / f"{name}.txt").read_text().splitlines():
        tensor, shape, _ = line.split("\t")
        shapes[tensor] = tuple(int(n) for n in shape.strip("()").split(",") if n.strip())
    contents = Contents(shapes, lambda name: np.zeros(shapes[name]), SETTINGS.get(name, {}))
    assert [f.name for f in FAMILIES.values() if f.recognise(contents)] == [family]
    assert FAMILIES[family].architecture(contents) == architecture
    network = models.abstract(architecture)
    assert models.num_params(network) == num_params
    flat = weights.flatten(network.params)
    targets = {name: x.shape for name, x in flat.items()}
    assigned = rules.assign(FAMILIES[family].layers(architecture), shapes, targets)
    assert sorted(a.target for a in assigned) == sorted(targets)
    used = {a.source for a in assigned}
    assert all(n.endswith(("num_batches_tracked", "sigmas")) for n in {*shapes} - used)
