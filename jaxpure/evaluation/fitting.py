"""How many images run side by side: `batch_size="auto"`, the most that a device can hold.

XLA says of a compiled program how much memory it takes before anything runs. That grows by
about as much with every image, so that two small programs tell how many will fit, and the
program that is found is compiled to see that it does.
"""

import os
from pathlib import Path
from typing import Any, Literal

import jax
from etils import epath
from jax.sharding import Mesh

from jaxpure.data import Dataset
from jaxpure.errors import UserError
from jaxpure.evaluation import lanes, processes, records
from jaxpure.evaluation.setup import Setup

BatchSize = int | Literal["auto"]

USABLE = 0.9  # of a device's memory: what XLA plans is not all that a process takes
SAMPLES = (1, 4)  # images of the two programs that tell how memory grows
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def lanes_of(
    batch_size: BatchSize,
    draws_at_once: int,
    setup: Setup,
    dataset: Dataset,
    key: Any,
    folder: epath.Path | None = None,
    mesh: Mesh | None = None,
    share: int | None = None,
) -> lanes.Lanes:
    """The lanes of an evaluation; "auto" is what `folder` was begun with, or found now.

    Args:
      batch_size: images side by side on each device, or "auto".
      draws_at_once: draws of each image side by side.
      setup: the protocol.
      dataset: the examples.
      key: the root key.
      folder: of the records, if there is one; it may not exist yet.
      mesh: the devices; by default all of this host's.
      share: examples of one process, where several share them; by default all.

    Raises:
      UserError: not one image fits, or a number is none.
    """
    mesh = lanes.local_mesh() if mesh is None else mesh
    if isinstance(batch_size, str) and batch_size != "auto":
        raise UserError(f"batch_size={batch_size!r}, expected a whole number, or 'auto'")
    if batch_size != "auto":
        return lanes.Lanes(mesh, batch_size, draws_at_once)
    if folder is not None and (folder / records.IDENTITY).exists():
        begun = records.read_identity(folder)["about"]
        return lanes.Lanes(mesh, int(begun["batch_size"]), draws_at_once)
    examples = lanes.Examples(key, dataset.indices, dataset.floats(), dataset.labels)

    def planned(images: int) -> int:
        where = lanes.Lanes(mesh, images, draws_at_once)
        judging = setup.defense, setup.policy, examples, setup.judging_keys
        attacks = (
            lanes.planned_memory(where, stage, setup.ball, examples)
            for stage in setup.stages
        )
        return max(lanes.planned_judging(where, *judging), *attacks)

    share = len(dataset) if share is None else share
    device, most = mesh.devices.flat[0], -(-share // mesh.size)
    held = device_memory(device)
    found = largest(planned, int(USABLE * held), most)
    if not found:
        raise UserError(
            f"batch_size=auto: one image takes {planned(1) / 2**30:.1f} GiB, and "
            f"{device.device_kind} has {held / 2**30:.1f}: fewer steps of the purifier, a "
            "gradient rule as bpda, or a compute_dtype of bfloat16 take less"
        )
    return lanes.Lanes(mesh, found, draws_at_once)


def largest(planned: Any, limit: int, most: int) -> int:
    """The most images, up to `most`, of which a program fits into `limit` bytes, or 0.

    Args:
      planned: the bytes that a program of so many images takes; slow, so called rarely.
      limit: bytes that there are.
      most: images that there are.
    """
    few, more = (min(n, most) for n in SAMPLES)
    first = planned(few)
    if first > limit:
        return 0
    if more == few:
        return few
    second = planned(more)
    while second > limit and more > few + 1:
        more -= 1
        second = planned(more)
    if second > limit:
        return few
    if more < min(SAMPLES[1], most):
        return more
    each = max((second - first) / (more - few), 1)
    tried = min(most, more + int((limit - second) / each))
    while tried > more and (size := planned(tried)) > limit:
        tried = min(tried - 1, int(tried * limit / size))
    return max(tried, more)


def device_memory(device: Any) -> int:
    """Bytes that a device has for this process; a CPU device its share of what is free."""
    told = device.memory_stats() or {}
    if "bytes_limit" in told:
        return int(told["bytes_limit"])
    shared_by = len(jax.local_devices(backend=device.platform)) * processes.ours().count
    return _free_memory() // shared_by


def _free_memory() -> int:
    """Bytes of memory that this process may still take, a container's limit heeded."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if MEMINFO.exists():
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    try:
        allowed, used = (
            int((CGROUP / f"memory.{n}").read_text()) for n in ("max", "current")
        )
        stat = (CGROUP / "memory.stat").read_text().splitlines()
        cached = int(dict(line.split() for line in stat).get("inactive_file", 0))
        return min(free, max(allowed - used + cached, 0))
    except (OSError, ValueError):  # no container, or one without a limit
        return free
