"""ConvMixer (Trockman and Kolter 2022, arXiv:2201.09792).

Patches as pixels, then blocks that mix space and channels in turn: a convolution of each
channel alone with a way around it, and a 1x1 convolution, each with GELU and batch
normalisation behind. The input range is [0, 1]; `mean` and `std` are subtracted and
divided inside.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
from flax import nnx

from jaxpure.errors import UserError
from jaxpure.models.airnet import CIFAR10_MEAN, CIFAR10_STD
from jaxpure.models.depthwise import depthwise, depthwise_init
from jaxpure.models.layers import (
    NO_PADDING,
    BatchNorm,
    Conv,
    Dense,
    mean_over_pixels,
    normalise,
)
from jaxpure.models.network import ComputeDtype, Role, check_compute_dtype


@dataclass(frozen=True)
class ConvMixer:
    """Architecture of a classifier `(x) -> logits`.

    Attributes:
      features: channels.
      depth: blocks.
      kernel_size: of the spatial mixing; odd.
      patch_size: height and width of a patch; divides `image_size`.
      num_classes: length of the logits.
      image_size: height and width.
      in_channels: channels of an image.
      mean: per channel, or a single number for all of them.
      std: per channel, or a single number for all of them.
      compute_dtype: dtype of activations, "float32" or "bfloat16"; the input's own
        dtype where that is wider. Logits come in the dtype of the input.
    """

    features: int = 256
    depth: int = 8
    kernel_size: int = 5
    patch_size: int = 2
    num_classes: int = 10
    image_size: int = 32
    in_channels: int = 3
    mean: tuple[float, ...] = CIFAR10_MEAN
    std: tuple[float, ...] = CIFAR10_STD
    compute_dtype: ComputeDtype = "float32"

    role: ClassVar[Role] = "classifier"

    def __post_init__(self):
        check_compute_dtype(self.compute_dtype)
        if self.kernel_size % 2 == 0:
            raise UserError(f"kernel_size={self.kernel_size}, expected an odd number")
        if self.image_size % self.patch_size:
            raise UserError(
                f"image_size={self.image_size} is not a multiple of "
                f"patch_size={self.patch_size}"
            )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.image_size, self.image_size, self.in_channels)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        return _ConvMixer(self, rngs)


class _Block(nnx.Module):
    def __init__(self, config: ConvMixer, rngs: nnx.Rngs):
        width = config.features
        self.spatial = nnx.Param(depthwise_init(rngs.params(), config.kernel_size, width))
        self.norm1 = BatchNorm(width)
        self.channels = Dense(width, width, rngs=rngs)
        self.norm2 = BatchNorm(width)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        h = jax.nn.gelu(depthwise(x, self.spatial[...].astype(x.dtype)))
        x = x + self.norm1(h, train=train)
        return self.norm2(jax.nn.gelu(self.channels(x)), train=train)


class _ConvMixer(nnx.Module):
    def __init__(self, config: ConvMixer, rngs: nnx.Rngs):
        self.config = config
        self.patches = Conv(
            config.in_channels,
            config.features,
            config.patch_size,
            stride=config.patch_size,
            padding=NO_PADDING,
            rngs=rngs,
        )
        self.norm_in = BatchNorm(config.features)
        self.blocks = nnx.List([_Block(config, rngs) for _ in range(config.depth)])
        self.logits = Dense(config.features, config.num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits `(..., num_classes)` of images `(..., H, W, C)` in [0, 1]."""
        given, config = x.dtype, self.config
        x = normalise(x, config.mean, config.std, config.compute_dtype)
        x = self.norm_in(jax.nn.gelu(self.patches(x)), train=train)
        for block in self.blocks:
            x = block(x, train=train)
        return self.logits(mean_over_pixels(x)).astype(given)
