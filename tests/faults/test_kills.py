"""Evaluations that are killed at random moments lose no row and change none.

The short form kills one evaluation a few times; the long one (`-m long`) kills many. Counts
and seeds are printed (`-s` shows them).
"""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from evaluation import toys

from jaxpure.evaluation.folder import open_folder
from jaxpure.evaluation.verify import verify

# One step a call, a snapshot at every one, and a pause, so that a kill lands in the work.
PROGRAM = """
import sys, time
from evaluation import toys
from jaxpure.evaluation import lanes
lanes.SNAPSHOT_SECONDS, lanes.MOST_STEPS = 0, 1
advance = lanes._Crew.advance
def slowly(self, slots, steps):
    time.sleep(float(sys.argv[2]))
    return advance(self, slots, steps)
lanes._Crew.advance = slowly
print("begins", flush=True)
toys.run(sys.argv[1], *toys.problem(11, num_steps=8), policy="fresh")
print("ends", flush=True)
"""
TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([TESTS, *sys.path]),
    "JAX_PLATFORMS": "cpu",
}


def begin(folder, pause=0.02):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(pause)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def rows(folder):
    """The digest of every whole row on disk, by kind and example."""
    stored = open_folder(folder)
    return {
        (kind, index): {row["digest"] for row in found}
        for kind, by_index in stored.rows.items()
        for index, found in by_index.items()
    }


def kill_until(folder, kills, seed):
    """Starts an evaluation and kills it so many times; rows must only grow."""
    randomly, killed, before = random.Random(seed), 0, {}
    while killed < kills:
        process = begin(folder)
        process.stdout.readline()  # the imports are behind it
        try:
            process.wait(timeout=randomly.uniform(0.0, 4.0))
            break  # it came to its end before the kill
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
        if not (folder / "identity.json").exists():
            continue
        after = rows(folder)
        lost = [where for where, digests in before.items() if after.get(where) != digests]
        assert not lost, f"seed {seed}: lost or changed {lost}"
        before = after
    return killed, before


def unbroken():
    defense, attack, dataset = toys.problem(11, num_steps=8)
    return toys.run(None, defense, attack, dataset, policy="fresh")


@pytest.mark.parametrize(
    ("runs", "kills"), [(1, 3), pytest.param(20, 10, marks=pytest.mark.long)]
)
def test_killed_at_random_and_resumed_is_the_same_to_the_bit(tmp_path, runs, kills):
    whole, total, started = unbroken(), 0, time.monotonic()
    for seed in range(runs):
        folder = tmp_path / str(seed)
        killed, _ = kill_until(folder, kills, seed)
        total += killed
        defense, attack, dataset = toys.problem(11, num_steps=8)
        resumed = toys.run(folder, defense, attack, dataset, policy="fresh")
        toys.assert_same(whole, resumed)
        assert all(finding.ok for finding in verify(folder))
    seconds = time.monotonic() - started
    print(f"{total} kills of {runs} runs (seeds 0 to {runs - 1}), {seconds:.0f} s: 0 lost")
    assert total >= 1


@pytest.mark.parametrize("writers", [2, pytest.param(4, marks=pytest.mark.long)])
def test_two_evaluations_in_one_folder(tmp_path, writers):
    """One works, the others are told by the lock; after a kill the folder is free."""
    first = begin(tmp_path, pause=0.3)
    first.stdout.readline()
    deadline = time.monotonic() + 60
    while not (tmp_path / "lock-000.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    others = [begin(tmp_path) for _ in range(writers - 1)]
    assert all(other.wait(timeout=120) == 1 for other in others)
    first.send_signal(signal.SIGKILL)
    first.wait()
    defense, attack, dataset = toys.problem(11, num_steps=8)
    found = toys.run(tmp_path, defense, attack, dataset, policy="fresh")
    toys.assert_same(unbroken(), found)


@pytest.mark.long
def test_four_evaluations_without_a_lock_end_with_the_same_records(tmp_path):
    """All at once, each doing what it finds undone: rows may be made twice, never lost."""
    without = PROGRAM.replace(
        "lanes.SNAPSHOT_SECONDS",
        "from jaxpure.evaluation import lock\n"
        "import contextlib\n"
        "lock.held = lambda folder: contextlib.nullcontext()\n"
        "lanes.SNAPSHOT_SECONDS",
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", without, str(tmp_path), "0.01"], env=ENVIRONMENT
        )
        for _ in range(4)
    ]
    assert [process.wait(timeout=300) for process in running] == [0] * 4
    assert all(finding.ok for finding in verify(tmp_path))
    toys.assert_same(open_folder(tmp_path).result, unbroken())
