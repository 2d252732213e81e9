"""One writer a folder: a file that says who works there.

The lock of a process that is no longer there is taken over. It is a courtesy: records have
names that cannot collide, so that even without it no row is lost.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging
from etils import epath

from jaxpure.errors import UserError
from jaxpure.files import write_atomically

STALE_SECONDS = 3600.0  # a lock of another machine that is older says nothing


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
    ours = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
    write_atomically(path, json.dumps(ours).encode())
    if _read(path) != ours:
        raise LockedError(f"{folder}: another process has just begun to work there")
    try:
        yield
    finally:
        if _read(path) == ours:
            path.unlink(missing_ok=True)


def _read(path: epath.Path) -> dict[str, Any] | None:
    """Whose the lock is; None where there is none that can be read."""
    try:
        found = json.loads(path.read_text())
        return {"pid": int(found["pid"]), "host": str(found["host"])} | {
            "since": float(found["since"])
        }
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _is_alive(lock: dict[str, Any]) -> bool:
    if lock["host"] != socket.gethostname():
        return time.time() - lock["since"] < STALE_SECONDS
    if lock["pid"] == os.getpid():
        return False  # of an earlier call in this very process
    try:
        os.kill(lock["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
