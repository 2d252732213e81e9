"""What a program costs on a TPU, told by a compiler for one where there is none.

libtpu compiles for a topology that is only described, and the compiled program tells its
operations, what they move to and from memory, and the memory that it holds. How long that
takes is not measured: it is what the chip's published peaks allow, from Google Cloud's
pages on TPU v5e, v5p and v6e (cloud.google.com/tpu/docs).

The body of a loop counts once, however often it runs. Peaks are bfloat16's, which is what
the chips multiply: float32 at full precision ("highest", as commands have it) is six such
products, and its arithmetic takes six times as long, which the compiler's count leaves out.
"""

import functools
import importlib.util
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from jaxpure.errors import UserError, check_in

# libtpu asks a cloud's metadata server where it is, unless it is told.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


class Chip(NamedTuple):
    """A chip's published peaks.

    Attributes:
      topology: the smallest that libtpu describes; programs are for one chip of it.
      flops: FLOP a second, bfloat16.
      bandwidth: bytes a second to and from memory.
      memory: bytes.
    """

    topology: str
    flops: float
    bandwidth: float
    memory: float


CHIPS = {
    "v5e": Chip("v5e:2x2", 197e12, 819e9, 16e9),
    "v5p": Chip("v5p:2x2x1", 459e12, 2765e9, 95e9),
    "v6e": Chip("v6e:2x2", 918e12, 1640e9, 32e9),
}


PASSES = {"bfloat16": 1, "float32": 6}  # products of bfloat16 in one of a compute dtype


class Cost(NamedTuple):
    """What a compiled program costs one chip.

    Attributes:
      flop: operations.
      bytes_moved: to and from memory, as the compiler counts.
      peak_bytes: memory for arguments, results, temporaries and the program itself.
      code_bytes: of those the program itself.
      arithmetic_seconds: `flop` at the chip's peak, as often as the dtype takes passes.
      memory_seconds: `bytes_moved` at the chip's peak.
    """

    flop: float
    bytes_moved: float
    peak_bytes: int
    code_bytes: int
    arithmetic_seconds: float
    memory_seconds: float

    @property
    def seconds(self) -> float:
        """The least that it can take, one of the two at its peak."""
        return max(self.arithmetic_seconds, self.memory_seconds)

    @property
    def efficiency(self) -> float:
        """The share of the chip's arithmetic that memory leaves in use, at most 1."""
        return self.arithmetic_seconds / self.seconds if self.seconds else 0.0


def chip_named(name: str) -> Chip:
    """The chip of a name, or of a topology of it: "v5e" and "v5e:2x2" are the same.

    Raises:
      UserError: none is known by it.
    """
    name = name.partition(":")[0]
    check_in("chip", name, CHIPS)
    return CHIPS[name]


def check_installed() -> None:
    """Raises UserError where libtpu, which has the compiler, is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "compiling for a TPU needs libtpu, which is not installed: "
            "pip install -U 'jax[tpu]'"
        )


def device(chip: Chip) -> Any:
    """A device of the chip's topology, to compile for and not to run on.

    Waits for other processes that are here for the same.

    Raises:
      UserError: libtpu is not installed, or something else uses it.
    """
    check_installed()
    _wait_for_turn()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        return topologies.get_topology_desc(chip.topology, platform="tpu").devices[0]
    except jax.errors.JaxRuntimeError as error:
        if "lockfile" not in str(error):
            raise
        raise UserError(
            "another process uses libtpu, which serves one at a time: wait for it, or "
            "remove the lock file that it names if there is none: "
            f"{str(error).splitlines()[0]}"
        ) from error


def compiled_for(
    where: Any, function: Callable, *arguments: Any
) -> tuple[jax.stages.Compiled, float]:
    """`function` compiled for one device, and the seconds that compiling took.

    Args:
      where: the device.
      function: what to compile.
      *arguments: pytrees of arrays, numbers, or shapes in their place.
    """
    one = SingleDeviceSharding(where)
    shapes = jax.eval_shape(lambda *a: a, *arguments)
    shapes = jax.tree.map(lambda a: a.update(sharding=one), shapes)
    lowered = jax.jit(function).lower(*shapes)
    started = time.monotonic()
    with _nothing_kept():
        compiled = lowered.compile()
    return compiled, time.monotonic() - started


def cost(compiled: jax.stages.Compiled, chip: Chip, dtype: str) -> Cost:
    """What a compiled program costs a chip, at its peaks.

    Args:
      compiled: for a device of the chip.
      chip: whose peaks count.
      dtype: of the program's products, a name of `PASSES`.
    """
    counts: Any = compiled.cost_analysis()
    sizes: Any = compiled.memory_analysis()
    flop, bytes_moved = (counts.get(name, 0.0) for name in ("flops", "bytes accessed"))
    code = sizes.generated_code_size_in_bytes
    results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    peak = sizes.argument_size_in_bytes + results + sizes.temp_size_in_bytes + code
    arithmetic = PASSES[dtype] * flop / chip.flops
    return Cost(flop, bytes_moved, peak, code, arithmetic, bytes_moved / chip.bandwidth)


@contextmanager
def _nothing_kept() -> Iterator[None]:
    """Compiled programs stay out of JAX's cache on disk: these are priced and never run."""
    least = "jax_persistent_cache_min_compile_time_secs"
    usual = jax.config.values[least]
    jax.config.update(least, math.inf)
    try:
        yield
    finally:
        jax.config.update(least, usual)


@functools.cache
def _wait_for_turn() -> Any:
    """Holds this user's lock until the process ends: libtpu serves one at a time."""
    import fcntl  # Windows has neither it nor libtpu

    path = Path(tempfile.gettempdir()) / f"jaxpure-tpu-{os.getuid()}.lock"
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("waiting for another process that compiles for a TPU", file=sys.stderr)
        fcntl.flock(file, fcntl.LOCK_EX)
    return file
