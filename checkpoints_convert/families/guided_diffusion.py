"""openai/guided-diffusion and improved-diffusion: ImageNet, LSUN and CIFAR-10 (MIT).

Blocks are numbered through all levels there; the number is worked out from the
architecture here. Names tell neither the size of images nor anything of attention's heads:
both are taken from the published network of these widths, and `--set` is for others.
Attention is placed by level, so it stays right whatever the size.

Nor do they tell the schedule: linear, but for guided-diffusion's 64 px network, trained on
a cosine, and improved-diffusion's of 32 and 64 px, on a cosine of 4000 steps.
"""

from typing import Any

from checkpoints_convert.family import Contents, Family
from checkpoints_convert.rules import ConversionError, Layer
from jaxpure.models import GuidedUNet

# `channel_mult` by size, the same in both repositories.
IMAGE_SIZES = {
    (1, 2, 2, 2): 32,
    (1, 2, 3, 4): 64,
    (1, 1, 2, 3, 4): 128,
    (1, 1, 2, 2, 4, 4): 256,
    (0.5, 1, 1, 2, 2, 4, 4): 512,
}


def architecture(contents: Contents) -> GuidedUNet:
    shapes = contents.shapes
    channels = shapes["time_embed.0.weight"][1]
    rhythm = _blocks_between_resizes(contents)
    count = contents.count("input_blocks.{}.") - 1  # the first is a convolution
    if (count + 1) % rhythm:
        raise ConversionError(
            f"{count} input blocks do not make levels of {rhythm - 1} residual blocks"
        )
    levels = (count + 1) // rhythm
    firsts = [1 + i * rhythm for i in range(levels)]
    widths = [shapes[f"input_blocks.{n}.0.out_layers.3.weight"][0] for n in firsts]
    attends = [contents.has(f"input_blocks.{n}.1.qkv.weight") for n in firsts]
    mult = tuple(_ratio(width, channels) for width in widths)
    updown = not any(name.endswith(".0.op.weight") for name in shapes)
    scale_shift = shapes["input_blocks.1.0.emb_layers.1.weight"][0] == 2 * widths[0]
    published = IMAGE_SIZES.get(mult)
    return GuidedUNet(
        image_size=published or 64,
        in_channels=shapes["input_blocks.0.0.weight"][1],
        out_channels=shapes["out.2.weight"][0],
        channels=channels,
        channel_mult=mult,
        num_res_blocks=rhythm - 1,
        attention_levels=tuple(i for i, a in enumerate(attends) if a),
        scale_shift=scale_shift,
        resblock_updown=updown,
        num_classes=shapes.get("label_emb.weight", (0,))[0],
        **_heads(published, updown, scale_shift),
    )


def _heads(published: int | None, updown: bool, scale_shift: bool) -> dict[str, Any]:
    """How the network published at this size splits its attention, by its flags."""
    if not updown:  # improved-diffusion; its LSUN networks alone do not scale and shift
        return {"head_channels": 0, "num_heads": 4 if scale_shift else 1}
    if published == 128:
        return {"head_channels": 0, "num_heads": 4}
    return {"head_channels": 64, "qkv_first": published == 64}


def _blocks_between_resizes(contents: Contents) -> int:
    """Residual blocks of a level going up, one more than of a level going down.

    A block that halves the resolution looks like any other. Going up, what doubles it
    comes behind the last block of a level, as part 1 or, after an attention, part 2.
    """
    parts = (
        "1.conv.weight",
        "1.in_layers.2.weight",
        "2.conv.weight",
        "2.in_layers.2.weight",
    )
    for n in range(contents.count("output_blocks.{}.")):
        if any(contents.has(f"output_blocks.{n}.{part}") for part in parts):
            return n + 1
    raise ConversionError("no output block doubles the resolution: not guided-diffusion's")


def _ratio(width: int, channels: int) -> float:
    """A whole number where it is one, so that the architecture prints as published."""
    return width // channels if width % channels == 0 else width / channels


def layers(config: GuidedUNet) -> list[Layer]:
    table = [
        Layer("dense", r"time_embed\.0", "time1"),
        Layer("dense", r"time_embed\.2", "time2"),
        Layer("table", r"label_emb", "classes"),
        Layer("conv", r"input_blocks\.0\.0", "conv_in"),
        *_block(r"middle_block\.0", "mid1"),
        *_attention(r"middle_block\.1", "mid_attention"),
        *_block(r"middle_block\.2", "mid2"),
        Layer("norm", r"out\.0", "norm_out"),
        Layer("conv", r"out\.2", "conv_out"),
    ]
    levels, per_level, n = len(config.channel_mult), config.num_res_blocks, 1
    for i in range(levels):
        for j in range(per_level):
            table += _block(rf"input_blocks\.{n}\.0", f"down.{i}.blocks.{j}")
            table += _attention(rf"input_blocks\.{n}\.1", f"down.{i}.attentions.{j}")
            n += 1
        if i + 1 < levels:
            table += _resize(config, rf"input_blocks\.{n}\.0", f"down.{i}.resize", "op")
            n += 1
    n = 0
    for i in range(levels):  # coarsest first, there and here
        attends = levels - 1 - i in config.attention_levels
        for j in range(per_level + 1):
            table += _block(rf"output_blocks\.{n}\.0", f"up.{i}.blocks.{j}")
            if attends:
                table += _attention(rf"output_blocks\.{n}\.1", f"up.{i}.attentions.{j}")
            n += 1
        if i + 1 < levels:
            place = rf"output_blocks\.{n - 1}\.{2 if attends else 1}"
            table += _resize(config, place, f"up.{i}.resize", "conv")
    return table


def _block(source: str, target: str) -> list[Layer]:
    return [
        Layer("norm", rf"{source}\.in_layers\.0", f"{target}.norm1"),
        Layer("conv", rf"{source}\.in_layers\.2", f"{target}.conv1"),
        Layer("dense", rf"{source}\.emb_layers\.1", f"{target}.time"),
        Layer("norm", rf"{source}\.out_layers\.0", f"{target}.norm2"),
        Layer("conv", rf"{source}\.out_layers\.3", f"{target}.conv2"),
        Layer("pointwise", rf"{source}\.skip_connection", f"{target}.shortcut"),
    ]


def _attention(source: str, target: str) -> list[Layer]:
    return [
        Layer("norm", rf"{source}\.norm", f"{target}.norm"),
        Layer("pointwise", rf"{source}\.qkv", f"{target}.qkv"),
        Layer("pointwise", rf"{source}\.proj_out", f"{target}.out"),
    ]


def _resize(config: GuidedUNet, source: str, target: str, conv: str) -> list[Layer]:
    if config.resblock_updown:
        return _block(source, target)
    return [Layer("conv", rf"{source}\.{conv}", target)]


def _training(config: GuidedUNet) -> dict[str, Any]:
    """What the published network of this architecture was trained for, by its flags."""
    learned = config.out_channels == 2 * config.in_channels
    known = {"variance": "learned_range" if learned else "fixed_large"}
    if (
        not config.resblock_updown and config.scale_shift
    ):  # improved-diffusion, 32 and 64 px
        # Labels were rescaled to 1000 in training (`rescale_timesteps`).
        cosine = {"schedule": "cosine(num_timesteps=4000)", "timesteps": 4000}
        return {**cosine, "label_scale": 0.25, **known}
    schedule = "cosine" if config.resblock_updown and config.image_size == 64 else "linear"
    return {"schedule": schedule, "timesteps": 1000, **known}


FAMILY = Family(
    name="guided_diffusion",
    about="openai/guided-diffusion (and improved-diffusion) U-Nets",
    recognise=lambda c: c.has("time_embed.0.weight", "input_blocks.0.0.weight"),
    architecture=architecture,
    layers=layers,
    trained=_training,
)
