"""Records on disk: a folder of small JSON-lines files, each written once.

A row is a flat dict with an `index` (the example's, in the published set). Every `append`
makes a new file under a name that no other writer takes, atomically, which a local disk and
a bucket can both do. Every row carries the digest of the evaluation that it belongs to, of
its example, and of itself: what is cut short is done again, and what was altered, or is
another evaluation's, is refused.
"""

import base64
import json
import secrets
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from jaxpure.errors import UserError
from jaxpure.evaluation.identity import Identity, differences, digest_of
from jaxpure.files import write_atomically

Row = dict[str, Any]

IDENTITY = "identity.json"
STAMPS = ("belongs", "example", "digest")


class RecordError(UserError):
    """A record was altered, or belongs to another evaluation; says where and what to do."""


def append(folder: epath.Path, rows: list[Row], identity: Identity) -> None:
    """Adds rows, all of them or none."""
    if not rows:
        return
    ours = f"part-{jax.process_index():03d}-"
    taken = [_number(p.name) for p in _parts(folder) if p.name.startswith(ours)]
    lines = [_line(row, identity) for row in rows]
    name = f"{ours}{max(taken, default=-1) + 1:06d}-{secrets.token_hex(4)}.jsonl"
    write_atomically(folder / name, "".join(line + "\n" for line in lines).encode())


def claim(folder: epath.Path, identity: Identity) -> None:
    """Writes down what the records of an evaluation's folder belong to.

    Raises:
      RecordError: the folder holds another evaluation; says in what they differ.
    """
    path = folder / IDENTITY
    if not path.exists():
        if any(p.suffix == ".jsonl" for p in folder.glob("*/*")):
            raise RecordError(
                f"{folder} holds records and no {IDENTITY} to tell whose they are; choose "
                "another folder"
            )
        write_atomically(path, (json.dumps(dict(identity.parts), indent=2) + "\n").encode())
        return
    theirs = read_identity(folder)
    if theirs != dict(identity.parts):
        what = ", ".join(differences(identity.parts, theirs))
        raise RecordError(
            f"{folder} holds another evaluation (they differ in {what}); choose another "
            "folder"
        )


def read_identity(folder: epath.Path) -> dict[str, str]:
    """What the records of an evaluation's folder belong to.

    Raises:
      RecordError: the file is missing or damaged.
    """
    path = folder / IDENTITY
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{path} cannot be read ({type(error).__name__}: {error}); without it nobody "
            "knows what the records belong to: choose another folder"
        ) from error
    return {str(name): str(value) for name, value in found.items()}


def read(folder: epath.Path, identity: Identity | None = None) -> dict[int, Row]:
    """All whole rows by index; lines that are cut short are reported and left out.

    Args:
      folder: of the part files.
      identity: whose rows they must be; without it they are only checked in themselves.

    Raises:
      RecordError: a row was altered, is another evaluation's, or is about an example that
        the data set no longer has as it was.
    """
    rows: dict[int, Row] = {}
    for path in _parts(folder):
        for number, line in enumerate(_lines(path), 1):
            row = _parse(line, path, number)
            if row is None:
                continue
            _check(row, f"{path}, line {number}", identity)
            rows.setdefault(row["index"], {k: v for k, v in row.items() if k not in STAMPS})
    return rows


def _parts(folder: epath.Path) -> list[epath.Path]:
    """The part files, in the order in which they were made; other files are ignored."""
    if not folder.exists():
        return []
    found = [p for p in folder.glob("part-*.jsonl") if _number(p.name) >= 0]
    return sorted(p for p in found if not p.is_dir())


def _number(name: str) -> int:
    """The number in a part file's name; -1 for a name that is none."""
    pieces = name.removesuffix(".jsonl").split("-")
    return int(pieces[2]) if len(pieces) == 4 and pieces[2].isdecimal() else -1


def _lines(path: epath.Path) -> list[str]:
    try:
        content = path.read_bytes().decode()
    except UnicodeDecodeError:
        _warn(path, 1)
        return []
    return [line for line in content.split("\n") if line]


def _parse(line: str, path: epath.Path, number: int) -> Row | None:
    """A row, or None for a line that is none, which is reported and done again."""
    try:
        row = {k: _decode(v) for k, v in json.loads(line).items()}
        if isinstance(row["index"], int) and "digest" in row:
            return row
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    _warn(path, number)
    return None


def _warn(path: epath.Path, number: int) -> None:
    logging.warning(
        "%s is damaged at line %d; what it recorded is done again", path, number
    )


def _check(row: Row, where: str, identity: Identity | None) -> None:
    content = {name: value for name, value in row.items() if name != "digest"}
    if _digest(content) != row["digest"]:
        raise RecordError(
            f"{where}: the record of example {row['index']} was altered after it was made "
            "(its digest does not fit); remove that file to do its examples again"
        )
    if identity is None:
        return
    if row.get("belongs") != identity.digest:
        raise RecordError(
            f"{where}: the record of example {row['index']} belongs to another evaluation; "
            "choose another folder, or remove that file"
        )
    example = identity.examples.get(row["index"])
    if example is not None and row.get("example") != example:
        raise RecordError(
            f"{where}: example {row['index']} of the data set is not what it was when its "
            "record was made; restore the data set, or choose another folder"
        )


def _line(row: Row, identity: Identity) -> str:
    stamped = {
        **row,
        "belongs": identity.digest,
        "example": identity.examples[int(row["index"])],
    }
    return json.dumps(
        {k: _encode(v) for k, v in stamped.items()} | {"digest": _digest(stamped)}
    )


def _digest(row: Row) -> str:
    encoded = {name: _encode(value) for name, value in row.items()}
    return digest_of(json.dumps(encoded, sort_keys=True).encode())


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {
            "dtype": value.dtype.name,
            "shape": value.shape,
            "base64": base64.b64encode(value.tobytes()).decode(),
        }
    return value.item() if isinstance(value, np.generic) else value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        flat = np.frombuffer(base64.b64decode(value["base64"]), value["dtype"])
        return flat.reshape(value["shape"])
    return value
