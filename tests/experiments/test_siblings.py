"""Several processes at one run: the same records as one, and an end that all share."""

import json
import pathlib
import signal
import socket
import time
from types import SimpleNamespace

import pytest
from etils import epath

from benchmarks.reliability import RUN_ARGUMENTS, content
from experiments import siblings
from experiments.arguments import ArgumentError, parse
from jaxpure import files
from jaxpure.evaluation import lock, processes
from tests.experiments.commands import error_line, run, start, start_python

# As `-m experiments.run`, every step so slow that a kill lands in the work.
SLOWLY = """
import sys, time
from experiments import interrupts, run
from jaxpure.evaluation import lanes
interrupts.install()
advance, lanes.MOST_STEPS = lanes._Crew.advance, 1
def slowly(self, slots, steps):
    time.sleep(40)
    return advance(self, slots, steps)
lanes._Crew.advance = slowly
run.cost.announce = lambda *_: None
sys.exit(run.command(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What one process leaves."""
    workdir = tmp_path_factory.mktemp("whole")
    code, output = run("run", *RUN_ARGUMENTS, f"--workdir={workdir}")
    assert code == 0, output
    return left(workdir)


def left(workdir: pathlib.Path) -> dict[str, str]:
    """All rows and results of a workdir; the summary counts devices, and is left out."""
    return {name: v for name, v in content(workdir).items() if name != "summary.json"}


def arguments(workdir, count, index, *more):
    numbers = (f"--num_processes={count}", f"--process_id={index}")
    return (*RUN_ARGUMENTS, f"--workdir={workdir}", *numbers, *more)


def run_together(workdir, count, *more):
    running = [start("run", *arguments(workdir, count, i, *more)) for i in range(count)]
    outputs = [process.communicate(timeout=600)[0] for process in running]
    assert [process.returncode for process in running] == [0] * count, outputs
    return outputs


def kill_one(workdir, count, victim):
    """Kills one of several in its work; its pid, the others' outputs, and seconds until."""
    running = [
        start_python("-c", SLOWLY, *arguments(workdir, count, i)) for i in range(count)
    ]
    at_work = [f"part-{i:03d}-*" for i in range(count)]
    deadline = time.monotonic() + 300
    while not all(any((workdir / "records/undefended/clean").glob(p)) for p in at_work):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in running)
        time.sleep(0.1)
    pid = running[victim].pid
    running[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    running.pop(victim).communicate()
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [2] * (count - 1), outputs
    return pid, outputs, time.monotonic() - killed


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_the_same_commands_go_on(whole, tmp_path):
    pid, (output,), seconds = kill_one(tmp_path, 2, victim=1)
    assert error_line(output) == (
        f"error: process 1 of 2 (host {socket.gethostname()}, pid {pid}) has ended; the "
        "same commands go on from here"
    )
    assert seconds < 30
    run_together(tmp_path, 2)
    assert left(tmp_path) == whole
    assert json.loads((tmp_path / "summary.json").read_text())["num_devices"] == 2
    assert not list(tmp_path.glob("*lock*"))


@pytest.mark.long
def test_process_0_killed_ends_the_others_and_one_process_can_go_on(whole, tmp_path):
    _, outputs, seconds = kill_one(tmp_path, 3, victim=0)
    assert all("process 0 of 3" in error_line(output) for output in outputs)
    assert seconds < 30
    code, output = run("run", *RUN_ARGUMENTS, f"--workdir={tmp_path}")
    assert code == 0, output
    assert left(tmp_path) == whole


@pytest.mark.long
def test_three_processes_that_start_jaxs_runtime_leave_what_one_does(whole, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        at = f"localhost:{probe.getsockname()[1]}"
    run_together(tmp_path, 3, "--distributed", f"--coordinator={at}")
    assert left(tmp_path) == whole


@pytest.mark.long
def test_more_processes_than_images(tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    code, output = run("run", *RUN_ARGUMENTS, f"--workdir={alone}", "--limit=2")
    assert code == 0, output
    run_together(together, 4, "--limit=2")
    assert left(together) == left(alone)
    assert "is finished" in run_together(together, 4, "--limit=2")[3]


@pytest.mark.long
def test_a_process_of_another_run_is_refused_once_the_workdir_is_claimed(tmp_path):
    """Which leaves process 0 alone, and it says so."""
    running = [
        start_python("-c", SLOWLY, *arguments(tmp_path, 2, 0)),
        start("run", *arguments(tmp_path, 2, 1, "--config.seed=1")),
    ]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [2, 2]
    assert "process 1 of 2" in error_line(outputs[0])
    assert "differ in seed" in error_line(outputs[1])


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["--num_processes=2"], "belong together"),
        (["--process_id=0"], "belong together"),
        (["--coordinator=localhost:1"], "belong together"),
        (["--num_processes=2", "--process_id=2"], "expected 0 to 1"),
        (["--num_processes=0", "--process_id=0"], "at least 1"),
    ],
)
def test_flags_that_do_not_fit_together(typed, says):
    with pytest.raises(ArgumentError, match=says):
        siblings.begin(parse(typed, siblings.FLAGS))


def test_no_cluster_is_told(monkeypatch):
    def nothing(*arguments):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(siblings.jax.distributed, "initialize", nothing)
    with pytest.raises(siblings.ProcessesError, match="--num_processes=N"):
        siblings.begin(parse(["--distributed"], siblings.FLAGS))


@pytest.fixture
def zero(tmp_path, monkeypatch):
    """Process 0 of 3, by itself; what it would end with is raised."""
    monkeypatch.setattr(processes, "_said", processes.Process(0, 3))
    folder = epath.Path(tmp_path)
    write(folder, 1, since=1.0, says="done")  # of a run that was killed
    with lock.held(folder) as ours:
        yield siblings.Siblings(folder, ours)


def write(folder, index, **changes):
    owner = {"pid": 7, "host": "elsewhere", "since": 5.0, "seen": 5.0, "of": 3, "says": ""}
    lock.path_of(folder, index).write_text(json.dumps(owner | changes))


def wrong(zero, seconds=0.0):
    for one in zero.watched:
        one.look()
    return [zero._wrong(one, seconds) for one in zero.watched]


def test_what_a_dead_process_left_is_no_process(zero):
    assert wrong(zero) == [None, None]
    late = wrong(zero, siblings.COMING_SECONDS)
    assert late[0] == "process 1 of 3 has not begun within 300 s; start all of them"
    assert [one.says for one in zero.watched] == ["", ""]
    write(zero.workdir, 1, says="claimed")
    write(zero.workdir, 2, says="claimed")
    assert wrong(zero, siblings.COMING_SECONDS) == [None, None]
    assert [one.says for one in zero.watched] == ["claimed", "claimed"]


def test_a_lock_that_is_not_seen_to_is_a_process_that_has_ended(zero, monkeypatch):
    write(zero.workdir, 1)
    write(zero.workdir, 2, says="done")
    assert wrong(zero) == [None, None]
    monkeypatch.setattr(lock, "STALE_SECONDS", -1.0)
    gone = "process 1 of 3 (host elsewhere, pid 7) has ended; the same commands go on from"
    found = wrong(zero)
    assert found[0].startswith(gone) and found[1] is None  # 2 has done its part
    lock.path_of(zero.workdir, 1).unlink()
    assert wrong(zero)[0].startswith(gone)


def test_what_another_says_as_it_ends_is_said_again(zero):
    write(zero.workdir, 1, says="ended process 2 of 3 (...) has ended")
    write(zero.workdir, 2, of=4)
    ended, other_count = wrong(zero)
    assert ended == "process 2 of 3 (...) has ended"
    assert "was told that there are 4" in other_count


def test_a_process_alone_waits_for_nobody(tmp_path):
    folder = epath.Path(tmp_path)
    with lock.held(folder) as ours, siblings.together(folder, ours) as alone:
        alone.wait_for_claim()
        alone.claimed()
        alone.wait_for_the_end()
        assert ours.content["says"] == ""


def test_a_bucket_is_listed_anew(monkeypatch):
    """The drivers of buckets do not see what others have written since they looked."""
    forgotten = []
    driver = SimpleNamespace(invalidate_cache=lambda: forgotten.append(True))
    monkeypatch.setattr(epath.backend.fsspec_backend, "fs", lambda path: driver)
    files.forget_listings(epath.Path("/a/folder"))
    assert not forgotten
    files.forget_listings(epath.Path("gs://bucket/run"))
    assert forgotten
