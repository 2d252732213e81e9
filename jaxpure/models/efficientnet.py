"""EfficientNet-Lite, EfficientNets (Tan and Le 2019, arXiv:1905.11946) for small devices.

Blocks that widen, mix each channel's pixels alone, and narrow again (the inverted residuals
of MobileNetV2), without squeeze-and-excitation, and with ReLU6 in place of swish. Stem and
head keep their width whatever the size. The function of TensorFlow's
models/official/efficientnet/lite, its "SAME" padding included: at stride 2 an even size has
its zeros below and to the right. The input range is [0, 1]; `mean` and `std` are subtracted
and divided inside.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
from flax import nnx

from jaxpure.errors import UserError
from jaxpure.models.depthwise import depthwise, depthwise_init, same_padding
from jaxpure.models.layers import (
    NO_PADDING,
    BatchNorm,
    Conv,
    Dense,
    mean_over_pixels,
    normalise,
)
from jaxpure.models.network import ComputeDtype, Role, check_compute_dtype

EPSILON = 1e-3  # of batch normalisation
MOMENTUM = 0.99
LITE_MEAN = (127 / 255,) * 3
LITE_STD = (128 / 255,) * 3


@dataclass(frozen=True)
class EfficientNetLite:
    """Architecture of a classifier `(x) -> logits`; the defaults are Lite0.

    Attributes:
      widths: channels of each stage.
      layers: blocks of each stage.
      kernel_sizes: of each stage's mixing of pixels; odd.
      strides: of each stage's first block.
      expansions: how many times each stage's blocks widen inside; 1 for not at all.
      stem_width: channels after the stem, a 3x3 convolution of stride 2.
      head_width: features before the logits.
      num_classes: length of the logits.
      image_size: height and width.
      in_channels: channels of an image.
      mean: per channel, or a single number for all of them.
      std: per channel, or a single number for all of them.
      compute_dtype: dtype of activations, "float32" or "bfloat16"; the input's own
        dtype where that is wider. Logits come in the dtype of the input.
    """

    widths: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    layers: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    kernel_sizes: tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    expansions: tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)
    stem_width: int = 32
    head_width: int = 1280
    num_classes: int = 1000
    image_size: int = 224
    in_channels: int = 3
    mean: tuple[float, ...] = LITE_MEAN
    std: tuple[float, ...] = LITE_STD
    compute_dtype: ComputeDtype = "float32"

    role: ClassVar[Role] = "classifier"

    def __post_init__(self):
        check_compute_dtype(self.compute_dtype)
        stages = ("widths", "layers", "kernel_sizes", "strides", "expansions")
        if len({len(getattr(self, name)) for name in stages}) > 1:
            given = ", ".join(f"{name}={getattr(self, name)}" for name in stages)
            raise UserError(f"{given} name different numbers of stages")
        if any(size % 2 == 0 for size in self.kernel_sizes):
            raise UserError(f"kernel_sizes={self.kernel_sizes}, expected odd numbers")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.image_size, self.image_size, self.in_channels)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        return _EfficientNetLite(self, rngs)


def _norm(channels: int) -> BatchNorm:
    return BatchNorm(channels, epsilon=EPSILON, momentum=MOMENTUM)


class _Pointwise(nnx.Module):
    """A 1x1 convolution and BatchNorm."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.conv = Conv(inputs, outputs, 1, padding=NO_PADDING, bias=False, rngs=rngs)
        self.norm = _norm(outputs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.norm(self.conv(x), train=train)


class _Block(nnx.Module):
    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel_size: int,
        stride: int,
        expansion: int,
        rngs: nnx.Rngs,
    ):
        width = inputs * expansion
        self.stride = stride
        self.around = stride == 1 and inputs == outputs
        self.expand = _Pointwise(inputs, width, rngs) if expansion > 1 else None
        self.spatial = nnx.Param(depthwise_init(rngs.params(), kernel_size, width))
        self.norm = _norm(width)
        self.project = _Pointwise(width, outputs, rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        h = x if self.expand is None else jax.nn.relu6(self.expand(x, train=train))
        h = depthwise(h, self.spatial[...].astype(h.dtype), self.stride)
        h = self.project(jax.nn.relu6(self.norm(h, train=train)), train=train)
        return x + h if self.around else h


class _EfficientNetLite(nnx.Module):
    def __init__(self, config: EfficientNetLite, rngs: nnx.Rngs):
        self.config = config
        pad = same_padding(config.image_size, 3, 2)
        self.conv_in = Conv(
            config.in_channels,
            config.stem_width,
            stride=2,
            padding=(pad, pad),
            bias=False,
            rngs=rngs,
        )
        self.norm_in = _norm(config.stem_width)
        blocks, current = [], config.stem_width
        for width, count, kernel_size, stride, expansion in zip(
            config.widths,
            config.layers,
            config.kernel_sizes,
            config.strides,
            config.expansions,
            strict=True,
        ):
            for i in range(count):
                block = _Block(
                    current,
                    width,
                    kernel_size=kernel_size,
                    stride=1 if i else stride,
                    expansion=expansion,
                    rngs=rngs,
                )
                blocks.append(block)
                current = width
        self.blocks = nnx.List(blocks)
        self.head = _Pointwise(current, config.head_width, rngs)
        self.logits = Dense(config.head_width, config.num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits `(..., num_classes)` of images `(..., H, W, C)` in [0, 1]."""
        given, config = x.dtype, self.config
        x = normalise(x, config.mean, config.std, config.compute_dtype)
        x = jax.nn.relu6(self.norm_in(self.conv_in(x), train=train))
        for block in self.blocks:
            x = block(x, train=train)
        x = jax.nn.relu6(self.head(x, train=train))
        return self.logits(mean_over_pixels(x)).astype(given)
