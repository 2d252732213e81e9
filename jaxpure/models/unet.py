"""The U-Net of denoising diffusion (Ho et al. 2020, arXiv:2006.11239, appendix B).

Same function as `Model` of pesser/pytorch_diffusion, whose CIFAR-10 network is
`UNet.cifar10()`: GroupNorm eps 1e-6, swish, single-head attention, nearest
upsampling, downsampling that pads (0, 1) on each axis. Dropout, which only training
would see, is left out.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxpure.errors import UserError
from jaxpure.models.layers import Attention, Conv, Dense, GroupNorm, timestep_embedding
from jaxpure.models.levels import build_levels, run_levels
from jaxpure.models.network import ComputeDtype, Role, check_compute_dtype


@dataclass(frozen=True)
class UNet:
    """Architecture of a denoiser `(x, t) -> predicted noise`.

    Attributes:
      image_size: height and width; must be divisible by `2 ** (levels - 1)`.
      in_channels: channels of an image.
      out_channels: `in_channels`, or twice that where the variance is learned too.
      channels: width of the first level.
      channel_mult: width of each level, in multiples of `channels`.
      num_res_blocks: residual blocks a level on the way down (one more going up).
      attention_resolutions: heights at which each residual block is followed by
        attention.
      num_groups: groups of every GroupNorm.
      compute_dtype: dtype of activations, "float32" or "bfloat16"; the input's own
        dtype where that is wider. Parameters stay float32.
    """

    image_size: int = 32
    in_channels: int = 3
    out_channels: int = 3
    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    num_groups: int = 32
    compute_dtype: ComputeDtype = "float32"

    role: ClassVar[Role] = "denoiser"

    def __post_init__(self):
        check_compute_dtype(self.compute_dtype)
        if self.image_size % 2 ** (len(self.channel_mult) - 1):
            raise UserError(
                f"image_size={self.image_size} cannot be halved "
                f"{len(self.channel_mult) - 1} times; use fewer levels in channel_mult"
            )

    @classmethod
    def cifar10(cls) -> "UNet":
        """The published CIFAR-10 network: 35,746,307 parameters."""
        return cls()

    def replace(self, **changes) -> "UNet":
        return dataclasses.replace(self, **changes)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.image_size, self.image_size, self.in_channels)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        return _UNet(self, rngs)


class _ResBlock(nnx.Module):
    def __init__(self, config: UNet, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.norm1 = GroupNorm(inputs, config.num_groups)
        self.conv1 = Conv(inputs, outputs, rngs=rngs)
        self.time = Dense(4 * config.channels, outputs, rngs=rngs)
        self.norm2 = GroupNorm(outputs, config.num_groups)
        self.conv2 = Conv(outputs, outputs, scale=0.0, rngs=rngs)
        self.shortcut = Dense(inputs, outputs, rngs=rngs) if inputs != outputs else None

    def __call__(self, x: jax.Array, emb: jax.Array) -> jax.Array:
        h = self.conv1(jax.nn.silu(self.norm1(x)))
        h = h + self.time(jax.nn.silu(emb))[..., None, None, :]
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        return h + (x if self.shortcut is None else self.shortcut(x))


class _UNet(nnx.Module):
    def __init__(self, config: UNet, rngs: nnx.Rngs):
        width, mults = config.channels, config.channel_mult
        self.config = config
        self.time1 = Dense(width, 4 * width, rngs=rngs)
        self.time2 = Dense(4 * width, 4 * width, rngs=rngs)
        self.conv_in = Conv(config.in_channels, width, rngs=rngs)

        heights = [config.image_size // 2**i for i in range(len(mults))]
        halve = {"stride": 2, "padding": ((0, 1), (0, 1)), "rngs": rngs}
        down, up = build_levels(
            [width * mult for mult in mults],
            config.num_res_blocks,
            [height in config.attention_resolutions for height in heights],
            first=width,
            block=lambda i, o: _ResBlock(config, i, o, rngs),
            attention=lambda n: Attention(n, config.num_groups, rngs=rngs),
            shrink=lambda n: Conv(n, n, **halve),
            grow=lambda n: Conv(n, n, rngs=rngs),
        )
        self.down, self.up = nnx.List(down), nnx.List(up)

        deepest = width * mults[-1]
        self.mid1 = _ResBlock(config, deepest, deepest, rngs)
        self.mid_attention = Attention(deepest, config.num_groups, rngs=rngs)
        self.mid2 = _ResBlock(config, deepest, deepest, rngs)

        current = width * mults[0]
        self.norm_out = GroupNorm(current, config.num_groups)
        self.conv_out = Conv(current, config.out_channels, scale=0.0, rngs=rngs)

    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """Predicts the noise in `x` `(..., H, W, C)` at timesteps `t` `(...)`."""
        given = x.dtype
        if given == jnp.float32:
            x = x.astype(self.config.compute_dtype)
        emb = timestep_embedding(t, self.config.channels).astype(x.dtype)
        emb = self.time2(jax.nn.silu(self.time1(emb)))
        x = run_levels(self, self.conv_in(x), emb)
        return self.conv_out(jax.nn.silu(self.norm_out(x))).astype(given)
