"""Operations that are linear in an image and in a kernel, with derivatives of our choosing.

A primitive of its own has derivatives of both modes and of any order: `custom_vjp` would
refuse forward mode, and `custom_jvp` cannot say how its tangent is transposed.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

Transposed = Callable[..., jax.Array]

NUMBERS_OF_PART = 1 << 20  # that `summed_in_parts` works on at a time


def bilinear(
    name: str,
    plain: Callable[..., jax.Array],
    to_image: Transposed,
    to_kernel: Transposed,
    options: tuple[str, ...],
) -> Callable[..., jax.Array]:
    """`plain(x, kernel, **options)` of a batch `(n, H, W, C)`, transposed as is told.

    A `vmap` over images makes a larger batch of them; one over kernels is JAX's own.

    Args:
      name: of the primitive.
      plain: the operation.
      to_image: `(g, x, kernel, **options)`, what the result's cotangent `g` is to the
        image, of which `x.aval` alone is known.
      to_kernel: the same to the kernel, of which `kernel.aval` alone is known.
      options: names of keyword arguments, all hashable.
    """
    primitive = jax.extend.core.Primitive(name)

    def shape_of_result(x: Any, kernel: Any, **given: Any) -> Any:
        shapes = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, kernel))
        out = jax.eval_shape(lambda x, kernel: plain(x, kernel, **given), *shapes)
        return x.update(shape=out.shape, dtype=out.dtype, weak_type=False)

    def batched(operands: Any, axes: Any, **given: Any) -> Any:
        (x, kernel), (x_axis, kernel_axis) = operands, axes
        if kernel_axis is not None:  # a kernel an image
            mapped = jax.vmap(lambda x, kernel: plain(x, kernel, **given), axes)
            return mapped(x, kernel), 0
        x = jnp.moveaxis(x, x_axis, 0)
        y = primitive.bind(x.reshape(-1, *x.shape[2:]), kernel, **given)
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0

    primitive.def_impl(jax.jit(plain, static_argnames=options))
    primitive.def_abstract_eval(shape_of_result)
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    ad.defbilinear(primitive, to_image, to_kernel)
    batching.primitive_batchers[primitive] = batched
    return primitive.bind


def summed_in_parts(
    sums: Callable[[jax.Array, jax.Array], jax.Array],
    g: jax.Array,
    x: jax.Array,
    numbers_of_an_image: int,
) -> jax.Array:
    """A sum over the images of `g` and `x`, of parts of them that stay in a core's cache.

    For gradients of kernels on a CPU. There are as many sums as devices that the batch may
    be spread over, so that each has its own images alone.

    Args:
      sums: of images `(shares, n, ...)` of both, the sum `(shares, ...)` of each share.
      g: a gradient `(n, ...)`.
      x: the image that it is about, `(n, ...)`.
      numbers_of_an_image: how many `sums` works on.
    """
    shares = math.gcd(len(x), jax.device_count())
    n = len(x) // shares
    wanted = max(NUMBERS_OF_PART // numbers_of_an_image, 1)
    part = max(i for i in range(1, min(wanted, n) + 1) if n % i == 0)

    def in_parts(a):
        return a.reshape(shares, n // part, part, *a.shape[1:]).swapaxes(0, 1)

    start = jax.eval_shape(sums, *(in_parts(a)[0] for a in (g, x)))
    total, _ = jax.lax.scan(
        lambda total, both: (total + sums(*both), None),
        jnp.zeros(start.shape, start.dtype),
        (in_parts(g), in_parts(x)),
    )
    return jnp.sum(total, 0)
