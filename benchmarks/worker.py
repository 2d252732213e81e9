"""One peer at one work, in a process of its own: prints what it measured as JSON.

    python -m benchmarks.worker WORK PEER FOLDER [quick]

The first call compiles, or warms up; the median of the later ones is the time. With the
peer "ready" it makes what the peers share instead, and prints the facts.
"""

import json
import os
import resource
import statistics
import sys
import time
from typing import Any

import numpy as np

from benchmarks.works import Task, called, works

INSTALL = "pip install -e '.[foolbox,peers,convert]'"
ENOUGH_SECONDS, MOST_CALLS = 3.0, 9


def main(work: str, peer: str, folder: str, quick: bool) -> dict[str, Any]:
    """What is measured, or `{"error": why not}`."""
    the_work = works(quick)[work]
    try:
        if peer == "ready":
            assert the_work.ready is not None
            return called(the_work.ready, folder, **the_work.ready_options)
        return measure(the_work.peer(peer).prepare(folder), quick)
    except ModuleNotFoundError as error:
        return {"error": f"{error.name} is not installed: {INSTALL}"}
    except Exception as error:  # a peer that fails leaves its cell, not the run
        text = " ".join(str(error).split()) or type(error).__name__
        return {"error": f"failed: {type(error).__name__}: {text[:200]}"}


def measure(task: Task, quick: bool) -> dict[str, float]:
    """Seconds of the first call and of a later one, peak memory, and the task's facts."""
    first, later = seconds(task.call), [seconds(task.call)]
    while not quick and sum(later) < ENOUGH_SECONDS and len(later) < MOST_CALLS:
        later.append(seconds(task.call))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"first": first, "later": statistics.median(later), "mib": peak, **task.facts()}


def seconds(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def matmul(folder: str) -> Task:
    """The rate of float32 multiplications that the machine reaches, by numpy's BLAS."""
    del folder
    size = 2048
    a, b = np.random.default_rng(0).normal(size=(2, size, size)).astype(np.float32)
    return Task(lambda: a @ b, lambda: {"operations": 2.0 * size**3})


if __name__ == "__main__":
    output, sys.stdout = os.dup(1), sys.stderr  # libraries may print what they like
    found = main(*sys.argv[1:4], quick="quick" in sys.argv[4:])
    os.write(output, f"{json.dumps(found)}\n".encode())
