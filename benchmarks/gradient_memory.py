"""Memory of the exact gradient through the reverse chain, against its length.

    python -m benchmarks.gradient_memory

Prints the temporary memory of the compiled gradient (as XLA plans it, nothing is run) for
chains of 2 to 1000 steps, beside the states that the backward pass has to keep, and the
seconds to compile. The 100-step chain must stay within 1.5 times the 2-step one plus its
states; the last column is that ratio, `(temporary - states) / temporary of 2 steps`.

A second table has the same memory for each `remat`, what the gradient computes again,
beside the seconds of a gradient.
"""

import math
import time
from typing import Any, get_args

import jax
import jax.numpy as jnp

from benchmarks.chains import NETWORKS
from jaxpure import models, purifiers
from jaxpure.diffusion import Remat

BATCH = 8
MIB = 2**20
STEPS = 10  # of the chains under each remat
COMPACT = NETWORKS["compact"]


def compiled(t_star: int, remat: Remat) -> tuple[Any, float]:
    """A batch's gradient `(purifier, key, images) -> images`, and seconds to compile it."""
    purifier = purifiers.DiffPure(models.abstract(COMPACT), t_star=t_star, remat=remat)
    key = jax.eval_shape(lambda: jax.random.key(0))
    images = jax.ShapeDtypeStruct((BATCH, *COMPACT.input_shape), jnp.float32)

    def gradient(purifier, key, images):
        return jax.vmap(jax.grad(lambda x: jnp.sum(purifier(key, x))))(images)

    lowered = jax.jit(gradient).lower(purifier, key, images)
    started = time.monotonic()
    program = lowered.compile()
    return program, time.monotonic() - started


def temporary(program: Any) -> float:
    """MiB that XLA plans besides arguments and results."""
    return program.memory_analysis().temp_size_in_bytes / MIB


def seconds_of(program: Any, t_star: int, remat: Remat, repeats: int = 3) -> float:
    """Of a gradient: the fastest of some."""
    network = models.create(COMPACT, jax.random.key(0))
    purifier = purifiers.DiffPure(network, t_star=t_star, remat=remat)
    images = jax.random.uniform(jax.random.key(1), (BATCH, *COMPACT.input_shape))
    times = []
    for _ in range(1 + repeats):
        started = time.monotonic()
        jax.block_until_ready(program(purifier, jax.random.key(2), images))
        times.append(time.monotonic() - started)
    return min(times[1:])


def main() -> None:
    print(
        f"{BATCH} images of 32x32x3, {jax.devices()[0].device_kind}, jax {jax.__version__}"
    )
    print(" steps  temporary MiB  states MiB  compile s  ratio")
    first = None
    for t_star in (2, 10, 100, 1000):
        program, seconds = compiled(t_star, "step")
        planned = temporary(program)
        states = t_star * BATCH * math.prod(COMPACT.input_shape) * 4 / MIB
        first = planned if first is None else first
        ratio = (planned - states) / first
        print(f"{t_star:6} {planned:14.1f} {states:11.1f} {seconds:10.1f} {ratio:6.2f}")
    print(f"\n{STEPS} steps\n remat     temporary MiB  seconds  ratio")
    usual = None
    for remat in get_args(Remat):
        program, _ = compiled(STEPS, remat)
        seconds = seconds_of(program, STEPS, remat)
        usual = seconds if usual is None else usual
        planned = temporary(program)
        print(f" {remat:9} {planned:13.1f} {seconds:8.3f} {seconds / usual:6.2f}")


if __name__ == "__main__":
    main()
