"""Families of published checkpoints: one file each, and the registry that names them."""

from checkpoints_convert.families import (
    diffusers_unet,
    efficientnet,
    guided_diffusion,
    pesser,
    resnet,
    score_sde,
    timm_vit,
    wide_resnet,
)
from checkpoints_convert.family import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        diffusers_unet.FAMILY,
        pesser.FAMILY,
        guided_diffusion.FAMILY,
        score_sde.FAMILY,
        wide_resnet.ROBUSTBENCH,
        wide_resnet.DEEPMIND,
        wide_resnet.DIFFPURE_DROPOUT,
        resnet.TORCHVISION,
        resnet.KUANGLIU,
        resnet.HE,
        timm_vit.FAMILY,
        efficientnet.FAMILY,
    )
}
