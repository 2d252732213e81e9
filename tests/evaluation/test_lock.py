"""The lock: one writer a folder; what dead writers leave is taken over."""

import json
import os
import subprocess
import sys
import threading
import time
from unittest import mock

import pytest
from etils import epath

from jaxpure.evaluation import lock


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path)


def write(folder, **changes):
    now = time.time()
    owner = {"pid": os.getpid(), "host": lock.socket.gethostname(), "since": now}
    (folder / "lock-000.json").write_text(json.dumps({**owner, "seen": now} | changes))


def test_a_living_process_is_named(folder):
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
    ) as other:
        write(folder, pid=other.pid)
        expected = f"in use by process {other.pid} on .* since .*; wait for it"
        with pytest.raises(lock.LockedError, match=expected), lock.held(folder):
            pass
        other.communicate(b"\n")
    with lock.held(folder):  # it is gone now
        assert json.loads((folder / "lock-000.json").read_text())["pid"] == os.getpid()
    assert not (folder / "lock-000.json").exists()


def test_a_later_process_of_the_same_number_is_not_the_owner(folder):
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
    ) as other:
        started = lock._started(other.pid)
        if started is None:
            pytest.skip("this system does not say when a process began")
        assert started >= lock._started(os.getpid())
        write(folder, pid=other.pid, started=started)
        with pytest.raises(lock.LockedError, match="in use"), lock.held(folder):
            pass
        write(folder, pid=other.pid, started=started - 1)  # the one that had the number
        with lock.held(folder):
            pass
        other.communicate(b"\n")


def test_another_machine_is_believed_while_it_sees_to_its_lock(folder, monkeypatch):
    """Whatever its clock says."""
    monkeypatch.setattr(lock, "STALE_SECONDS", 1.0)
    write(folder, host="elsewhere", seen=time.time() + 1e6)  # nobody sees to it
    with lock.held(folder):
        pass
    long_ago, ended = time.time() - 1e6, threading.Event()

    def see_to_it():
        for beat in range(1000):
            if ended.wait(0.1):
                return
            write(folder, host="elsewhere", since=long_ago, seen=long_ago + beat)

    write(folder, host="elsewhere", since=long_ago, seen=long_ago)
    owner = threading.Thread(target=see_to_it)
    owner.start()
    try:
        with pytest.raises(lock.LockedError, match="on elsewhere"), lock.held(folder):
            pass
    finally:
        ended.set()
        owner.join()


def test_a_lock_that_is_gone_is_written_again_and_a_new_owner_is_left_alone(
    folder, monkeypatch
):
    monkeypatch.setattr(lock, "SEEN_SECONDS", 0.02)
    path = folder / "lock-000.json"
    with lock.held(folder) as ours:
        path.unlink()
        deadline = time.monotonic() + 20
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert ours.is_ours()
        while ours.is_ours():  # it may have been about to write in that very moment
            assert time.monotonic() < deadline
            write(folder, host="elsewhere")
            time.sleep(0.1)
        time.sleep(0.2)
        assert not ours.is_ours()
    assert json.loads(path.read_text())["host"] == "elsewhere"


def test_a_folder_that_was_made_for_the_lock_alone_goes_with_it(folder):
    with lock.held(folder / "new"):
        assert (folder / "new").is_dir()
    assert not (folder / "new").exists()
    with lock.held(folder / "new"):
        (folder / "new" / "file").write_text("kept")
    assert (folder / "new" / "file").exists()
    with lock.held(folder / "new"):
        pass
    assert (folder / "new").exists()


@pytest.mark.parametrize("content", ["", "{", "5", "[]", '{"pid": "x"}', "[" * 9999])
def test_a_damaged_lock_keeps_nobody_out(folder, content):
    (folder / "lock-000.json").write_text(content)
    with lock.held(folder):
        pass
    assert not (folder / "lock-000.json").exists()


def test_the_owner_sees_to_its_lock(folder):
    with mock.patch.object(lock, "SEEN_SECONDS", 0.02), lock.held(folder):
        path = folder / "lock-000.json"
        first = json.loads(path.read_text())["seen"]
        deadline = time.monotonic() + 20
        while json.loads(path.read_text())["seen"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_an_error_gives_the_folder_free(folder):
    with pytest.raises(KeyboardInterrupt), lock.held(folder):
        raise KeyboardInterrupt
    assert not (folder / "lock-000.json").exists()


def test_processes_of_one_run_hold_locks_of_their_own(folder):
    with lock.held(folder), mock.patch("jax.process_index", return_value=1):
        with lock.held(folder):
            assert len(list(folder.glob("lock-*.json"))) == 2
