"""One writer a folder: a file that says who works there.

The lock of a process that is no longer there is taken over: on this machine that is known,
of another's it is told by the time at which the lock was last seen to. It is a courtesy:
records have names that cannot collide, so that even without it no row is lost.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging
from etils import epath

from jaxpure.errors import UserError
from jaxpure.files import write_atomically

SEEN_SECONDS = 60.0  # the owner sees to its lock as often
STALE_SECONDS = 600.0  # a lock of another machine that was not seen to for so long is dead


class LockedError(UserError):
    """Another process works in the folder; says which, where and since when."""


@contextlib.contextmanager
def held(folder: epath.Path) -> Iterator[None]:
    """Holds the lock of a folder, one for each process of a multi-host run.

    Raises:
      LockedError: a living process holds it.
    """
    path = folder / f"lock-{jax.process_index():03d}.json"
    found = _read(path)
    if found is not None and _is_alive(found):
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
    now = time.time()
    ours = {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "seen": now}
    write_atomically(path, json.dumps(ours).encode())
    if not _is_of(_read(path), ours):
        raise LockedError(f"{folder}: another process has just begun to work there")
    ended = threading.Event()
    threading.Thread(target=_see_to, args=(path, ours, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        if _is_of(_read(path), ours):
            path.unlink(missing_ok=True)


def _see_to(path: epath.Path, ours: dict[str, Any], ended: threading.Event) -> None:
    """Says now and then that the owner is alive, until it has ended."""
    while not ended.wait(SEEN_SECONDS):
        if not _is_of(_read(path), ours):
            return
        with contextlib.suppress(UserError):  # a full disk: the next time may succeed
            write_atomically(path, json.dumps({**ours, "seen": time.time()}).encode())


def _read(path: epath.Path) -> dict[str, Any] | None:
    """Whose the lock is; None where there is none that can be read."""
    try:
        found = json.loads(path.read_text())
        since = float(found["since"])
        owner = {"pid": int(found["pid"]), "host": str(found["host"]), "since": since}
        return owner | {"seen": float(found.get("seen", since))}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _is_of(lock: dict[str, Any] | None, owner: dict[str, Any]) -> bool:
    names = ("pid", "host", "since")
    return lock is not None and all(lock[name] == owner[name] for name in names)


def _is_alive(lock: dict[str, Any]) -> bool:
    if lock["host"] != socket.gethostname():
        return time.time() - lock["seen"] < STALE_SECONDS
    if lock["pid"] == os.getpid() or lock["pid"] <= 0:
        return False  # of an earlier call in this very process, or of none
    try:
        os.kill(lock["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
