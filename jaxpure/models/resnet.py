"""Residual networks (He et al. 2016, arXiv:1512.03385) for ImageNet and for CIFAR.

Same functions as torchvision's ResNets (stride in the 3x3 convolution, "v1.5"), as the
CIFAR-10 ResNet-50 of kuangliu/pytorch-cifar that DiffPure uses, and as He's own CIFAR
networks with parameter-free shortcuts (option A). The input range is [0, 1]; `mean` and
`std` are subtracted and divided inside.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from jaxpure.errors import UserError, check_in
from jaxpure.models.layers import (
    NO_PADDING,
    BatchNorm,
    Conv,
    Dense,
    mean_over_pixels,
    normalise,
)
from jaxpure.models.network import ComputeDtype, Role, check_compute_dtype

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Block = Literal["bottleneck", "basic"]
Stem = Literal["imagenet", "cifar"]
Shortcut = Literal["projection", "zero_pad"]
EXPANSION = {"bottleneck": 4, "basic": 1}


@dataclass(frozen=True)
class ResNet:
    """Architecture of a classifier `(x) -> logits`.

    Attributes:
      layers: blocks of each stage; a stage after the first halves the resolution.
      planes: width of each stage's 3x3 convolutions, before `width_factor`.
      width_factor: of the inner width of bottlenecks; 2 makes Wide ResNets.
      block: "bottleneck" (output of 4 `planes`) or "basic".
      stem: "imagenet" (7x7 of stride 2, then pooling) or "cifar" (3x3).
      stem_width: channels after the stem.
      shortcut: where the shape changes, "projection" (a 1x1 convolution and BatchNorm) or
        "zero_pad" (every second pixel, new channels zero: option A).
      num_classes: length of the logits.
      image_size: height and width.
      in_channels: channels of an image.
      mean: per channel, or a single number for all of them.
      std: per channel, or a single number for all of them.
      compute_dtype: dtype of activations, "float32" or "bfloat16"; the input's own
        dtype where that is wider. Logits come in the dtype of the input.
    """

    layers: tuple[int, ...] = (3, 4, 6, 3)
    planes: tuple[int, ...] = (64, 128, 256, 512)
    width_factor: int = 1
    block: Block = "bottleneck"
    stem: Stem = "imagenet"
    stem_width: int = 64
    shortcut: Shortcut = "projection"
    num_classes: int = 1000
    image_size: int = 224
    in_channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    compute_dtype: ComputeDtype = "float32"

    role: ClassVar[Role] = "classifier"

    def __post_init__(self):
        check_compute_dtype(self.compute_dtype)
        check_in("block", self.block, get_args(Block))
        check_in("stem", self.stem, get_args(Stem))
        check_in("shortcut", self.shortcut, get_args(Shortcut))
        if len(self.layers) != len(self.planes):
            raise UserError(
                f"layers={self.layers} and planes={self.planes} name different numbers of "
                "stages"
            )

    @classmethod
    def resnet50(cls, **changes) -> "ResNet":
        """torchvision's ResNet-50: 25,557,032 parameters."""
        return cls(**changes)

    @classmethod
    def wide_resnet50_2(cls, **changes) -> "ResNet":
        """torchvision's WideResNet-50-2: 68,883,240 parameters."""
        return cls(width_factor=2, **changes)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.image_size, self.image_size, self.in_channels)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        return _ResNet(self, rngs)


class _Projection(nnx.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs):
        self.conv = Conv(
            inputs, outputs, 1, stride=stride, padding=NO_PADDING, bias=False, rngs=rngs
        )
        self.norm = BatchNorm(outputs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.norm(self.conv(x), train=train)


class _Block(nnx.Module):
    def __init__(
        self, config: ResNet, inputs: int, planes: int, stride: int, rngs: nnx.Rngs
    ):
        self.outputs = planes * EXPANSION[config.block]
        self.stride = stride
        width = planes * config.width_factor
        if config.block == "bottleneck":
            self.convs = nnx.List(
                [
                    Conv(inputs, width, 1, padding=NO_PADDING, bias=False, rngs=rngs),
                    Conv(width, width, stride=stride, bias=False, rngs=rngs),
                    Conv(width, self.outputs, 1, padding=NO_PADDING, bias=False, rngs=rngs),
                ]
            )
        else:
            self.convs = nnx.List(
                [
                    Conv(inputs, planes, stride=stride, bias=False, rngs=rngs),
                    Conv(planes, planes, bias=False, rngs=rngs),
                ]
            )
        self.norms = nnx.List([BatchNorm(c.kernel.shape[-1]) for c in self.convs])
        changes = stride != 1 or inputs != self.outputs
        self.shortcut = (
            _Projection(inputs, self.outputs, stride, rngs)
            if changes and config.shortcut == "projection"
            else None
        )

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        h = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            h = norm(conv(h), train=train)
            if i + 1 < len(self.convs):
                h = jax.nn.relu(h)
        return jax.nn.relu(h + self._around(x, train))

    def _around(self, x: jax.Array, train: bool) -> jax.Array:
        if self.shortcut is not None:
            return self.shortcut(x, train=train)
        new = self.outputs - x.shape[-1]
        before = (new + 1) // 2
        x = x[..., :: self.stride, :: self.stride, :]
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(before, new - before)])


class _ResNet(nnx.Module):
    def __init__(self, config: ResNet, rngs: nnx.Rngs):
        self.config = config
        size, stride, pad = (7, 2, 3) if config.stem == "imagenet" else (3, 1, 1)
        self.conv_in = Conv(
            config.in_channels,
            config.stem_width,
            size,
            stride=stride,
            padding=((pad, pad), (pad, pad)),
            bias=False,
            rngs=rngs,
        )
        self.norm_in = BatchNorm(config.stem_width)
        stages, current = [], config.stem_width
        for stage, (count, planes) in enumerate(
            zip(config.layers, config.planes, strict=True)
        ):
            blocks = []
            for i in range(count):
                stride = 2 if stage and i == 0 else 1
                blocks.append(_Block(config, current, planes, stride, rngs))
                current = blocks[-1].outputs
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.logits = Dense(current, config.num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits `(..., num_classes)` of images `(..., H, W, C)` in [0, 1]."""
        given, config = x.dtype, self.config
        x = normalise(x, config.mean, config.std, config.compute_dtype)
        x = jax.nn.relu(self.norm_in(self.conv_in(x), train=train))
        if config.stem == "imagenet":
            x = _max_pool(x)
        for stage in self.stages:
            for block in stage:
                x = block(x, train=train)
        return self.logits(mean_over_pixels(x)).astype(given)


def _max_pool(x: jax.Array) -> jax.Array:
    """3x3, stride 2, padded by one pixel."""
    lead = (1,) * (x.ndim - 3)
    return jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        (*lead, 3, 3, 1),
        (*lead, 2, 2, 1),
        [(0, 0)] * len(lead) + [(1, 1), (1, 1), (0, 0)],
    )
