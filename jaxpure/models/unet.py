"""The U-Net of denoising diffusion (Ho et al. 2020, arXiv:2006.11239, appendix B).

Same function as `Model` of pesser/pytorch_diffusion, whose CIFAR-10 network is
`UNet.cifar10()`: GroupNorm eps 1e-6, swish, single-head attention, nearest
upsampling, downsampling that pads (0, 1) on each axis. Dropout, which only training
would see, is left out.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from jaxpure.models.layers import Attention, Conv, Dense, GroupNorm, timestep_embedding


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
    compute_dtype: str = "float32"

    def __post_init__(self):
        if self.image_size % 2 ** (len(self.channel_mult) - 1):
            raise ValueError(
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


class _Level(nnx.Module):
    """Residual blocks, each followed by attention or nothing, then a resize or none."""

    def __init__(self, blocks, attentions, resize):
        self.blocks = nnx.List(blocks)
        self.attentions = nnx.List(attentions)
        self.resize = resize

    def apply_block(self, j: int, x: jax.Array, emb: jax.Array) -> jax.Array:
        x = self.blocks[j](x, emb)
        return self.attentions[j](x) if len(self.attentions) else x


class _UNet(nnx.Module):
    def __init__(self, config: UNet, rngs: nnx.Rngs):
        width, mults = config.channels, config.channel_mult
        last = len(mults) - 1
        self.config = config
        self.time1 = Dense(width, 4 * width, rngs=rngs)
        self.time2 = Dense(4 * width, 4 * width, rngs=rngs)
        self.conv_in = Conv(config.in_channels, width, rngs=rngs)

        def level(sizes: list[tuple[int, int]], resolution: int, resize) -> _Level:
            attend = resolution in config.attention_resolutions
            return _Level(
                [_ResBlock(config, i, o, rngs) for i, o in sizes],
                [Attention(o, config.num_groups, rngs=rngs) for _, o in sizes if attend],
                resize,
            )

        down, skips, current, resolution = [], [width], width, config.image_size
        for i, mult in enumerate(mults):
            out = width * mult
            sizes = [(current, out)] + [(out, out)] * (config.num_res_blocks - 1)
            skips += [out] * config.num_res_blocks
            resize = None
            if i < last:
                resize = Conv(out, out, stride=2, padding=((0, 1), (0, 1)), rngs=rngs)
                skips.append(out)
            down.append(level(sizes, resolution, resize))
            current = out
            resolution = resolution // 2 if i < last else resolution
        self.down = nnx.List(down)

        self.mid1 = _ResBlock(config, current, current, rngs)
        self.mid_attention = Attention(current, config.num_groups, rngs=rngs)
        self.mid2 = _ResBlock(config, current, current, rngs)

        up = []
        for i, mult in reversed(list(enumerate(mults))):
            out, sizes = width * mult, []
            for _ in range(config.num_res_blocks + 1):
                sizes.append((current + skips.pop(), out))
                current = out
            resize = Conv(out, out, rngs=rngs) if i else None
            up.append(level(sizes, resolution, resize))
            resolution *= 2
        self.up = nnx.List(up)  # coarsest level first

        self.norm_out = GroupNorm(current, config.num_groups)
        self.conv_out = Conv(current, config.out_channels, scale=0.0, rngs=rngs)

    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """Predicts the noise in `x` `(..., H, W, C)` at timesteps `t` `(...)`."""
        given = x.dtype
        if given == jnp.float32:
            x = x.astype(self.config.compute_dtype)
        emb = timestep_embedding(t, self.config.channels).astype(x.dtype)
        emb = self.time2(jax.nn.silu(self.time1(emb)))
        per_level = self.config.num_res_blocks

        x = self.conv_in(x)
        skips = [x]
        for level in self.down:
            for j in range(per_level):
                x = level.apply_block(j, x, emb)
                skips.append(x)
            if level.resize is not None:
                x = level.resize(x)
                skips.append(x)

        x = self.mid2(self.mid_attention(self.mid1(x, emb)), emb)

        for level in self.up:
            for j in range(per_level + 1):
                x = jnp.concatenate([x, skips.pop()], -1)
                x = level.apply_block(j, x, emb)
            if level.resize is not None:
                x = level.resize(_upsample(x))

        return self.conv_out(jax.nn.silu(self.norm_out(x))).astype(given)


def _upsample(x: jax.Array) -> jax.Array:
    """Nearest-neighbour upsampling by two."""
    return jnp.repeat(jnp.repeat(x, 2, -3), 2, -2)
