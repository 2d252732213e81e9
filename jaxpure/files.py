"""Files that appear whole or not at all, and their digests.

Paths may lie on a local disk or in a bucket (`gs://...`), through etils.epath.
"""

import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from typing import Any

from etils import epath


@contextlib.contextmanager
def appears_whole(path: epath.PathLike) -> Iterator[Any]:
    """A file to write to, which takes its name once all is written, and else is removed."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, so that two writers of one file do not meet in a third.
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: epath.PathLike, content: bytes) -> None:
    """Writes a file that no reader can see half-written."""
    with appears_whole(path) as file:
        file.write(content)


def sha256(path: epath.PathLike) -> str:
    """The SHA-256 of a file's content, as hexadecimal digits."""
    digest = hashlib.sha256()
    with epath.Path(path).open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
