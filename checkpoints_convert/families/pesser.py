"""pesser/pytorch_diffusion: Ho et al.'s DDPM weights, converted from TensorFlow (MIT).

CIFAR-10 and the 256 px LSUN and CelebA-HQ networks, each with and without EMA: a flat
state_dict of 328 tensors for CIFAR-10. `up.i` is numbered by resolution there (the last
runs first); here `up` is in the order in which it runs.
"""

from checkpoints_convert.family import Contents, Family
from checkpoints_convert.rules import Layer
from jaxpure.models import UNet


def architecture(contents: Contents) -> UNet:
    channels = contents.shapes["conv_in.weight"][0]
    levels = contents.count("down.{}.")
    widths = [contents.shapes[f"down.{i}.block.0.conv1.weight"][0] for i in range(levels)]
    attending = [i for i in range(levels) if contents.count(f"down.{i}.attn.{{}}.")]
    # The networks of this code attend at a height of 16: that tells the size of images.
    image_size = 16 * 2 ** attending[0] if attending else 32
    return UNet(
        image_size=image_size,
        in_channels=contents.shapes["conv_in.weight"][1],
        out_channels=contents.shapes["conv_out.weight"][0],
        channels=channels,
        channel_mult=tuple(width // channels for width in widths),
        num_res_blocks=contents.count("down.0.block.{}."),
        attention_resolutions=tuple(image_size // 2**i for i in attending),
    )


def layers(config: UNet) -> list[Layer]:
    table = [
        Layer("dense", r"temb\.dense\.0", "time1"),
        Layer("dense", r"temb\.dense\.1", "time2"),
        Layer("conv", r"conv_(in|out)", r"conv_\1"),
        Layer("norm", r"norm_out", "norm_out"),
        *_block(r"mid\.block_([12])", r"mid\1"),
        *_attention(r"mid\.attn_1", "mid_attention"),
        *_block(r"down\.(\d+)\.block\.(\d+)", r"down.\1.blocks.\2"),
        *_attention(r"down\.(\d+)\.attn\.(\d+)", r"down.\1.attentions.\2"),
        Layer("conv", r"down\.(\d+)\.downsample\.conv", r"down.\1.resize"),
    ]
    levels = len(config.channel_mult)
    for i in range(levels):
        level = f"up.{levels - 1 - i}"
        table += [
            *_block(rf"up\.{i}\.block\.(\d+)", rf"{level}.blocks.\1"),
            *_attention(rf"up\.{i}\.attn\.(\d+)", rf"{level}.attentions.\1"),
            Layer("conv", rf"up\.{i}\.upsample\.conv", f"{level}.resize"),
        ]
    return table


def _block(source: str, target: str) -> list[Layer]:
    return [
        Layer("norm", rf"{source}\.norm1", f"{target}.norm1"),
        Layer("norm", rf"{source}\.norm2", f"{target}.norm2"),
        Layer("conv", rf"{source}\.conv1", f"{target}.conv1"),
        Layer("conv", rf"{source}\.conv2", f"{target}.conv2"),
        Layer("dense", rf"{source}\.temb_proj", f"{target}.time"),
        Layer("pointwise", rf"{source}\.nin_shortcut", f"{target}.shortcut"),
    ]


def _attention(source: str, target: str) -> list[Layer]:
    names = {"q": "query", "k": "key", "v": "value", "proj_out": "out"}
    return [
        Layer("norm", rf"{source}\.norm", f"{target}.norm"),
        *(Layer("pointwise", rf"{source}\.{a}", f"{target}.{b}") for a, b in names.items()),
    ]


FAMILY = Family(
    name="pesser",
    about="DDPM of Ho et al. as ported by pesser/pytorch_diffusion",
    recognise=lambda c: c.has("temb.dense.0.weight", "down.0.block.0.temb_proj.weight"),
    architecture=architecture,
    layers=layers,
    trained=lambda architecture: {
        "schedule": "linear",
        "variance": "fixed_large",
        "timesteps": 1000,
    },
)
