"""Vision transformers (Dosovitskiy et al. 2021, arXiv:2010.11929; DeiT: 2012.12877).

Same function as timm's `VisionTransformer` (`deit_small_patch16_224`,
`vit_base_patch16_224`): class token, learned positions, pre-norm blocks, LayerNorm eps
1e-6, exact GELU. The input range is [0, 1]; `mean` and `std` are subtracted and divided
inside.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxpure.errors import UserError
from jaxpure.models.layers import Dense, LayerNorm, normalise
from jaxpure.models.network import ComputeDtype, Role, check_compute_dtype
from jaxpure.models.resnet import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class VisionTransformer:
    """Architecture of a classifier `(x) -> logits`.

    Attributes:
      image_size: height and width.
      patch_size: height and width of a patch; divides `image_size`.
      features: width of a token.
      depth: blocks.
      num_heads: heads of attention; divides `features`.
      mlp_features: inner width of a block's MLP.
      num_classes: length of the logits.
      in_channels: channels of an image.
      mean: per channel, or a single number for all of them.
      std: per channel, or a single number for all of them.
      compute_dtype: dtype of activations, "float32" or "bfloat16"; the input's own
        dtype where that is wider. Logits come in the dtype of the input.
    """

    image_size: int = 224
    patch_size: int = 16
    features: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_features: int = 1536
    num_classes: int = 1000
    in_channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    compute_dtype: ComputeDtype = "float32"

    role: ClassVar[Role] = "classifier"

    def __post_init__(self):
        check_compute_dtype(self.compute_dtype)
        if self.image_size % self.patch_size:
            raise UserError(
                f"image_size={self.image_size} is not a multiple of "
                f"patch_size={self.patch_size}"
            )
        if self.features % self.num_heads:
            raise UserError(
                f"features={self.features} is not a multiple of num_heads={self.num_heads}"
            )

    @classmethod
    def deit_small(cls, **changes) -> "VisionTransformer":
        """timm's deit_small_patch16_224: 22,050,664 parameters."""
        return cls(**changes)

    @classmethod
    def vit_base(cls, **changes) -> "VisionTransformer":
        """timm's vit_base_patch16_224: 86,567,656 parameters."""
        sizes = {"features": 768, "num_heads": 12, "mlp_features": 3072}
        return cls(**{**sizes, **changes})

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.image_size, self.image_size, self.in_channels)

    @property
    def num_tokens(self) -> int:
        return (self.image_size // self.patch_size) ** 2 + 1

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        return _VisionTransformer(self, rngs)


class _Block(nnx.Module):
    def __init__(self, config: VisionTransformer, rngs: nnx.Rngs):
        width = config.features
        self.num_heads = config.num_heads
        self.norm1 = LayerNorm(width)
        self.qkv = Dense(width, 3 * width, rngs=rngs)
        self.out = Dense(width, width, rngs=rngs)
        self.norm2 = LayerNorm(width)
        self.mlp1 = Dense(width, config.mlp_features, rngs=rngs)
        self.mlp2 = Dense(config.mlp_features, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self._attend(self.norm1(x))
        h = jax.nn.gelu(self.mlp1(self.norm2(x)), approximate=False)
        return x + self.mlp2(h)

    def _attend(self, x: jax.Array) -> jax.Array:
        *lead, tokens, width = x.shape
        qkv = self.qkv(x).reshape(*lead, tokens, 3, self.num_heads, -1)
        query, key, value = (qkv[..., i, :, :] for i in range(3))
        scale = (width // self.num_heads) ** -0.5
        scores = jnp.einsum("...qhc,...khc->...hqk", query * scale, key)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        weights = jax.nn.softmax(scores.astype(wide)).astype(x.dtype)
        mixed = jnp.einsum("...hqk,...khc->...qhc", weights, value)
        return self.out(mixed.reshape(x.shape))


class _VisionTransformer(nnx.Module):
    def __init__(self, config: VisionTransformer, rngs: nnx.Rngs):
        self.config = config
        width = config.features
        normal = nnx.initializers.normal(0.02)
        self.patches = Dense(config.patch_size**2 * config.in_channels, width, rngs=rngs)
        self.class_token = nnx.Param(normal(rngs.params(), (1, 1, width), jnp.float32))
        self.positions = nnx.Param(
            normal(rngs.params(), (1, config.num_tokens, width), jnp.float32)
        )
        self.blocks = nnx.List([_Block(config, rngs) for _ in range(config.depth)])
        self.norm_out = LayerNorm(width)
        self.logits = Dense(width, config.num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits `(..., num_classes)` of images `(..., H, W, C)` in [0, 1]."""
        del train  # nothing here differs in training
        given, config = x.dtype, self.config
        x = normalise(x, config.mean, config.std, config.compute_dtype)
        x = self.patches(_patches(x, config.patch_size))
        *lead, _, width = x.shape
        first = jnp.broadcast_to(
            self.class_token[...][0].astype(x.dtype), (*lead, 1, width)
        )
        x = jnp.concatenate([first, x], -2)
        x = x + jnp.broadcast_to(self.positions[...][0].astype(x.dtype), x.shape)
        for block in self.blocks:
            x = block(x)
        return self.logits(self.norm_out(x)[..., 0, :]).astype(given)


def _patches(x: jax.Array, size: int) -> jax.Array:
    """Images `(..., H, W, C)` as patches `(..., n, size * size * C)`, row by row."""
    *lead, height, width, channels = x.shape
    rows, columns = height // size, width // size
    x = x.reshape(*lead, rows, size, columns, size, channels)
    x = jnp.moveaxis(x, -4, -3)
    return x.reshape(*lead, rows * columns, size * size * channels)
