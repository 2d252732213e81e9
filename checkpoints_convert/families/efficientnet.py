"""EfficientNet-Lite as ml-illustrated/EfficientNet-Lite-PyTorch names it.

Its tensors are those of TensorFlow's models/official/efficientnet/lite. Blocks are numbered
through; a stage begins where their width changes, which it does at every stage of Lite0 to
Lite4. Strides are the same in all of them, and the size of the images is known by the
network's.
"""

from itertools import groupby

from checkpoints_convert.family import Contents, Family
from checkpoints_convert.rules import ConversionError, Layer
from jaxpure.models import EfficientNetLite

# By the last stage's width and the second's blocks: Lite0 to Lite4.
IMAGE_SIZES = {(320, 2): 224, (320, 3): 240, (352, 3): 260, (384, 3): 280, (448, 4): 300}


def architecture(contents: Contents) -> EfficientNetLite:
    shapes = contents.shapes

    def width(block: int) -> int:
        return shapes[f"_blocks.{block}._project_conv.weight"][0]

    blocks = range(contents.count("_blocks.{}."))
    stages = [list(stage) for _, stage in groupby(blocks, width)]
    widths, layers = tuple(width(s[0]) for s in stages), tuple(map(len, stages))
    if len(stages) != 7 or (widths[-1], layers[1]) not in IMAGE_SIZES:
        raise ConversionError(
            f"stages of {layers} blocks with {widths} channels: not those of any of "
            "EfficientNet-Lite0 to Lite4"
        )
    stem_width, in_channels, _, _ = shapes["_conv_stem.weight"]
    spatial = [shapes[f"_blocks.{s[0]}._depthwise_conv.weight"] for s in stages]
    entering = (stem_width, *widths)
    return EfficientNetLite(
        widths=widths,
        layers=layers,
        kernel_sizes=tuple(shape[-1] for shape in spatial),
        expansions=tuple(
            shape[0] // inputs for shape, inputs in zip(spatial, entering, strict=False)
        ),
        stem_width=stem_width,
        head_width=shapes["_conv_head.weight"][0],
        num_classes=shapes["_fc.weight"][0],
        image_size=IMAGE_SIZES[widths[-1], layers[1]],
        in_channels=in_channels,
    )


def layers(config: EfficientNetLite) -> list[Layer]:
    del config
    block, ours = r"_blocks\.(\d+)", r"blocks.\1"
    return [
        Layer("conv", "_conv_stem", "conv_in"),
        Layer("batch_norm", "_bn0", "norm_in"),
        Layer("conv", rf"{block}\._expand_conv", f"{ours}.expand.conv"),
        Layer("batch_norm", rf"{block}\._bn0", f"{ours}.expand.norm"),
        Layer("depthwise", rf"{block}\._depthwise_conv", f"{ours}.spatial"),
        Layer("batch_norm", rf"{block}\._bn1", f"{ours}.norm"),
        Layer("conv", rf"{block}\._project_conv", f"{ours}.project.conv"),
        Layer("batch_norm", rf"{block}\._bn2", f"{ours}.project.norm"),
        Layer("conv", "_conv_head", "head.conv"),
        Layer("batch_norm", "_bn1", "head.norm"),
        Layer("dense", "_fc", "logits"),
    ]


FAMILY = Family(
    name="efficientnet_lite",
    about="EfficientNet-Lite0 to Lite4 for ImageNet (EfficientNet-Lite-PyTorch)",
    recognise=lambda c: (
        c.has("_conv_stem.weight", "_blocks.0._depthwise_conv.weight", "_fc.weight")
        and not any("._se_reduce." in name for name in c.shapes)
    ),
    architecture=architecture,
    layers=layers,
)
