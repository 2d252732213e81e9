"""Memory of the exact gradient through the reverse chain, against its length.

    python -m benchmarks.gradient_memory

Prints the temporary memory of the compiled gradient (as XLA plans it, nothing is run) for
chains of 2 to 1000 steps, beside the states that the backward pass has to keep, and the
seconds to compile. The 100-step chain must stay within 1.5 times the 2-step one plus its
states; the last column is that ratio, `(temporary - states) / temporary of 2 steps`.
"""

import time

import jax
import jax.numpy as jnp

from benchmarks.chains import NETWORKS
from jaxpure import models, purifiers

BATCH = 8
MIB = 2**20
COMPACT = NETWORKS["compact"]


def measure(t_star: int) -> tuple[float, float, float]:
    """`(temporary MiB, states MiB, seconds to compile)` of a batch's gradient."""
    purifier = purifiers.DiffPure(models.abstract(COMPACT), t_star=t_star)
    key = jax.eval_shape(lambda: jax.random.key(0))
    images = jax.ShapeDtypeStruct((BATCH, *COMPACT.input_shape), jnp.float32)

    def gradient(purifier, key, images):
        return jax.vmap(jax.grad(lambda x: jnp.sum(purifier(key, x))))(images)

    lowered = jax.jit(gradient).lower(purifier, key, images)
    started = time.monotonic()
    analysis = lowered.compile().memory_analysis()
    seconds = time.monotonic() - started
    states = t_star * images.size * 4
    return analysis.temp_size_in_bytes / MIB, states / MIB, seconds


def main() -> None:
    print(
        f"{BATCH} images of 32x32x3, {jax.devices()[0].device_kind}, jax {jax.__version__}"
    )
    print(" steps  temporary MiB  states MiB  compile s  ratio")
    first = None
    for t_star in (2, 10, 100, 1000):
        temporary, states, seconds = measure(t_star)
        first = temporary if first is None else first
        ratio = (temporary - states) / first
        print(f"{t_star:6} {temporary:14.1f} {states:11.1f} {seconds:10.1f} {ratio:6.2f}")


if __name__ == "__main__":
    main()
