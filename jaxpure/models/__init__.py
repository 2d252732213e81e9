"""Networks: one file an architecture, and the registry that names them."""

from jaxpure.models.network import (
    Architecture,
    Network,
    abstract,
    create,
    num_params,
)
from jaxpure.models.unet import UNet
from jaxpure.models.wide_resnet import WideResNet

REGISTRY: dict[str, type] = {"unet": UNet, "wide_resnet": WideResNet}

__all__ = [
    "REGISTRY",
    "Architecture",
    "Network",
    "UNet",
    "WideResNet",
    "abstract",
    "create",
    "num_params",
]
