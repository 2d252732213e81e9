"""timm's vision transformers: DeiT-S and ViT-B/16 (patch16_224).

Mean and standard deviation are not among the tensors: a hub folder's config.json has
them, and DeiT's are ImageNet's. ViT-B was published with both ImageNet's and 0.5, so a
bare file of it says nothing and the command asks.
"""

from checkpoints_convert.family import Contents, Family
from checkpoints_convert.rules import ConversionError, Layer
from jaxpure.models import VisionTransformer
from jaxpure.models.resnet import IMAGENET_MEAN, IMAGENET_STD

HEAD_FEATURES = 64  # of every published size


def architecture(contents: Contents) -> VisionTransformer:
    shapes = contents.shapes
    features, in_channels, patch_size, _ = shapes["patch_embed.proj.weight"]
    tokens = shapes["pos_embed"][1]
    side = round((tokens - 1) ** 0.5)
    if side**2 != tokens - 1:
        raise ConversionError(
            f"pos_embed has {tokens} tokens: one class token and a square of patches are "
            "supported (a distilled DeiT has two extra tokens)"
        )
    published = {**contents.settings, **contents.settings.get("pretrained_cfg", {})}
    if features == 384:
        published = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, **published}
    return VisionTransformer(
        image_size=side * patch_size,
        patch_size=patch_size,
        features=features,
        depth=contents.count("blocks.{}."),
        num_heads=max(features // HEAD_FEATURES, 1),
        mlp_features=shapes["blocks.0.mlp.fc1.weight"][0],
        num_classes=shapes["head.weight"][0],
        in_channels=in_channels,
        mean=tuple(published.get("mean", ())),
        std=tuple(published.get("std", ())),
    )


def layers(config: VisionTransformer) -> list[Layer]:
    del config
    block, ours = r"blocks\.(\d+)", r"blocks.\1"
    return [
        Layer("patches", r"patch_embed\.proj", "patches"),
        Layer("array", "cls_token", "class_token"),
        Layer("array", "pos_embed", "positions"),
        Layer("norm", rf"{block}\.norm([12])", rf"{ours}.norm\2"),
        Layer("dense", rf"{block}\.attn\.qkv", f"{ours}.qkv"),
        Layer("dense", rf"{block}\.attn\.proj", f"{ours}.out"),
        Layer("dense", rf"{block}\.mlp\.fc([12])", rf"{ours}.mlp\2"),
        Layer("norm", "norm", "norm_out"),
        Layer("dense", "head", "logits"),
    ]


FAMILY = Family(
    name="timm_vit",
    about="timm VisionTransformer: DeiT-S and ViT-B/16, patch16_224",
    recognise=lambda c: c.has("cls_token", "pos_embed", "blocks.0.attn.qkv.weight"),
    architecture=architecture,
    layers=layers,
)
