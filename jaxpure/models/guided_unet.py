"""The U-Net of guided diffusion (Dhariwal and Nichol 2021, arXiv:2105.05233).

Same function as `UNetModel` of openai/guided-diffusion, whose unconditional ImageNet
network is `GuidedUNet.imagenet256()`, and, by its options, as improved-diffusion's
(Nichol and Dhariwal 2021): GroupNorm of 32 groups and eps 1e-5, multi-head attention.
Dropout, which only training would see, is left out.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxpure.errors import UserError
from jaxpure.models.layers import Conv, Dense, GroupNorm, timestep_embedding
from jaxpure.models.levels import RESAMPLE, build_levels, run_levels
from jaxpure.models.network import ComputeDtype, Role, check_compute_dtype

NUM_GROUPS, EPSILON = 32, 1e-5


@dataclass(frozen=True)
class GuidedUNet:
    """Architecture of a denoiser `(x, t)`, or `(x, t, label)` where it has classes.

    Attributes:
      image_size: height and width; must be divisible by `2 ** (levels - 1)`.
      in_channels: channels of an image.
      out_channels: `in_channels`, or twice that where the variance is learned too.
      channels: the width that `channel_mult` multiplies.
      channel_mult: width of each level, in multiples of `channels`.
      num_res_blocks: residual blocks a level on the way down (one more going up).
      attention_levels: levels, finest 0, at which each residual block is followed by
        attention.
      num_heads: heads of attention where `head_channels` is 0.
      head_channels: width of a head, which decides their number.
      qkv_first: queries, keys and values are split before heads ("new attention order",
        the 64 px network's); else heads first, as in all others that were published.
      scale_shift: the timestep scales and shifts the second norm's output; else it is
        added before that norm.
      resblock_updown: resolution changes inside residual blocks; else by convolutions.
      num_classes: of a class-conditional network; 0 for an unconditional one.
      compute_dtype: dtype of activations, "float32" or "bfloat16"; the input's own
        dtype where that is wider. Parameters stay float32.
    """

    image_size: int = 256
    in_channels: int = 3
    out_channels: int = 6
    channels: int = 256
    channel_mult: tuple[float, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = (3, 4, 5)
    num_heads: int = 4
    head_channels: int = 64
    qkv_first: bool = False
    scale_shift: bool = True
    resblock_updown: bool = True
    num_classes: int = 0
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
    def imagenet256(cls) -> "GuidedUNet":
        """The unconditional ImageNet network: 552,814,086 parameters."""
        return cls()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.image_size, self.image_size, self.in_channels)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        return _GuidedUNet(self, rngs)


def _norm(channels: int) -> GroupNorm:
    return GroupNorm(channels, NUM_GROUPS, epsilon=EPSILON)


class _ResBlock(nnx.Module):
    def __init__(
        self,
        config: GuidedUNet,
        inputs: int,
        outputs: int,
        rngs: nnx.Rngs,
        resample: str = "same",
    ):
        self.scale_shift = config.scale_shift
        self.resample = resample
        self.norm1 = _norm(inputs)
        self.conv1 = Conv(inputs, outputs, rngs=rngs)
        told = 2 * outputs if config.scale_shift else outputs
        self.time = Dense(4 * config.channels, told, rngs=rngs)
        self.norm2 = _norm(outputs)
        self.conv2 = Conv(outputs, outputs, scale=0.0, rngs=rngs)
        self.shortcut = Dense(inputs, outputs, rngs=rngs) if inputs != outputs else None

    def __call__(self, x: jax.Array, emb: jax.Array) -> jax.Array:
        resample = RESAMPLE[self.resample]
        h = jax.nn.silu(self.norm1(x))
        up = self.resample == "up"
        h = self.conv1.of_upsampled(h) if up else self.conv1(resample(h))
        x = resample(x)
        told = self.time(jax.nn.silu(emb))[..., None, None, :]
        if self.scale_shift:
            scale, shift = jnp.split(told, 2, -1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + told)
        h = self.conv2(jax.nn.silu(h))
        return h + (x if self.shortcut is None else self.shortcut(x))


class _Attention(nnx.Module):
    """Multi-head self-attention over pixels, added to its input."""

    def __init__(self, config: GuidedUNet, channels: int, rngs: nnx.Rngs):
        per_head = config.head_channels
        self.num_heads = channels // per_head if per_head else config.num_heads
        if channels % (per_head or self.num_heads):
            raise UserError(
                f"{channels} channels of attention do not split into heads of "
                f"head_channels={per_head} (0: into num_heads={config.num_heads})"
            )
        self.qkv_first = config.qkv_first
        self.norm = _norm(channels)
        self.qkv = Dense(channels, 3 * channels, rngs=rngs)
        self.out = Dense(channels, channels, scale=0.0, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        *lead, height, width, channels = x.shape
        h = self.norm(x).reshape(*lead, height * width, channels)
        split = (3, self.num_heads) if self.qkv_first else (self.num_heads, 3)
        qkv = self.qkv(h).reshape(*lead, height * width, *split, -1)
        query, key, value = jnp.unstack(qkv, axis=-3 if self.qkv_first else -2)
        scale = query.shape[-1] ** -0.25  # on both: steadier in half precision
        scores = jnp.einsum("...qhc,...khc->...hqk", query * scale, key * scale)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        weights = jax.nn.softmax(scores.astype(wide)).astype(x.dtype)
        mixed = jnp.einsum("...hqk,...khc->...qhc", weights, value)
        return x + self.out(mixed.reshape(h.shape)).reshape(x.shape)


class _GuidedUNet(nnx.Module):
    def __init__(self, config: GuidedUNet, rngs: nnx.Rngs):
        width = config.channels
        widths = [int(width * mult) for mult in config.channel_mult]
        self.config = config
        self.time1 = Dense(width, 4 * width, rngs=rngs)
        self.time2 = Dense(4 * width, 4 * width, rngs=rngs)
        if config.num_classes:
            normal = nnx.initializers.normal(1.0)
            shape = (config.num_classes, 4 * width)
            self.classes = nnx.Param(normal(rngs.params(), shape, jnp.float32))
        self.conv_in = Conv(config.in_channels, widths[0], rngs=rngs)

        def block(inputs: int, outputs: int, resample: str = "same") -> nnx.Module:
            return _ResBlock(config, inputs, outputs, rngs, resample)

        def shrink(n: int) -> nnx.Module:
            if config.resblock_updown:
                return block(n, n, "down")
            return Conv(n, n, stride=2, rngs=rngs)

        def grow(n: int) -> nnx.Module:
            return block(n, n, "up") if config.resblock_updown else Conv(n, n, rngs=rngs)

        down, up = build_levels(
            widths,
            config.num_res_blocks,
            [i in config.attention_levels for i in range(len(widths))],
            first=widths[0],
            block=block,
            attention=lambda n: _Attention(config, n, rngs),
            shrink=shrink,
            grow=grow,
        )
        self.down, self.up = nnx.List(down), nnx.List(up)
        self.mid1 = block(widths[-1], widths[-1])
        self.mid_attention = _Attention(config, widths[-1], rngs)
        self.mid2 = block(widths[-1], widths[-1])
        self.norm_out = _norm(widths[0])
        self.conv_out = Conv(widths[0], config.out_channels, scale=0.0, rngs=rngs)

    def __call__(
        self, x: jax.Array, t: jax.Array, label: jax.Array | None = None
    ) -> jax.Array:
        """Predicts the noise in `x` `(..., H, W, C)` at timesteps `t` `(...)`.

        `label` `(...)` is the class, for a network that has classes.
        """
        given, config = x.dtype, self.config
        if (label is None) == bool(config.num_classes):
            raise UserError(
                f"num_classes={config.num_classes}, but {label=}: a class-conditional "
                "network is called with (x, t, label), another with (x, t)"
            )
        if given == jnp.float32:
            x = x.astype(config.compute_dtype)
        emb = timestep_embedding(t, config.channels, cosine_first=True).astype(x.dtype)
        emb = self.time2(jax.nn.silu(self.time1(emb)))
        if label is not None:
            emb = emb + self.classes[...][label].astype(x.dtype)
        x = run_levels(self, self.conv_in(x), emb)
        return self.conv_out(jax.nn.silu(self.norm_out(x))).astype(given)
