"""GFLOP/s of 3x3 convolutions and their two gradients beside those that autodiff makes.

    python -m benchmarks.convolutions

Prints a row a shape: forward, gradient in the image, gradient in the kernel, for
`layers.conv2d` and for `lax.conv_general_dilated` under autodiff.
"""

import time

import jax
import jax.numpy as jnp

from jaxpure.models.layers import SAME_3X3, conv2d

BATCH = 250
SHAPES = ((23, 24, 64), (11, 64, 64), (11, 64, 256), (5, 256, 256), (2, 256, 256))


def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same convolution with JAX's own derivatives."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def ours(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return conv2d(x, kernel, padding=SAME_3X3)


def seconds(function, *args, repeats: int = 5) -> float:
    """The fastest of some calls, compiled."""
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*args))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        times.append(time.perf_counter() - started)
    return min(times)


def rates(convolve, x, kernel, gradient, operations: float) -> list[float]:
    """GFLOP/s forward, in the image and in the kernel."""

    def in_image(x, kernel, gradient):
        return jax.vjp(lambda x: convolve(x, kernel), x)[1](gradient)

    def in_kernel(x, kernel, gradient):
        return jax.vjp(lambda k: convolve(x, k), kernel)[1](gradient)

    times = [
        seconds(convolve, x, kernel),
        seconds(in_image, x, kernel, gradient),
        seconds(in_kernel, x, kernel, gradient),
    ]
    return [operations / each / 1e9 for each in times]


def main() -> None:
    print("height, inputs, outputs | ours: forward, image, kernel | autodiff's")
    for size, inputs, outputs in SHAPES:
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (BATCH * size * size * inputs,))
        x = x.reshape(BATCH, size, size, inputs)
        kernel = jax.random.normal(keys[1], (9 * inputs * outputs,))
        kernel = kernel.reshape(3, 3, inputs, outputs)
        gradient = jnp.ones((BATCH, size, size, outputs))
        operations = 2.0 * 9 * inputs * outputs * size * size * BATCH
        found = [rates(f, x, kernel, gradient, operations) for f in (ours, plain)]
        texts = [", ".join(f"{rate:.0f}" for rate in row) for row in found]
        print(f"{size}, {inputs}, {outputs} | {' | '.join(texts)}", flush=True)


if __name__ == "__main__":
    main()
