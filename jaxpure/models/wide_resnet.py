"""Wide residual networks (Zagoruyko and Komodakis 2016, arXiv:1605.07146).

Same function as RobustBench's `WideResNet` (its CIFAR-10 `Standard` is
`WideResNet.wrn_28_10()`): pre-activation blocks, BatchNorm eps 1e-5, and a block that
changes its width feeds the activated input to both branches. The input range is
[0, 1]; `mean` and `std` are subtracted and divided inside.

With `activation="swish"` and `pad_after` it is DeepMind's variant (Gowal et al. 2020,
arXiv:2010.03593), RobustBench's `DMWideResNet` and DiffPure's WRN-70-16.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
from flax import nnx

from jaxpure.errors import UserError, check_in
from jaxpure.models.layers import (
    NO_PADDING,
    SAME_3X3,
    BatchNorm,
    Conv,
    Dense,
    mean_over_pixels,
    normalise,
)
from jaxpure.models.network import ComputeDtype, Role, check_compute_dtype

Activation = Literal["relu", "swish"]
ACTIVATIONS = {"relu": jax.nn.relu, "swish": jax.nn.swish}


@dataclass(frozen=True)
class WideResNet:
    """Architecture of a classifier `(x) -> logits`.

    Attributes:
      depth: `6 n + 4`; n blocks in each of three groups.
      width: channels of the groups are 16, 32, 64 times this.
      num_classes: length of the logits.
      image_size: height and width.
      in_channels: channels of an image.
      mean: per channel, or a single number for all of them.
      std: per channel, or a single number for all of them.
      activation: "relu" or "swish".
      pad_after: a convolution of stride 2 pads one pixel below and to the right (as
        TensorFlow does) and not one on every side.
      compute_dtype: dtype of activations, "float32" or "bfloat16"; the input's own
        dtype where that is wider. Logits come in the dtype of the input.
    """

    depth: int = 28
    width: int = 10
    num_classes: int = 10
    image_size: int = 32
    in_channels: int = 3
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    activation: Activation = "relu"
    pad_after: bool = False
    compute_dtype: ComputeDtype = "float32"

    role: ClassVar[Role] = "classifier"

    def __post_init__(self):
        check_compute_dtype(self.compute_dtype)
        if self.depth < 10 or (self.depth - 4) % 6:
            raise UserError(f"depth={self.depth}, expected 6 n + 4: 10, 16, 22, 28...")
        check_in("activation", self.activation, ACTIVATIONS)

    @classmethod
    def wrn_28_10(cls, **changes) -> "WideResNet":
        return cls(depth=28, width=10, **changes)

    @classmethod
    def wrn_16_4(cls, **changes) -> "WideResNet":
        return cls(depth=16, width=4, **changes)

    def replace(self, **changes) -> "WideResNet":
        return dataclasses.replace(self, **changes)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.image_size, self.image_size, self.in_channels)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        return _WideResNet(self, rngs)


class _Block(nnx.Module):
    def __init__(
        self, config: WideResNet, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs
    ):
        padding = ((0, 1), (0, 1)) if config.pad_after and stride == 2 else SAME_3X3
        self.activation = config.activation
        self.norm1 = BatchNorm(inputs)
        self.conv1 = Conv(
            inputs, outputs, stride=stride, padding=padding, bias=False, rngs=rngs
        )
        self.norm2 = BatchNorm(outputs)
        self.conv2 = Conv(outputs, outputs, bias=False, rngs=rngs)
        self.shortcut = (
            Conv(
                inputs, outputs, 1, stride=stride, padding=NO_PADDING, bias=False, rngs=rngs
            )
            if inputs != outputs
            else None
        )

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        act = ACTIVATIONS[self.activation]
        activated = act(self.norm1(x, train=train))
        h = self.conv1(activated)
        h = self.conv2(act(self.norm2(h, train=train)))
        return h + (x if self.shortcut is None else self.shortcut(activated))


class _WideResNet(nnx.Module):
    def __init__(self, config: WideResNet, rngs: nnx.Rngs):
        self.config = config
        self.conv_in = Conv(config.in_channels, 16, bias=False, rngs=rngs)
        blocks, current = [], 16
        for group in range(3):
            out = 16 * 2**group * config.width
            for i in range((config.depth - 4) // 6):
                stride = 2 if group and i == 0 else 1
                blocks.append(_Block(config, current, out, stride, rngs))
                current = out
        self.blocks = nnx.List(blocks)
        self.norm_out = BatchNorm(current)
        self.logits = Dense(current, config.num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits `(..., num_classes)` of images `(..., H, W, C)` in [0, 1]."""
        given, config = x.dtype, self.config
        x = normalise(x, config.mean, config.std, config.compute_dtype)
        x = self.conv_in(x)
        for block in self.blocks:
            x = block(x, train=train)
        x = ACTIVATIONS[config.activation](self.norm_out(x, train=train))
        return self.logits(mean_over_pixels(x)).astype(given)
