"""score_sde_pytorch: DDPM++ for CIFAR-10, variance preserving, continuous (Apache-2.0).

A checkpoint holds the model under DataParallel's prefix and its average as a bare list;
the average is taken (sources.py pairs it with the names). Modules are one numbered list
there, in the order in which they run.
"""

from collections.abc import Iterator

from checkpoints_convert.family import Contents, Family
from checkpoints_convert.rules import ConversionError, Layer
from jaxpure.models import NcsnPp

FIRST_BLOCK = 3  # after two dense layers and the first convolution


def architecture(contents: Contents) -> NcsnPp:
    shapes = contents.shapes
    channels, in_channels = shapes["all_modules.2.weight"][:2]
    blocks = [
        n
        for n in range(FIRST_BLOCK, contents.count("all_modules.{}."))
        if f"all_modules.{n}.Conv_0.weight" in shapes
    ]
    resizing = [n for n in blocks if _resizes(contents, n)]
    levels = len(resizing) // 2 + 1  # as many double the resolution as halve it
    if levels == 1:
        raise ConversionError("a network of one level is not one of score_sde's")
    per_level = blocks.index(resizing[0])
    firsts = [blocks[i * (per_level + 1)] for i in range(levels)]
    widths = [shapes[f"all_modules.{n}.Conv_0.weight"][0] for n in firsts]
    attends = [contents.has(f"all_modules.{n + 1}.NIN_0.W") for n in firsts]
    # The networks of this configuration attend at a height of 16.
    image_size = 16 * 2 ** attends.index(True) if any(attends) else 32
    return NcsnPp(
        image_size=image_size,
        in_channels=in_channels,
        channels=channels,
        channel_mult=tuple(width // channels for width in widths),
        num_res_blocks=per_level,
        attention_resolutions=tuple(image_size // 2**i for i, a in enumerate(attends) if a),
    )


def _resizes(contents: Contents, n: int) -> bool:
    """Whether block n changes the resolution: only then has it a shortcut to no end."""
    outputs, inputs = contents.shapes[f"all_modules.{n}.Conv_0.weight"][:2]
    return outputs == inputs and contents.has(f"all_modules.{n}.Conv_2.weight")


def layers(config: NcsnPp) -> list[Layer]:
    table = [
        Layer("ignored", "sigmas"),
        Layer("dense", r"all_modules\.0", "time1"),
        Layer("dense", r"all_modules\.1", "time2"),
        Layer("conv", r"all_modules\.2", "conv_in"),
    ]
    n = FIRST_BLOCK
    for target, kind in _in_order(config):
        source = rf"all_modules\.{n}"
        table += _block(source, target) if kind == "block" else _attention(source, target)
        n += 1
    return [
        *table,
        Layer("norm", rf"all_modules\.{n}", "norm_out"),
        Layer("conv", rf"all_modules\.{n + 1}", "conv_out"),
    ]


def _in_order(config: NcsnPp) -> Iterator[tuple[str, str]]:
    """Where each module goes, and whether it is a block or an attention."""
    levels = len(config.channel_mult)
    attends = [
        config.image_size // 2**i in config.attention_resolutions for i in range(levels)
    ]
    for i in range(levels):
        for j in range(config.num_res_blocks):
            yield f"down.{i}.blocks.{j}", "block"
            if attends[i]:
                yield f"down.{i}.attentions.{j}", "attention"
        if i + 1 < levels:
            yield f"down.{i}.resize", "block"
    yield from (("mid1", "block"), ("mid_attention", "attention"), ("mid2", "block"))
    for i in range(levels):  # coarsest first, there and here
        for j in range(config.num_res_blocks + 1):
            yield f"up.{i}.blocks.{j}", "block"
        if attends[levels - 1 - i]:
            yield f"up.{i}.attentions.0", "attention"
        if i + 1 < levels:
            yield f"up.{i}.resize", "block"


def _block(source: str, target: str) -> list[Layer]:
    return [
        Layer("norm", rf"{source}\.GroupNorm_0", f"{target}.norm1"),
        Layer("conv", rf"{source}\.Conv_0", f"{target}.conv1"),
        Layer("dense", rf"{source}\.Dense_0", f"{target}.time"),
        Layer("norm", rf"{source}\.GroupNorm_1", f"{target}.norm2"),
        Layer("conv", rf"{source}\.Conv_1", f"{target}.conv2"),
        Layer("pointwise", rf"{source}\.Conv_2", f"{target}.shortcut"),
    ]


def _attention(source: str, target: str) -> list[Layer]:
    names = ("query", "key", "value", "out")
    return [
        Layer("norm", rf"{source}\.GroupNorm_0", f"{target}.norm"),
        *(
            Layer("nin", rf"{source}\.NIN_{i}", f"{target}.{n}")
            for i, n in enumerate(names)
        ),
    ]


FAMILY = Family(
    name="score_sde",
    about="score_sde_pytorch DDPM++ for CIFAR-10 (VP, continuous), averaged weights",
    recognise=lambda c: c.has("all_modules.3.GroupNorm_0.weight", "all_modules.0.weight"),
    architecture=architecture,
    layers=layers,
    trained=lambda architecture: {"schedule": "continuous_vp", "timesteps": 1000},
)
