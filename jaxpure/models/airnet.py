"""The small wide network of the CIFAR-10 speed runs (Jordan 2024, arXiv:2404.00498).

A first layer that whitens 2x2 patches and is fixed by the data, three groups of two
convolutions, and max-pooling in place of strides. Each convolution starts as the identity
on its first channels. The input range is [0, 1]; `mean` and `std` are subtracted and
divided inside.

`airbench94` of the paper is `AirNet()` but for the whitening layer's bias, which is left
out here: training it would cost a gradient through the largest activations.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxpure.errors import UserError
from jaxpure.models.layers import NO_PADDING, BatchNorm, Conv, conv2d, normalise
from jaxpure.models.network import ComputeDtype, Role, check_compute_dtype

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2471, 0.2435, 0.2616)
PATCH = 2
EPSILON = 5e-4  # added to the eigenvalues of the patches' covariance


@dataclass(frozen=True)
class AirNet:
    """Architecture of a classifier `(x) -> logits`.

    Attributes:
      widths: channels of the three groups; each group halves the resolution.
      num_classes: length of the logits.
      image_size: height and width; at least 25, so that a pixel is left to the last pool.
      in_channels: channels of an image.
      mean: per channel, or a single number for all of them.
      std: per channel, or a single number for all of them.
      compute_dtype: dtype of activations, "float32" or "bfloat16"; the input's own
        dtype where that is wider. Logits come in the dtype of the input.
    """

    widths: tuple[int, ...] = (64, 256, 256)
    num_classes: int = 10
    image_size: int = 32
    in_channels: int = 3
    mean: tuple[float, ...] = CIFAR10_MEAN
    std: tuple[float, ...] = CIFAR10_STD
    compute_dtype: ComputeDtype = "float32"

    role: ClassVar[Role] = "classifier"

    def __post_init__(self):
        check_compute_dtype(self.compute_dtype)
        smallest = 2 ** len(self.widths) + 1
        if self.image_size < smallest:
            raise UserError(
                f"image_size={self.image_size}, expected at least {smallest}: each of the "
                f"{len(self.widths)} groups halves the resolution"
            )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.image_size, self.image_size, self.in_channels)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        return _AirNet(self, rngs)

    def fit(self, params: Any, images: jax.Array) -> Any:
        """`params` with the first layer set to whiten the patches of `images`.

        Args:
          params: of `models.create`.
          images: `(n, H, W, C)` in [0, 1]; the paper takes 5,000.
        """
        x = normalise(images, self.mean, self.std, "float32")
        kernel = whitening_kernel(x, PATCH, EPSILON)
        return {**params, "stats": {**params["stats"], "whitening": kernel}}


def whitening_kernel(images: jax.Array, size: int, epsilon: float) -> jax.Array:
    """Filters `(size, size, C, 2 size size C)` whose outputs are uncorrelated.

    Each is an eigenvector of the patches' covariance (uncentred, as in the paper) over the
    root of its eigenvalue plus `epsilon`; the second half are the negatives of the first.

    Args:
      images: `(n, H, W, C)`.
      size: height and width of a patch.
      epsilon: keeps directions without variance from being blown up.
    """
    _, height, width, channels = images.shape
    patches = jnp.stack(
        [
            images[:, i : height - size + 1 + i, j : width - size + 1 + j]
            for i in range(size)
            for j in range(size)
        ],
        -2,
    ).reshape(-1, size * size * channels)
    covariance = patches.T @ patches / len(patches)
    values, vectors = jnp.linalg.eigh(covariance)
    filters = vectors * jax.lax.rsqrt(values + epsilon)[None, :]
    filters = filters.reshape(size, size, channels, -1)
    return jnp.concatenate([filters, -filters], -1)


class _Group(nnx.Module):
    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.conv1 = _identity_conv(inputs, outputs, rngs)
        self.norm1 = _norm(outputs)
        self.conv2 = _identity_conv(outputs, outputs, rngs)
        self.norm2 = _norm(outputs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = max_pool(self.conv1(x), 2)
        x = _gelu(self.norm1(x, train=train))
        return _gelu(self.norm2(self.conv2(x), train=train))


class _AirNet(nnx.Module):
    def __init__(self, config: AirNet, rngs: nnx.Rngs):
        self.config = config
        channels = config.in_channels
        filters = 2 * PATCH**2 * channels
        # A statistic of the data, so among those: moved by `fit`, never by a gradient.
        init = nnx.initializers.orthogonal()
        self.whitening = nnx.BatchStat(
            init(rngs.params(), (PATCH, PATCH, channels, filters), jnp.float32)
        )
        groups, current = [], filters
        for width in config.widths:
            groups.append(_Group(current, width, rngs))
            current = width
        self.groups = nnx.List(groups)
        self.logits = nnx.Param(
            jax.random.normal(rngs.params(), (current, config.num_classes))
        )

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits `(..., num_classes)` of images `(..., H, W, C)` in [0, 1]."""
        given, config = x.dtype, self.config
        x = normalise(x, config.mean, config.std, config.compute_dtype)
        kernel = self.whitening[...].astype(x.dtype)
        x = _gelu(conv2d(x, kernel, padding=NO_PADDING))
        for group in self.groups:
            x = group(x, train=train)
        x = jnp.max(x, (-3, -2))
        return (x @ self.logits[...].astype(x.dtype) / x.shape[-1]).astype(given)


def _identity_conv(inputs: int, outputs: int, rngs: nnx.Rngs) -> Conv:
    """A 3x3 convolution whose first outputs repeat its inputs."""
    conv = Conv(inputs, outputs, bias=False, rngs=rngs)
    kept = min(inputs, outputs)
    same = jnp.zeros((3, 3, inputs, kept)).at[1, 1, :kept].set(jnp.eye(kept))
    conv.kernel[...] = conv.kernel[...].at[..., :kept].set(same)
    return conv


def _norm(channels: int) -> BatchNorm:
    return BatchNorm(channels, epsilon=1e-12, momentum=0.6, scale=False)


def _gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


def max_pool(x: jax.Array, size: int) -> jax.Array:
    """Maxima of `size` x `size` pixels of `(..., H, W, C)`; what is left over is dropped.

    As maxima of slices: the derivative of `reduce_window` is slow on a CPU. Pixels that
    share a maximum share its gradient.
    """
    rows, columns = x.shape[-3] // size, x.shape[-2] // size
    x = x[..., : rows * size, : columns * size, :]
    parts = [x[..., i::size, j::size, :] for i in range(size) for j in range(size)]
    result = parts[0]
    for part in parts[1:]:
        result = jnp.maximum(result, part)
    return result
