"""Files that appear whole or not at all, and their digests.

Paths may lie on a local disk or in a bucket (`gs://...`), through etils.epath. What a disk
or a bucket refuses is a `StorageError`: one sentence with the path and the way out.
"""

import contextlib
import errno
import hashlib
import importlib
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any

from etils import epath

from jaxpure.errors import UserError

# What to do, by what the system says.
WAYS_OUT = {
    errno.ENOSPC: "make room there, or choose another place; the same command goes on",
    errno.EDQUOT: "make room in your quota, or choose another place",
    errno.EFBIG: "its size is limited there: raise the limit, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.EACCES: "choose a place that you may write to, or have its permissions changed",
    errno.EPERM: "choose a place that you may write to, or have its permissions changed",
    errno.ENOTDIR: "a file is where a folder should be: remove it, or choose another place",
    errno.EEXIST: "a file is where a folder should be: remove it, or choose another place",
    errno.EISDIR: "a folder is where a file should be: remove it, or choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
}


class StorageError(UserError):
    """A disk or a bucket refuses; names the path and says what to do."""


@contextlib.contextmanager
def storage_errors(path: epath.PathLike) -> Iterator[None]:
    """Turns what the system says of `path` into a StorageError."""
    try:
        yield
    except OSError as error:
        way_out = WAYS_OUT.get(error.errno or 0, "choose another place")
        said = error.strerror or str(error) or type(error).__name__
        raise StorageError(f"{path}: {said}; {way_out}") from error
    except ImportError as error:  # of a bucket's driver, which fsspec loads when it is used
        raise StorageError(
            f"{path}: the driver for this kind of place is not installed ({error})"
        ) from error
    except KeyError as error:
        if "://" not in str(error):
            raise
        raise StorageError(
            f"{path}: there is no kind of place that begins with {error.args[0]}; give a "
            "local path, or one of gs:// or s3://"
        ) from error
    except ValueError as error:
        if "null byte" not in str(error):
            raise
        raise StorageError(f"{str(path)!r} is no path ({error})") from error


@contextlib.contextmanager
def appears_whole(path: epath.PathLike) -> Iterator[Any]:
    """A file to write to, which takes its name once all is written, and else is removed.

    Raises:
      StorageError: it cannot be written there.
    """
    with storage_errors(path):
        path = epath.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own, so that two writers of one file do not meet in a third.
        temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
        try:
            with temporary.open("wb") as file:
                yield file
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink(missing_ok=True)
            raise


def write_atomically(path: epath.PathLike, content: bytes) -> None:
    """Writes a file that no reader can see half-written.

    Raises:
      StorageError: it cannot be written there.
    """
    with appears_whole(path) as file:
        file.write(content)


def clear_unfinished(folder: epath.PathLike, *, but: str | None = None) -> None:
    """Removes what writers left that were killed in the middle of a file.

    Nobody else may be writing there. A bucket's files appear whole: there is nothing.

    Args:
      folder: with all that is in it.
      but: files whose name begins so are left alone.
    """
    place = pathlib.Path(os.fspath(folder))
    if place.is_dir():
        for path in place.rglob(".*.part"):
            if but is None or not path.name.startswith(f".{but}"):
                path.unlink(missing_ok=True)


def forget_listings(path: epath.PathLike) -> None:
    """Makes the next look at a bucket's folders a fresh one.

    The drivers of buckets (fsspec's) keep what they have listed, and so do not see the
    files that other processes have written since.
    """
    if "://" in os.fspath(path):
        with contextlib.suppress(ImportError):  # etils has another driver, which keeps none
            backend = importlib.import_module("etils.epath.backend").fsspec_backend
            backend.fs(path).invalidate_cache()


def sha256(path: epath.PathLike) -> str:
    """The SHA-256 of a file's content, as hexadecimal digits."""
    digest = hashlib.sha256()
    with epath.Path(path).open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
