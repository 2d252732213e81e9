"""How fast a training goes: images a second, and beside what its devices can do.

The measure of a device is a product of two square matrices, in the dtype that the training
computes in. A training that needs S seconds for work that such products would do
in s has a share of s / S.
"""

import json
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from jaxpure.files import write_atomically

SIDE = 2048
LEAST_SECONDS = 0.2  # that a measurement takes
FILE = "pace.json"


class Pace(NamedTuple):
    """The time that a training took so far, over all its processes.

    Attributes:
      steps: updates that were timed.
      seconds: for them, without compilation, validation and saving.
      matmul_seconds: what matrix products of as many FLOPs would take on the same devices;
        None where that is not known.
    """

    steps: int = 0
    seconds: float = 0.0
    matmul_seconds: float | None = 0.0

    def and_then(self, more: "Pace") -> "Pace":
        """The pace of this part and a later one."""
        known, added = self.matmul_seconds, more.matmul_seconds
        matmul = None if known is None or added is None else known + added
        return Pace(self.steps + more.steps, self.seconds + more.seconds, matmul)

    def text(self, batch_size: int) -> str:
        """The pace in words: "412 images/s, 38% of matmul"."""
        if not self.seconds:
            return "not measured"
        text = f"{self.steps * batch_size / self.seconds:.0f} images/s"
        if self.matmul_seconds is None:
            return text
        return f"{text}, {100 * self.matmul_seconds / self.seconds:.0f}% of matmul"


def load(workdir: epath.Path) -> Pace:
    """The pace of a run so far; an empty one if its file is missing or damaged."""
    try:
        values = json.loads((workdir / FILE).read_text())
        matmul = values["matmul_seconds"]
        known = None if matmul is None else float(matmul)
        return Pace(int(values["steps"]), float(values["seconds"]), known)
    except (OSError, ValueError, TypeError, KeyError):
        return Pace()


def save(workdir: epath.Path, pace: Pace) -> None:
    write_atomically(workdir / FILE, (json.dumps(pace._asdict()) + "\n").encode())


def matmul_rate(mesh: jax.sharding.Mesh, dtype: str) -> float:
    """FLOP/s of products of 2048 x 2048 matrices, on all devices of a mesh at once."""
    sharding = jax.sharding.NamedSharding(mesh, jax.P(*mesh.axis_names))
    shape = (mesh.size, SIDE, SIDE)
    a = jax.device_put(jnp.ones(shape, dtype), sharding)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    count, seconds = 0, 0.0
    while seconds < LEAST_SECONDS:
        count = max(2 * count, 1)
        started = time.perf_counter()
        for _ in range(count):
            result = product(a, a)
        result.block_until_ready()
        seconds = time.perf_counter() - started
    return count * mesh.size * 2 * SIDE**3 / seconds


def flops(step: Any, *args: Any) -> float | None:
    """FLOPs of a jitted program on all devices, as XLA counts them; None where it does not.

    XLA counts the body of a loop once, and on a CPU a convolution's derivative is one. So
    what is counted is the program as it is written for a GPU, which is not compiled.
    """
    lowered = step.trace(*args).lower(lowering_platforms=("cuda",))
    found = (lowered.cost_analysis() or {}).get("flops", 0.0)
    return found if found > 0 else None
