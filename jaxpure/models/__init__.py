"""Networks: one file an architecture, and the registry that names them."""

from jaxpure.models.airnet import AirNet
from jaxpure.models.conv_mixer import ConvMixer
from jaxpure.models.efficientnet import EfficientNetLite
from jaxpure.models.guided_unet import GuidedUNet
from jaxpure.models.naf_unet import NafUNet
from jaxpure.models.ncsnpp import NcsnPp
from jaxpure.models.network import (
    Architecture,
    Network,
    abstract,
    create,
    is_classifier,
    is_denoiser,
    num_params,
)
from jaxpure.models.resnet import ResNet
from jaxpure.models.trained import Trained
from jaxpure.models.unet import UNet
from jaxpure.models.vit import VisionTransformer
from jaxpure.models.wide_resnet import WideResNet
from jaxpure.specs import Registry

ARCHITECTURES = Registry(
    "architecture",
    {
        "unet": UNet,
        "guided_unet": GuidedUNet,
        "ncsnpp": NcsnPp,
        "wide_resnet": WideResNet,
        "resnet": ResNet,
        "vit": VisionTransformer,
        "airnet": AirNet,
        "conv_mixer": ConvMixer,
        "efficientnet_lite": EfficientNetLite,
        "naf_unet": NafUNet,
    },
)

__all__ = [
    "ARCHITECTURES",
    "AirNet",
    "Architecture",
    "ConvMixer",
    "EfficientNetLite",
    "GuidedUNet",
    "NafUNet",
    "NcsnPp",
    "Network",
    "ResNet",
    "Trained",
    "UNet",
    "VisionTransformer",
    "WideResNet",
    "abstract",
    "create",
    "is_classifier",
    "is_denoiser",
    "num_params",
]
