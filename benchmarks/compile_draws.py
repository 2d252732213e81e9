"""Seconds to compile draws of several axes, beside the same numbers drawn flat.

python -m benchmarks.compile_draws
"""

import time

import jax

from jaxpure.keys import drawn

SHAPES = ((32, 32, 3), (3, 3, 8, 16), (3, 3, 64, 64))


def seconds(function) -> float:
    """Of compiling a function of a key."""
    lowered = jax.jit(function).lower(jax.random.key(0))
    started = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - started


def main() -> None:
    print("sampler, shape | as it is, s | drawn flat, s")
    for sampler in (jax.random.normal, jax.random.uniform):
        for shape in SHAPES:
            direct = seconds(lambda key, s=sampler, n=shape: s(key, n))
            flat = seconds(lambda key, s=sampler, n=shape: drawn(s, key, n))
            print(f"{sampler.__name__}, {shape} | {direct:.2f} | {flat:.2f}", flush=True)


if __name__ == "__main__":
    main()
