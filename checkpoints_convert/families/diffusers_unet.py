"""diffusers `UNet2DModel` folders and hub ids (google/ddpm-cifar10-32 and its kin).

The same network as pesser's under other names. Attention comes under two namings: files
of before 2023 say query, key, value and proj_attn.
"""

from typing import Any

from checkpoints_convert.family import Contents, Family
from checkpoints_convert.rules import ConversionError, Layer
from jaxpure.models import UNet

# Settings that `UNet` has one value of; another would be another function.
FIXED: dict[str, Any] = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "mid_block_scale_factor": 1,
    "downsample_padding": 0,
    "act_fn": "silu",
    "attention_head_dim": None,
    "norm_eps": 1e-6,
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
    "downsample_type": "conv",
    "upsample_type": "conv",
    "mid_block_type": "UNetMidBlock2D",
    "num_train_timesteps": None,
}
# What diffusers takes where config.json says nothing (its UNet2DModel's own defaults).
DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "downsample_padding": 1,
    "attention_head_dim": 8,
    "norm_eps": 1e-5,
}
DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True}
UP = {"UpBlock2D": False, "AttnUpBlock2D": True}


def architecture(contents: Contents) -> UNet:
    if "block_out_channels" not in contents.settings:
        raise ConversionError(
            "a diffusers U-Net needs its config.json: give the folder or the hub id, not "
            "the weights file alone"
        )
    settings = {**FIXED, **DEFAULTS, **contents.settings}
    groups = settings["norm_num_groups"]
    odd = {k: settings[k] for k, v in FIXED.items() if settings[k] != v}
    if settings["attn_norm_num_groups"] not in (None, groups):
        odd["attn_norm_num_groups"] = settings["attn_norm_num_groups"]
    blocks = [*settings["down_block_types"], *settings["up_block_types"]]
    odd |= {b: "block type" for b in blocks if b not in {**DOWN, **UP}}
    if odd:
        raise ConversionError(
            "config.json asks for what this converter does not have: "
            + ", ".join(f"{k} = {v!r}" for k, v in odd.items())
        )
    widths, size = settings["block_out_channels"], settings["sample_size"]
    down = [DOWN[name] for name in settings["down_block_types"]]
    up = [UP[name] for name in reversed(settings["up_block_types"])]
    if down != up:
        raise ConversionError(
            "down_block_types and up_block_types attend at different heights"
        )
    return UNet(
        image_size=size,
        in_channels=settings["in_channels"],
        out_channels=settings["out_channels"],
        channels=widths[0],
        channel_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=settings["layers_per_block"],
        attention_resolutions=tuple(size // 2**i for i, a in enumerate(down) if a),
        num_groups=groups,
    )


def layers(config: UNet) -> list[Layer]:
    del config
    down, up = r"down_blocks\.(\d+)", r"up_blocks\.(\d+)"
    return [
        Layer("dense", r"time_embedding\.linear_([12])", r"time\1"),
        Layer("conv", "conv_in", "conv_in"),
        Layer("conv", "conv_out", "conv_out"),
        Layer("norm", "conv_norm_out", "norm_out"),
        *_block(r"mid_block\.resnets\.0", "mid1"),
        *_block(r"mid_block\.resnets\.1", "mid2"),
        *_attention(r"mid_block\.attentions\.0", "mid_attention"),
        *_block(rf"{down}\.resnets\.(\d+)", r"down.\1.blocks.\2"),
        *_attention(rf"{down}\.attentions\.(\d+)", r"down.\1.attentions.\2"),
        Layer("conv", rf"{down}\.downsamplers\.0\.conv", r"down.\1.resize"),
        *_block(rf"{up}\.resnets\.(\d+)", r"up.\1.blocks.\2"),
        *_attention(rf"{up}\.attentions\.(\d+)", r"up.\1.attentions.\2"),
        Layer("conv", rf"{up}\.upsamplers\.0\.conv", r"up.\1.resize"),
    ]


def _block(source: str, target: str) -> list[Layer]:
    return [
        Layer("norm", rf"{source}\.norm1", f"{target}.norm1"),
        Layer("norm", rf"{source}\.norm2", f"{target}.norm2"),
        Layer("conv", rf"{source}\.conv1", f"{target}.conv1"),
        Layer("conv", rf"{source}\.conv2", f"{target}.conv2"),
        Layer("dense", rf"{source}\.time_emb_proj", f"{target}.time"),
        Layer("pointwise", rf"{source}\.conv_shortcut", f"{target}.shortcut"),
    ]


def _attention(source: str, target: str) -> list[Layer]:
    names = {
        "to_q|query": "query",
        "to_k|key": "key",
        "to_v|value": "value",
        r"to_out\.0|proj_attn": "out",
    }
    return [
        Layer("norm", rf"{source}\.group_norm", f"{target}.norm"),
        *(Layer("dense", rf"{source}\.(?:{a})", f"{target}.{b}") for a, b in names.items()),
    ]


FAMILY = Family(
    name="diffusers_unet",
    about="diffusers UNet2DModel, a folder or a hub id",
    recognise=lambda c: c.has("time_embedding.linear_1.weight", "conv_norm_out.weight"),
    architecture=architecture,
    layers=layers,
)
