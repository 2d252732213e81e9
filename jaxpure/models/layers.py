"""Layers that the networks share: convolution, normalisation, attention, embedding.

Every layer takes any number of leading axes, none included: `(..., H, W, C)` or
`(..., C)`. The library calls networks on one image and batches by `vmap`; training
hands them a batch directly, because the weight gradient of a `vmap`-ed convolution
would be kept once per example before it is summed.

Statistics are taken in float32 whatever the compute dtype.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxpure.errors import UserError
from jaxpure.keys import drawn
from jaxpure.models.bilinear import bilinear, summed_in_parts

Padding = tuple[tuple[int, int], tuple[int, int]]

SAME_3X3: Padding = ((1, 1), (1, 1))
BESIDE = ((1, 0), (0, 1))  # of a 2x2 kernel for even places, and for odd ones
NO_PADDING: Padding = ((0, 0), (0, 0))


def _conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    lead = x.shape[:-3]
    y = jax.lax.conv_general_dilated(
        x.reshape(-1, *x.shape[-3:]),
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.reshape(*lead, *y.shape[1:])


def _conv_as_dots(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding
) -> jax.Array:
    """The same convolution as one dot per kernel tap on strided slices."""
    (top, bottom), (left, right) = padding
    lead = [(0, 0)] * (x.ndim - 3)
    x = jnp.pad(x, [*lead, (top, bottom), (left, right), (0, 0)])
    kh, kw = kernel.shape[:2]
    rows = (x.shape[-3] - kh) // stride + 1
    cols = (x.shape[-2] - kw) // stride + 1
    taps = [
        x[..., i : i + rows * stride : stride, j : j + cols * stride : stride, :]
        @ kernel[i, j]
        for i in range(kh)
        for j in range(kw)
    ]
    return sum(taps[1:], taps[0])


def _lower(x, kernel, *, stride, padding):
    plain = partial(_conv, stride=stride, padding=padding)
    if math.prod(x.shape[-3:-1]) >= math.prod(kernel.shape[:2]):
        return plain(x, kernel)
    # Of images smaller than the kernel XLA makes the kernel and slides it over the kernel,
    # which XLA:CPU does 20 times slower.
    as_dots = partial(_conv_as_dots, stride=stride, padding=padding)
    return jax.lax.platform_dependent(x, kernel, cpu=as_dots, default=plain)


def _transposed_to_x(g, x, kernel, *, stride, padding):
    """The derivative's transpose in `x`: what an attack differentiates by."""

    def others(g, kernel):
        plain = partial(_conv, kernel=kernel, stride=stride, padding=padding)
        return jax.linear_transpose(plain, x.aval)(g)[0]

    def on_cpu(g, kernel):
        if stride == 1:
            kh, kw = kernel.shape[:2]
            (top, bottom), (left, right) = padding
            flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
            around = ((kh - 1 - top, kh - 1 - bottom), (kw - 1 - left, kw - 1 - right))
            return conv2d(g, flipped, padding=around)
        as_dots = partial(_conv_as_dots, kernel=kernel, stride=stride, padding=padding)
        return jax.linear_transpose(as_dots, x.aval)(g)[0]

    return jax.lax.platform_dependent(g, kernel, cpu=on_cpu, default=others)


def _transposed_to_kernel(g, x, kernel, *, stride, padding):
    """The same in `kernel`, which only training wants."""

    def others(g, x):
        along = partial(_conv, x, stride=stride, padding=padding)
        return jax.linear_transpose(along, kernel.aval)(g)[0]

    def on_cpu(g, x):
        return _kernel_gradient(g, x, kernel.aval.shape, stride, padding)

    return jax.lax.platform_dependent(g, x, cpu=on_cpu, default=others)


def _kernel_gradient(g, x, shape, stride: int, padding: Padding) -> jax.Array:
    """What `g`, the gradient of a convolution of `x`, says of its kernel `shape`.

    Products of patches and gradient: on a CPU two to three times as fast as the
    convolution that autodiff makes (benchmarks/README.md).
    """
    kh, kw, inputs, outputs = shape
    x, g = x.reshape(-1, *x.shape[-3:]), g.reshape(-1, *g.shape[-3:])
    rows, columns = g.shape[1:3]

    def products(g, x):
        taps = [
            x[:, :, i : i + rows * stride : stride, j : j + columns * stride : stride]
            for i in range(kh)
            for j in range(kw)
        ]
        patches = jnp.concatenate(taps, -1).reshape(len(x), -1, kh * kw * inputs)
        return patches.mT @ g.reshape(len(g), -1, outputs)

    padded = jnp.pad(x, [(0, 0), *padding, (0, 0)])
    patches = rows * columns * kh * kw * inputs
    return summed_in_parts(products, g, padded, patches).reshape(shape)


_convolve = bilinear(
    "conv2d", _lower, _transposed_to_x, _transposed_to_kernel, ("stride", "padding")
)


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: Padding,
) -> jax.Array:
    """2D convolution of `x` `(..., H, W, C)` with `kernel` `(kh, kw, C, D)`.

    On the CPU its derivative in `x` is transposed by a rule of its own: inside a
    `lax.scan` XLA:CPU runs the convolutions that autodiff makes as naive loops, up to 20
    times slower. Other platforms keep autodiff's; which it is, is known when the program
    is compiled, not when it is traced.
    """
    if kernel.shape[:2] == (1, 1) and stride == 1:
        return x @ kernel[0, 0]
    images = x.reshape(-1, *x.shape[-3:])
    y = _convolve(images, kernel, stride=stride, padding=padding)
    return y.reshape(*x.shape[:-3], *y.shape[1:])


def upsample(x: jax.Array) -> jax.Array:
    """Nearest-neighbour upsampling of `(..., H, W, C)` by two."""
    return jnp.repeat(jnp.repeat(x, 2, -3), 2, -2)


def conv2d_of_upsampled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 3x3 convolution of `x` `(..., H, W, C)` upsampled by two, nearest neighbours.

    On the CPU at 4/9 of the cost; elsewhere as it says, for on a TPU memory is what a step
    waits for, and that moves less of it (benchmarks/README.md). Taps are added up in the
    kernel's dtype, and the convolutions are in that of `x`.
    """
    images = x.reshape(-1, *x.shape[-3:])
    y = _convolve_upsampled(images, kernel)
    return y.reshape(*x.shape[:-3], *y.shape[1:])


def _as_four(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Four 2x2 convolutions of `x` itself.

    Of the nine pixels under the kernel only two by two differ, and which of its taps fall
    on the same pixel depends on whether row and column of the result are even or odd.
    """

    def merged(taps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Kernels for even and odd places, from three taps along the first axis."""
        first, middle, last = taps
        return jnp.stack([first, middle + last]), jnp.stack([first + middle, last])

    def column(rows: jax.Array, above: tuple[int, int]) -> jax.Array:
        kernels = merged(rows.swapaxes(0, 1))
        both = [
            conv2d(x, taps.swapaxes(0, 1).astype(x.dtype), padding=(above, aside))
            for taps, aside in zip(kernels, BESIDE, strict=True)
        ]
        return jnp.stack(both, -2)  # (..., H, W, 2, D)

    rows = [column(r, above) for r, above in zip(merged(kernel), BESIDE, strict=True)]
    y = jnp.stack(rows, -4)  # (..., H, 2, W, 2, D)
    *lead, height, _, width, _, channels = y.shape
    return y.reshape(*lead, 2 * height, 2 * width, channels)


def _upsampled_first(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return conv2d(upsample(x), kernel.astype(x.dtype), padding=SAME_3X3)


def _of_upsampled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.platform_dependent(x, kernel, cpu=_as_four, default=_upsampled_first)


def _upsampled_to_x(g, x, kernel):
    def of(f):
        return lambda g, kernel: jax.linear_transpose(lambda x: f(x, kernel), x.aval)(g)[0]

    four, first = of(_as_four), of(_upsampled_first)
    return jax.lax.platform_dependent(g, kernel, cpu=four, default=first)


def _upsampled_to_kernel(g, x, kernel):
    def of(f):
        return lambda g, x: jax.linear_transpose(lambda k: f(x, k), kernel.aval)(g)[0]

    four, first = of(_as_four), of(_upsampled_first)
    return jax.lax.platform_dependent(g, x, cpu=four, default=first)


_convolve_upsampled = bilinear(
    "conv2d_of_upsampled",
    _of_upsampled,
    _upsampled_to_x,
    _upsampled_to_kernel,
    (),
)


def fan_avg_uniform(key: jax.Array, shape: tuple[int, ...], scale: float) -> jax.Array:
    """A kernel `(..., inputs, outputs)`, uniform with variance `scale` over its mean fan.

    That of the U-Nets of Ho et al. 2020 (`variance_scaling` of flax, "fan_avg"); a scale
    of 0 is 1e-10, as there.
    """
    fan = math.prod(shape[:-2]) * (shape[-2] + shape[-1]) / 2
    limit = jnp.sqrt(3 * jnp.array(max(scale, 1e-10) / fan, jnp.float32))
    return limit * drawn(jax.random.uniform, key, shape, jnp.float32, -1.0, 1.0)


class Conv(nnx.Module):
    """Convolution with a bias (or none), in the dtype of its input."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int = 3,
        *,
        stride: int = 1,
        padding: Padding = SAME_3X3,
        bias: bool = True,
        scale: float = 1.0,
        rngs: nnx.Rngs,
    ):
        shape = (size, size, in_channels, out_channels)
        self.kernel = nnx.Param(fan_avg_uniform(rngs.params(), shape, scale))
        self.bias = nnx.Param(jnp.zeros(out_channels)) if bias else None
        self.stride = stride
        self.padding = padding

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...].astype(x.dtype)
        y = conv2d(x, kernel, stride=self.stride, padding=self.padding)
        return self._plus_bias(y)

    def of_upsampled(self, x: jax.Array) -> jax.Array:
        """The same, for a 3x3 kernel, of `x` upsampled by two."""
        if self.kernel.shape[:2] != (3, 3) or (self.stride, self.padding) != (1, SAME_3X3):
            raise ValueError("of_upsampled is for 3x3 kernels, stride 1 and padding of 1")
        return self._plus_bias(conv2d_of_upsampled(x, self.kernel[...]))

    def _plus_bias(self, y: jax.Array) -> jax.Array:
        return y if self.bias is None else _add_last(y, self.bias[...])


class Dense(nnx.Module):
    """Affine map of the last axis, in the dtype of its input."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        scale: float = 1.0,
        rngs: nnx.Rngs,
    ):
        shape = (in_features, out_features)
        self.kernel = nnx.Param(fan_avg_uniform(rngs.params(), shape, scale))
        self.bias = nnx.Param(jnp.zeros(out_features))

    def __call__(self, x: jax.Array) -> jax.Array:
        return _add_last(x @ self.kernel[...].astype(x.dtype), self.bias[...])


class GroupNorm(nnx.Module):
    """Group normalisation over `(H, W, channels of the group)`, eps 1e-6 by default.

    Applied as one multiply and one add per channel. The variance takes two passes, but of
    input narrower than float32 one: its rounding hides what the difference of moments
    loses in float32, and a pass less over memory is what the networks' speed hangs on.
    """

    def __init__(self, channels: int, num_groups: int, *, epsilon: float = 1e-6):
        if channels % num_groups:
            raise UserError(
                f"{channels=} is not divisible by {num_groups=}: choose channel counts "
                "that are multiples of num_groups"
            )
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.num_groups = num_groups
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = self._group_mean(jnp.mean(wide, (-3, -2)))
        if _is_narrow(x):
            square = self._group_mean(jnp.mean(jnp.square(wide), (-3, -2)))
            factor = self._factor(jnp.maximum(square - jnp.square(mean), 0))
            shift = _add_last(-mean * factor, self.bias[...])
            y = wide * _over_pixels(factor) + _over_pixels(shift)
            return y.astype(x.dtype)
        centred = wide - _over_pixels(mean)
        variance = self._group_mean(jnp.mean(jnp.square(centred), (-3, -2)))
        return _add_last(centred * _over_pixels(self._factor(variance)), self.bias[...])

    def _factor(self, variance: jax.Array) -> jax.Array:
        return _times_last(jax.lax.rsqrt(variance + self.epsilon), self.scale[...])

    def _group_mean(self, per_channel: jax.Array) -> jax.Array:
        """Replaces each channel's mean `(..., C)` by the mean of its group."""
        shape = per_channel.shape
        grouped = per_channel.reshape(*shape[:-1], self.num_groups, -1)
        mean = jnp.mean(grouped, -1, keepdims=True)
        return jnp.broadcast_to(mean, grouped.shape).reshape(shape)


class BatchNorm(nnx.Module):
    """Batch normalisation; running statistics unless `train` is set.

    `train=True` uses the statistics of all leading axes and moves the running ones by
    `momentum`, as torch does (its momentum is `1 - momentum` here; biased variance for
    the output, unbiased for the running value). `scale=False` leaves the factor out.
    """

    def __init__(
        self,
        channels: int,
        *,
        epsilon: float = 1e-5,
        momentum: float = 0.9,
        scale: bool = True,
    ):
        self.scale = nnx.Param(jnp.ones(channels)) if scale else None
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))
        self.epsilon = epsilon
        self.momentum = momentum

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        mean, var = self.mean[...], self.var[...]
        if train:
            wide = x.astype(jnp.float32)
            axes = tuple(range(x.ndim - 1))
            mean, var = jnp.mean(wide, axes), jnp.var(wide, axes)
            count = math.prod(x.shape[:-1])
            keep = self.momentum
            self.mean[...] = keep * self.mean[...] + (1 - keep) * mean
            self.var[...] = keep * self.var[...] + (1 - keep) * var * (count / (count - 1))
        factor = jax.lax.rsqrt(var + self.epsilon)
        if self.scale is not None:
            factor = self.scale[...] * factor
        shift = self.bias[...] - mean * factor
        return _add_last(_times_last(x, factor), shift)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, eps 1e-6."""

    def __init__(self, features: int):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = x.dtype
        x = x.astype(jnp.promote_types(dtype, jnp.float32))
        centred = x - jnp.mean(x, -1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), -1, keepdims=True)
        x = _times_last(centred * jax.lax.rsqrt(variance + 1e-6), self.scale[...])
        return _add_last(x, self.bias[...]).astype(dtype)


class Attention(nnx.Module):
    """Single-head self-attention over pixels, added to its input.

    The sum is multiplied by `rescale`.
    """

    def __init__(
        self, channels: int, num_groups: int, *, rescale: float = 1.0, rngs: nnx.Rngs
    ):
        self.rescale = rescale
        self.norm = GroupNorm(channels, num_groups)
        self.query = Dense(channels, channels, rngs=rngs)
        self.key = Dense(channels, channels, rngs=rngs)
        self.value = Dense(channels, channels, rngs=rngs)
        self.out = Dense(channels, channels, scale=0.0, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        *lead, height, width, channels = x.shape
        h = self.norm(x).reshape(*lead, height * width, channels)
        query, key, value = self._project(h)
        scores = jnp.einsum("...qc,...kc->...qk", query, key) * channels**-0.5
        wide = jnp.promote_types(x.dtype, jnp.float32)
        weights = jax.nn.softmax(scores.astype(wide)).astype(x.dtype)
        mixed = jnp.einsum("...qk,...kc->...qc", weights, value)
        return (x + self.out(mixed.reshape(x.shape))) * self.rescale

    def _project(self, h: jax.Array) -> Sequence[jax.Array]:
        """Queries, keys and values, of narrow input by one product that reads it once."""
        layers = self.query, self.key, self.value
        if not _is_narrow(h):
            return [layer(h) for layer in layers]
        kernel = jnp.concatenate([layer.kernel[...] for layer in layers], -1)
        bias = jnp.concatenate([layer.bias[...] for layer in layers], -1)
        return jnp.split(_add_last(h @ kernel.astype(h.dtype), bias), 3, -1)


def timestep_embedding(
    t: jax.Array, features: int, *, cosine_first: bool = False
) -> jax.Array:
    """Sinusoidal embedding `(..., features)` of timesteps `t` `(...)`.

    Sines first, then cosines; frequencies from 1 down to 1/10000 with `features/2 - 1`
    in the denominator (Ho et al. 2020). `cosine_first` is guided-diffusion's: cosines
    first, and `features/2` in the denominator, as in the transformer.
    """
    half = features // 2
    t = jnp.asarray(t)
    dtype = t.dtype if jnp.issubdtype(t.dtype, jnp.floating) else jnp.float32
    exponent = -math.log(10000.0) / (half if cosine_first else half - 1)
    frequencies = jnp.exp(jnp.arange(half, dtype=dtype) * exponent)
    angles = _times_last(t.astype(dtype)[..., None], frequencies)
    parts = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(parts[::-1] if cosine_first else parts, -1)


def normalise(
    x: jax.Array, mean: Sequence[float], std: Sequence[float], compute_dtype: str
) -> jax.Array:
    """Images `(..., C)` less `mean`, over `std`, then in the dtype to compute in.

    Input that is wider than float32 keeps its dtype.

    Raises:
      UserError: `mean` or `std` is neither one number nor one a channel.
    """
    channels = x.shape[-1]
    for name, values in (("mean", mean), ("std", std)):
        if np.size(values) not in (1, channels):
            raise UserError(
                f"{name} has {np.size(values)} numbers and the images {channels} channels: "
                f"give the architecture {name}=[...], one number or one a channel"
            )
    lead = (1,) * (x.ndim - 1) + (-1,)
    x = (x - jnp.asarray(mean, x.dtype).reshape(lead)) / jnp.asarray(std, x.dtype).reshape(
        lead
    )
    return x.astype(compute_dtype) if x.dtype == jnp.float32 else x


def mean_over_pixels(x: jax.Array) -> jax.Array:
    """Mean of `(..., H, W, C)` over height and width, in float32 at least."""
    return jnp.mean(x.astype(jnp.promote_types(x.dtype, jnp.float32)), (-3, -2))


def _is_narrow(x: jax.Array) -> bool:
    """Whether it is narrower than float32: records are of float32, and speed of these."""
    return x.dtype.itemsize < 4


def _over_pixels(per_channel: jax.Array) -> jax.Array:
    return per_channel[..., None, None, :]


def _add_last(x: jax.Array, vector: jax.Array) -> jax.Array:
    return x + vector.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def _times_last(x: jax.Array, vector: jax.Array) -> jax.Array:
    return x * vector.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
