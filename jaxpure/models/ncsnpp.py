"""DDPM++ of score-based generative modeling (Song et al. 2021, arXiv:2011.13456).

Same function as `NCSNpp` of score_sde_pytorch under the configuration of its VP networks
for CIFAR-10, of which DiffPure uses `NcsnPp.cifar10_deep()`: BigGAN's residual blocks,
sums divided by sqrt(2), GroupNorm eps 1e-6 of at most 32 groups, single-head attention.
The network is called with the label that it was trained on, 999 times the time in (0, 1].
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxpure.errors import UserError
from jaxpure.models.layers import Attention, Conv, Dense, GroupNorm, timestep_embedding
from jaxpure.models.levels import RESAMPLE, build_levels, run_levels
from jaxpure.models.network import ComputeDtype, Role, check_compute_dtype

HALF = math.sqrt(0.5)


@dataclass(frozen=True)
class NcsnPp:
    """Architecture of a denoiser `(x, label) -> predicted noise`.

    Attributes:
      image_size: height and width; must be divisible by `2 ** (levels - 1)`.
      in_channels: channels of an image.
      channels: width of the first level.
      channel_mult: width of each level, in multiples of `channels`.
      num_res_blocks: residual blocks a level on the way down (one more going up).
      attention_resolutions: heights with attention: after each block going down, after
        the last block going up.
      compute_dtype: dtype of activations, "float32" or "bfloat16"; the input's own
        dtype where that is wider. Parameters stay float32.
    """

    image_size: int = 32
    in_channels: int = 3
    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 8
    attention_resolutions: tuple[int, ...] = (16,)
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
    def cifar10_deep(cls) -> "NcsnPp":
        """cifar10_ddpmpp_deep_continuous: 106,632,579 parameters."""
        return cls()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.image_size, self.image_size, self.in_channels)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        return _NcsnPp(self, rngs)


def _groups(channels: int) -> int:
    return min(channels // 4, 32)


class _ResBlock(nnx.Module):
    def __init__(
        self,
        config: NcsnPp,
        inputs: int,
        outputs: int,
        rngs: nnx.Rngs,
        resample: str = "same",
    ):
        self.resample = resample
        self.norm1 = GroupNorm(inputs, _groups(inputs))
        self.conv1 = Conv(inputs, outputs, rngs=rngs)
        self.time = Dense(4 * config.channels, outputs, rngs=rngs)
        self.norm2 = GroupNorm(outputs, _groups(outputs))
        self.conv2 = Conv(outputs, outputs, scale=0.0, rngs=rngs)
        changes = inputs != outputs or resample != "same"
        self.shortcut = Dense(inputs, outputs, rngs=rngs) if changes else None

    def __call__(self, x: jax.Array, emb: jax.Array) -> jax.Array:
        resample = RESAMPLE[self.resample]
        h = jax.nn.silu(self.norm1(x))
        up = self.resample == "up"
        h = self.conv1.of_upsampled(h) if up else self.conv1(resample(h))
        h = h + self.time(jax.nn.silu(emb))[..., None, None, :]
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        x = resample(x)
        return (h + (x if self.shortcut is None else self.shortcut(x))) * HALF


class _NcsnPp(nnx.Module):
    def __init__(self, config: NcsnPp, rngs: nnx.Rngs):
        width = config.channels
        widths = [width * mult for mult in config.channel_mult]
        heights = [config.image_size // 2**i for i in range(len(widths))]
        self.config = config
        self.time1 = Dense(width, 4 * width, rngs=rngs)
        self.time2 = Dense(4 * width, 4 * width, rngs=rngs)
        self.conv_in = Conv(config.in_channels, width, rngs=rngs)

        def block(inputs: int, outputs: int, resample: str = "same") -> nnx.Module:
            return _ResBlock(config, inputs, outputs, rngs, resample)

        def attention(n: int) -> nnx.Module:
            return Attention(n, _groups(n), rescale=HALF, rngs=rngs)

        down, up = build_levels(
            widths,
            config.num_res_blocks,
            [height in config.attention_resolutions for height in heights],
            first=width,
            block=block,
            attention=attention,
            shrink=lambda n: block(n, n, "down"),
            grow=lambda n: block(n, n, "up"),
            attend_once_going_up=True,
        )
        self.down, self.up = nnx.List(down), nnx.List(up)
        self.mid1 = block(widths[-1], widths[-1])
        self.mid_attention = attention(widths[-1])
        self.mid2 = block(widths[-1], widths[-1])
        self.norm_out = GroupNorm(widths[0], _groups(widths[0]))
        self.conv_out = Conv(widths[0], config.in_channels, scale=0.0, rngs=rngs)

    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """Predicts the noise in `x` `(..., H, W, C)` at labels `t` `(...)`."""
        given = x.dtype
        if given == jnp.float32:
            x = x.astype(self.config.compute_dtype)
        emb = timestep_embedding(t, self.config.channels).astype(x.dtype)
        emb = self.time2(jax.nn.silu(self.time1(emb)))
        x = run_levels(self, self.conv_in(x), emb)
        return self.conv_out(jax.nn.silu(self.norm_out(x))).astype(given)
