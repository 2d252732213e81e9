"""Residual networks: torchvision's, kuangliu's for CIFAR (DiffPure's), and He's for CIFAR.

One body under three names of the same parts. The first two project in their shortcuts;
He's CIFAR networks (akamaster/pytorch_resnet_cifar10) have no parameters there.
"""

from functools import partial

from checkpoints_convert.family import Contents, Family
from checkpoints_convert.rules import ConversionError, Layer
from jaxpure.models import ResNet
from jaxpure.models.resnet import EXPANSION, IMAGENET_MEAN, IMAGENET_STD

# DiffPure's wrapper of its CIFAR-10 ResNet-50.
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def architecture(contents: Contents, **known) -> ResNet:
    shapes = contents.shapes
    block = "bottleneck" if contents.has("layer1.0.conv3.weight") else "basic"
    stages = contents.count("layer{}.", first=1)
    # The last convolution's output is the planes, or four times that in a bottleneck.
    last = "conv3" if block == "bottleneck" else "conv2"
    planes = [
        shapes[f"layer{i + 1}.0.{last}.weight"][0] // EXPANSION[block]
        for i in range(stages)
    ]
    width = shapes["layer1.0.conv1.weight"][0]
    if width % planes[0]:
        raise ConversionError(
            f"layer1.0.conv1 is {width} wide, not a multiple of the planes {planes[0]}: "
            "not a ResNet or Wide ResNet (ResNeXt is not supported)"
        )
    head = "fc" if contents.has("fc.weight") else "linear"
    return ResNet(
        layers=tuple(contents.count(f"layer{i + 1}.{{}}.") for i in range(stages)),
        planes=tuple(planes),
        width_factor=width // planes[0],
        block=block,
        stem_width=shapes["conv1.weight"][0],
        num_classes=shapes[f"{head}.weight"][0],
        in_channels=shapes["conv1.weight"][1],
        **known,
    )


def layers(config: ResNet, shortcut: str, head: str) -> list[Layer]:
    table = [
        Layer("conv", "conv1", "conv_in"),
        Layer("batch_norm", "bn1", "norm_in"),
        Layer("dense", head, "logits"),
    ]
    for stage in range(len(config.layers)):
        source, target = rf"layer{stage + 1}\.(\d+)", rf"stages.{stage}.\1"
        for i in range(3 if config.block == "bottleneck" else 2):
            table += [
                Layer("conv", rf"{source}\.conv{i + 1}", f"{target}.convs.{i}"),
                Layer("batch_norm", rf"{source}\.bn{i + 1}", f"{target}.norms.{i}"),
            ]
        table += [
            Layer("conv", rf"{source}\.{shortcut}\.0", f"{target}.shortcut.conv"),
            Layer("batch_norm", rf"{source}\.{shortcut}\.1", f"{target}.shortcut.norm"),
        ]
    return table


TORCHVISION = Family(
    name="torchvision_resnet",
    about="torchvision ResNets and Wide ResNets for ImageNet",
    recognise=lambda c: c.has("layer1.0.bn1.weight", "fc.weight", "bn1.weight"),
    architecture=partial(
        architecture, stem="imagenet", mean=IMAGENET_MEAN, std=IMAGENET_STD
    ),
    layers=partial(layers, shortcut="downsample", head="fc"),
)

KUANGLIU = Family(
    name="cifar_resnet",
    about="CIFAR ResNets with projections (kuangliu/pytorch-cifar): DiffPure's ResNet-50",
    recognise=lambda c: (
        c.has("layer1.0.bn1.weight", "linear.weight")
        and any(".shortcut.0." in name for name in c.shapes)
    ),
    architecture=partial(
        architecture, stem="cifar", image_size=32, mean=CIFAR_MEAN, std=CIFAR_STD
    ),
    layers=partial(layers, shortcut="shortcut", head="linear"),
)

HE = Family(
    name="he_resnet",
    about="CIFAR-10 ResNet-20 to 1202 of He et al. (akamaster/pytorch_resnet_cifar10)",
    recognise=lambda c: (
        c.has("layer1.0.bn1.weight", "linear.weight")
        and not any(".shortcut." in name for name in c.shapes)
    ),
    architecture=partial(
        architecture,
        stem="cifar",
        shortcut="zero_pad",
        image_size=32,
        mean=IMAGENET_MEAN,  # its authors normalise CIFAR-10 by ImageNet's numbers
        std=IMAGENET_STD,
    ),
    layers=partial(layers, shortcut="shortcut", head="linear"),
)
