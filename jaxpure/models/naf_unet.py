"""A U-Net of simple gates, for denoising on little hardware.

The blocks are NAFNet's (Chen et al. 2022, arXiv:2204.04676) with the timestep in place of
their channel attention: 1x1 convolutions, a 3x3 convolution of each channel alone, and a
product of two halves as the only nonlinearity. Nearly all of the work is matrix products,
which run at full speed on a CPU, and it begins at half resolution, on 2x2 pixels as
channels.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxpure.errors import UserError
from jaxpure.models.depthwise import depthwise, depthwise_init
from jaxpure.models.layers import Conv, Dense, LayerNorm, timestep_embedding
from jaxpure.models.network import ComputeDtype, Role, check_compute_dtype


@dataclass(frozen=True)
class NafUNet:
    """Architecture of a denoiser `(x, t) -> predicted noise`.

    Attributes:
      image_size: height and width; must be divisible by 2 to the number of `widths`.
      any_size: takes images of other sizes than that too, divisible likewise. It sees a
        neighbourhood of each pixel alone, so that it can be trained on parts of images.
      in_channels: channels of an image.
      out_channels: `in_channels`, or twice that where the variance is learned too.
      widths: channels at a half, a quarter, ... of the resolution.
      blocks: blocks of each of these levels going down, and as many going up; the last
        level has its own once.
      time_features: width of the timestep's embedding.
      compute_dtype: dtype of activations, "float32" or "bfloat16"; the input's own
        dtype where that is wider. Parameters stay float32.
    """

    image_size: int = 32
    in_channels: int = 3
    out_channels: int = 3
    widths: tuple[int, ...] = (64, 128, 256)
    blocks: tuple[int, ...] = (2, 2, 4)
    time_features: int = 128
    any_size: bool = False
    compute_dtype: ComputeDtype = "float32"

    role: ClassVar[Role] = "denoiser"

    def __post_init__(self):
        check_compute_dtype(self.compute_dtype)
        if len(self.widths) != len(self.blocks):
            raise UserError(
                f"widths={self.widths} and blocks={self.blocks} name different numbers of "
                "levels"
            )
        if self.image_size % 2 ** len(self.widths):
            raise UserError(
                f"image_size={self.image_size} cannot be halved {len(self.widths)} times; "
                "use fewer widths"
            )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.image_size, self.image_size, self.in_channels)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        return _NafUNet(self, rngs)


class _Modulated(nnx.Module):
    """LayerNorm, scaled and shifted by the timestep."""

    def __init__(self, channels: int, time_features: int, rngs: nnx.Rngs):
        self.norm = LayerNorm(channels)
        self.time = Dense(time_features, 2 * channels, scale=0.0, rngs=rngs)

    def __call__(self, x: jax.Array, emb: jax.Array) -> jax.Array:
        scale, shift = jnp.split(self.time(emb)[..., None, None, :], 2, -1)
        return self.norm(x) * (1 + scale) + shift


class _Block(nnx.Module):
    def __init__(self, channels: int, time_features: int, rngs: nnx.Rngs):
        self.norm1 = _Modulated(channels, time_features, rngs)
        self.wide1 = Dense(channels, 2 * channels, rngs=rngs)
        self.spatial = nnx.Param(depthwise_init(rngs.params(), 3, 2 * channels))
        self.narrow1 = Dense(channels, channels, scale=0.0, rngs=rngs)
        self.norm2 = _Modulated(channels, time_features, rngs)
        self.wide2 = Dense(channels, 2 * channels, rngs=rngs)
        self.narrow2 = Dense(channels, channels, scale=0.0, rngs=rngs)

    def __call__(self, x: jax.Array, emb: jax.Array) -> jax.Array:
        h = depthwise(self.wide1(self.norm1(x, emb)), self.spatial[...].astype(x.dtype))
        x = x + self.narrow1(_gate(h))
        return x + self.narrow2(_gate(self.wide2(self.norm2(x, emb))))


class _NafUNet(nnx.Module):
    def __init__(self, config: NafUNet, rngs: nnx.Rngs):
        self.config = config
        widths, features = config.widths, config.time_features
        self.time1 = Dense(features, 2 * features, rngs=rngs)
        self.time2 = Dense(2 * features, features, rngs=rngs)
        self.conv_in = Conv(4 * config.in_channels, widths[0], rngs=rngs)

        def level(width, count):
            return nnx.List([_Block(width, features, rngs) for _ in range(count)])

        self.down = nnx.List(map(level, widths, config.blocks))
        self.up = nnx.List(map(level, widths[:-1], config.blocks[:-1]))
        pairs = list(zip(widths, widths[1:], strict=False))
        self.shrink = nnx.List([Dense(4 * a, b, rngs=rngs) for a, b in pairs])
        self.grow = nnx.List([Dense(b, 4 * a, rngs=rngs) for a, b in pairs])
        self.norm_out = _Modulated(widths[0], features, rngs)
        self.conv_out = Conv(widths[0], 4 * config.out_channels, scale=0.0, rngs=rngs)

    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """Predicts the noise in `x` `(..., H, W, C)` at timesteps `t` `(...)`."""
        given, unit = x.dtype, 2 ** len(self.config.widths)
        if x.shape[-3] % unit or x.shape[-2] % unit:
            raise UserError(
                f"NafUNet of {len(self.config.widths)} levels takes images of a height and "
                f"width divisible by {unit}, got {tuple(x.shape)}"
            )
        if given == jnp.float32:
            x = x.astype(self.config.compute_dtype)
        emb = timestep_embedding(t, self.config.time_features).astype(x.dtype)
        emb = jax.nn.silu(self.time2(jax.nn.silu(self.time1(emb))))
        x = self.conv_in(pixels_to_channels(x))
        skips = []
        for i, level in enumerate(self.down):
            for block in level:
                x = block(x, emb)
            if i < len(self.shrink):
                skips.append(x)
                x = self.shrink[i](pixels_to_channels(x))
        for i in reversed(range(len(self.up))):
            x = channels_to_pixels(self.grow[i](x)) + skips[i]
            for block in self.up[i]:
                x = block(x, emb)
        x = self.conv_out(self.norm_out(x, emb))
        return channels_to_pixels(x).astype(given)


def _gate(x: jax.Array) -> jax.Array:
    a, b = jnp.split(x, 2, -1)
    return a * b


def pixels_to_channels(x: jax.Array) -> jax.Array:
    """2x2 pixels of `(..., H, W, C)` as one of `(..., H / 2, W / 2, 4 C)`."""
    *lead, height, width, channels = x.shape
    x = x.reshape(*lead, height // 2, 2, width // 2, 2, channels)
    return jnp.moveaxis(x, -4, -3).reshape(*lead, height // 2, width // 2, 4 * channels)


def channels_to_pixels(x: jax.Array) -> jax.Array:
    """The inverse of `pixels_to_channels`."""
    *lead, height, width, channels = x.shape
    x = x.reshape(*lead, height, width, 2, 2, channels // 4)
    return jnp.moveaxis(x, -3, -4).reshape(*lead, 2 * height, 2 * width, channels // 4)
