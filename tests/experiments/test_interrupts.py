"""Every Ctrl-C and SIGTERM ends a program in seconds, whatever it is doing."""

import random
import signal
import time

import pytest

from experiments.interrupts import GOES_ON
from tests.experiments.commands import TINY, start

LATEST = 10.0  # seconds in which a busy machine may end a process


def interrupted(workdir, signum, after: float) -> None:
    arguments = ("--config=digits_bpda_replay", f"--workdir={workdir}", *TINY)
    process = start("run", *arguments)
    time.sleep(after)
    if process.poll() is not None:
        return  # it was done before
    sent = time.monotonic()
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    if process.returncode == 0 and "report.html" in output:
        return  # it ended by itself in that moment
    assert process.returncode == 130, (after, output)
    assert f"interrupted; {GOES_ON}" in output and "Traceback" not in output
    assert time.monotonic() - sent < LATEST


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.3, 1.5, 4.0])
def test_an_interrupt_ends_a_run(tmp_path, signum, after):
    """During imports, while it reads its config, while it compiles."""
    interrupted(tmp_path, signum, after)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_at_any_moment(tmp_path, seed):
    moment = random.Random(seed).uniform(0.2, 25)
    interrupted(tmp_path, (signal.SIGINT, signal.SIGTERM)[seed % 2], moment)
