"""One writer a folder: a file that says who works there, and that it still does.

The lock of a process that is no longer there is taken over: on this machine that is known,
of another's it is told by whether the lock is still seen to, while one looks on; clocks of
two machines are never compared. It is a courtesy: records have names that cannot collide,
so that even without it no row is lost.
"""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from absl import logging
from etils import epath

from jaxpure.errors import UserError
from jaxpure.evaluation import processes
from jaxpure.files import write_atomically

SEEN_SECONDS = 3.0  # the owner sees to its lock as often
STALE_SECONDS = 20.0  # a lock that nobody sees to for so long is a dead process's


class LockedError(UserError):
    """Another process works in the folder; says which, where and since when."""


class Lock:
    """A lock that is held.

    Attributes:
      path: its file.
      content: what stands there: "pid", "host", "since" and "seen" (seconds since the
        epoch), "of" (processes of the run), "says", the owner's word to the others, and
        "started", which tells it from a later process of the same number.
    """

    def __init__(self, path: epath.Path):
        now = time.time()
        self.path = path
        self.content = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
        self.content |= {"seen": now, "of": processes.ours().count, "says": ""}
        self.content |= {"started": _started(os.getpid())}
        self._writing = threading.Lock()

    def write(self, says: str | None = None) -> None:
        """Writes it again, as seen to at this moment, with another word if one is given."""
        with self._writing:
            self.content["seen"] = time.time()
            if says is not None:
                self.content["says"] = says
            write_atomically(self.path, json.dumps(self.content).encode())

    def is_ours(self) -> bool:
        return _is_of(_read(self.path), self.content)


@contextlib.contextmanager
def held(folder: epath.Path) -> Iterator[Lock]:
    """Holds the lock of a folder, one for each process of a run of several.

    Raises:
      LockedError: a living process holds it.
    """
    path, is_new = path_of(folder, processes.ours().index), not folder.exists()
    found = _read(path)
    if found is not None and _is_alive(path, found):
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["since"]))
        raise LockedError(
            f"{folder} is in use by process {found['pid']} on {found['host']} since "
            f"{since}; wait for it, stop it, or choose another folder (if it is gone for "
            f"certain, remove {path})"
        )
    if found is not None:
        logging.warning(
            "%s: taking over the lock of process %s on %s, which is gone",
            folder,
            found["pid"],
            found["host"],
        )
    ours = Lock(path)
    ours.write()
    if not ours.is_ours():
        raise LockedError(f"{folder}: another process has just begun to work there")
    ended = threading.Event()
    seeing = threading.Thread(target=_see_to, args=(ours, ended), daemon=True)
    seeing.start()
    try:
        yield ours
    finally:
        ended.set()
        seeing.join(STALE_SECONDS)  # it may be writing at this moment
        if ours.is_ours():
            path.unlink(missing_ok=True)
        if is_new and "://" not in os.fspath(folder):
            with contextlib.suppress(OSError):  # something was written there
                os.rmdir(folder)


def path_of(folder: epath.Path, index: int) -> epath.Path:
    """The lock of process `index` of a run."""
    return folder / f"lock-{index:03d}.json"


def read(folder: epath.Path, index: int) -> dict[str, Any] | None:
    """What the lock of process `index` holds; None if there is none that can be read."""
    return _read(path_of(folder, index))


def _see_to(ours: Lock, ended: threading.Event) -> None:
    """Says now and then that the owner is alive, until it has ended."""
    while not ended.wait(SEEN_SECONDS):
        found = _read(ours.path)
        if found is not None and not _is_of(found, ours.content):
            return  # another's by now
        with contextlib.suppress(Exception):  # a full disk, a bucket out of reach: again
            ours.write()


def _read(path: epath.Path) -> dict[str, Any] | None:
    """Whose the lock is; None where there is none that can be read."""
    try:
        found = json.loads(path.read_text())
        since = float(found["since"])
        owner = {"pid": int(found["pid"]), "host": str(found["host"]), "since": since}
        owner |= {"of": int(found.get("of", 1)), "says": str(found.get("says", ""))}
        owner |= {"seen": float(found.get("seen", since))}
        return owner | {"started": found.get("started")}
    except Exception:  # no file, no JSON, or an error of a bucket's driver's own
        return None


def _is_of(lock: dict[str, Any] | None, owner: dict[str, Any]) -> bool:
    names = ("pid", "host", "since")
    return lock is not None and all(lock[name] == owner[name] for name in names)


def _is_alive(path: epath.Path, lock: dict[str, Any]) -> bool:
    if lock["host"] != socket.gethostname():
        return _is_seen_to(path, lock)
    if lock["pid"] == os.getpid() or lock["pid"] <= 0:
        return False  # of an earlier call in this very process, or of none
    try:
        os.kill(lock["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    started = _started(lock["pid"])
    return started is None or lock["started"] in (None, started)


def _started(pid: int) -> int | None:
    """When a process of this machine began, in ticks since boot; None where unknown."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[19])  # its name may hold anything
    except (OSError, ValueError, IndexError):
        return None


def _is_seen_to(path: epath.Path, lock: dict[str, Any]) -> bool:
    """Looks on for as long as a living owner never stays away."""
    deadline = time.monotonic() + STALE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(1.0, STALE_SECONDS / 10))
        found = _read(path)
        if found is not None and found != lock:
            return True
    return False
