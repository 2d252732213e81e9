"""How many CPU devices XLA makes: one for each physical core.

XLA threads only some operations of a CPU device; a batch that is split over a device a core
keeps all of them busy. Records do not depend on it (docs/running.md has the rule).
"""

import os
import platform
from pathlib import Path

TOPOLOGY = Path("/sys/devices/system/cpu")
QUOTA = Path("/sys/fs/cgroup/cpu.max")
PATIENCE = "xla_cpu_collective_call_terminate_timeout_seconds"
PATIENT_SECONDS = 7 * 24 * 3600


def use(count: int | None, multiple_of: int | None = None) -> None:
    """Sets the number of CPU devices, before JAX's backend starts.

    Args:
      count: so many; 0 leaves it to JAX; None means one for each physical core, unless
        the user's environment says how many (JAX_NUM_CPU_DEVICES, XLA_FLAGS).
      multiple_of: the devices share so many examples evenly; of the cores only as many
        are used as divide it.
    """
    import jax

    _wait_for_busy_devices()
    if count is None:
        told_xla = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
        if told_xla or "JAX_NUM_CPU_DEVICES" in os.environ:
            return
        count = physical_cores()
        if multiple_of is not None:
            count = max(n for n in range(1, count + 1) if multiple_of % n == 0)
    if count:
        jax.config.update("jax_num_cpu_devices", count)


def _wait_for_busy_devices() -> None:
    """Devices that sum something up wait for one another, however busy the machine is.

    By default XLA ends the process, without a word that a user understands, where one
    CPU device is 40 seconds late.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if PATIENCE not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{PATIENCE}={PATIENT_SECONDS}".strip()


def hardware() -> str:
    """This process's devices, and the processor they are in or beside."""
    import jax

    found = jax.devices()
    name, cores = _processor(), physical_cores()
    return f"{len(found)} x {found[0].device_kind}, {name}, {cores} cores"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.partition(": ")[2] for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def physical_cores() -> int:
    """Cores that this process may use; two threads of one core count once."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    cores = {_core(cpu) for cpu in usable} or {(str(i), "") for i in range(_logical())}
    return max(1, min(len(cores), _quota() or len(cores)))


def _logical() -> int:
    return os.cpu_count() or 1


def _core(cpu: int) -> tuple[str, str]:
    """The package and the core that a logical CPU belongs to; itself if unknown."""
    place = TOPOLOGY / f"cpu{cpu}" / "topology"
    try:
        package = (place / "physical_package_id").read_text().strip()
        return package, (place / "core_id").read_text().strip()
    except OSError:
        return "cpu", str(cpu)


def _quota() -> int | None:
    """Whole cores that a container's quota allows, rounded up; None without one."""
    try:
        allowed, period = QUOTA.read_text().split()
        return None if allowed == "max" else -(-int(allowed) // int(period))
    except (OSError, ValueError):
        return None
