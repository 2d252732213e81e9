"""The README's first command as a user runs it, with a compile cache of its own.

The first call begins with an empty cache; what it takes beyond a later one is compilation.
"""

import itertools
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

from benchmarks.works import Task

ROOT = pathlib.Path(__file__).parents[1]
FIRST_STEP = "steps of"  # what the command says once a step was made and measured
KEEPS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
SMALL = ("--config.attack.num_steps=2", "--config.purifier=identity")


def task(folder: str, images: int, quick: bool) -> Task:
    """So many digits; a short attack on the bare classifier where it is `quick`."""
    scratch = pathlib.Path(tempfile.mkdtemp(dir=folder))
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(scratch / "cache")}
    environment.pop(KEEPS, None)  # the benchmark's own; users have JAX's
    numbers, first_step = itertools.count(), []

    def call() -> None:
        command = [sys.executable, "-m", "experiments.run", "--config=digits_bpda_replay"]
        command += [f"--limit={images}", f"--workdir={scratch / str(next(numbers))}"]
        started = time.perf_counter()
        with subprocess.Popen(
            [*command, *(SMALL if quick else ())],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            said = iter(process.stdout)
            next((line for line in said if FIRST_STEP in line), None)
            first_step.append(time.perf_counter() - started)
            rest = "".join(said)
        if process.returncode:
            raise RuntimeError(
                f"the command ended with {process.returncode}: {rest[-300:]}"
            )

    def facts() -> dict[str, float]:
        shutil.rmtree(scratch)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        return {"mib": peak, "first_step": first_step[-1], "first_step_cold": first_step[0]}

    return Task(call, facts)
