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
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from jaxpure.errors import UserError
from jaxpure.evaluation import processes
from jaxpure.evaluation.identity import Identity, differences, digest_of
from jaxpure.files import storage_errors, write_atomically

Row = dict[str, Any]

IDENTITY = "identity.json"
DEPTHS = ("*", "stages/*/*")  # where an evaluation's folder has part files
STAMPS = ("belongs", "example", "digest")


class RecordError(UserError):
    """A record was altered, or belongs to another evaluation; says where and what to do."""


def append(folder: epath.Path, rows: list[Row], identity: Identity) -> None:
    """Adds rows, all of them or none."""
    if not rows:
        return
    ours = f"part-{processes.ours().index:03d}-"
    with storage_errors(folder):
        taken = [_number(p.name) for p in _parts(folder) if p.name.startswith(ours)]
    lines = [_line(row, identity) for row in rows]
    name = f"{ours}{max(taken, default=-1) + 1:06d}-{secrets.token_hex(4)}.jsonl"
    write_atomically(folder / name, "".join(line + "\n" for line in lines).encode())


def claim(folder: epath.Path, identity: Identity, about: dict[str, Any]) -> None:
    """Writes down what the records of an evaluation's folder belong to.

    Args:
      folder: of the evaluation.
      identity: of the evaluation.
      about: what a verifier needs to know of it (`identity.describe`).

    Raises:
      RecordError: the folder holds another evaluation, or one of other images or labels
        under the same indices; says in what they differ.
    """
    path, parts = folder / IDENTITY, dict(identity.parts)
    if path.exists():
        theirs = read_identity(folder)["parts"]
        if theirs != parts:
            what = ", ".join(differences(parts, theirs))
            raise RecordError(
                f"{folder} holds another evaluation (they differ in {what}); choose "
                "another folder"
            )
    elif any(p for depth in DEPTHS for p in folder.glob(f"{depth}/part-*.jsonl")):
        raise RecordError(
            f"{folder} holds records and no {IDENTITY} to tell whose they are; choose "
            "another folder"
        )
    else:
        _write_json(path, {"parts": parts, "about": about})
    examples = {str(index): digest for index, digest in identity.examples.items()}
    for theirs in map(_read_json, sorted(folder.glob("examples-*.json"))):
        _check_examples(folder, examples, theirs)
    ours = folder / f"examples-{processes.ours().index:03d}.json"
    if _read_json(ours) != examples:
        _write_json(ours, examples)


def read_identity(folder: epath.Path) -> dict[str, dict[str, Any]]:
    """What the records of an evaluation's folder belong to: "parts" and "about".

    Raises:
      RecordError: the file is missing or damaged.
    """
    path = folder / IDENTITY
    found = _read_json(path)
    if not isinstance(found, dict) or not all(
        isinstance(found.get(name), dict) for name in ("parts", "about")
    ):
        raise RecordError(
            f"{path} is missing or damaged; without it nobody knows what the records "
            "belong to: restore it, or choose another folder"
        )
    return found


def read_examples(folder: epath.Path) -> dict[int, str]:
    """The digest of each example that an evaluation is about, of all its processes."""
    found: dict[int, str] = {}
    for path in sorted(folder.glob("examples-*.json")):
        content = _read_json(path)
        if not isinstance(content, dict):
            raise RecordError(f"{path} is damaged; start the evaluation again to mend it")
        found |= {int(index): str(digest) for index, digest in content.items()}
    return found


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
    for where, row in scan(folder):
        if row is None:
            logging.warning("%s is damaged; what it recorded is done again", where)
            continue
        check(row, where, identity)
        rows.setdefault(row["index"], without_stamps(row))
    return rows


def scan(folder: epath.Path) -> Iterator[tuple[str, Row | None]]:
    """Every line of the part files: where it is, and its row with stamps or None."""
    for path in _parts(folder):
        with storage_errors(path):
            lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            if line:
                yield f"{path}, line {number}", _parse(line)


def is_whole(row: Row) -> bool:
    """Whether a row is what it was when it was made."""
    return _digest({k: v for k, v in row.items() if k != "digest"}) == row["digest"]


def without_stamps(row: Row) -> Row:
    """A row as it was given to `append`."""
    return {name: value for name, value in row.items() if name not in STAMPS}


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


def _parse(line: bytes) -> Row | None:
    """A row with its stamps, or None for a line that is none."""
    try:
        row = {k: _decode(v) for k, v in json.loads(line).items()}
        if type(row["index"]) is int and isinstance(row["digest"], str):
            return row
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return None


def _read_json(path: epath.Path) -> Any:
    """What a JSON file holds; None where there is none that can be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _write_json(path: epath.Path, content: Any) -> None:
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def _check_examples(folder: epath.Path, ours: dict[str, str], theirs: Any) -> None:
    """Raises RecordError for examples that changed since the evaluation began."""
    known = theirs if isinstance(theirs, dict) else {}  # what is damaged is written anew
    changed = [index for index in ours if known.get(index, ours[index]) != ours[index]]
    if changed:
        raise RecordError(
            f"{folder} holds an evaluation of other data: example {changed[0]} "
            f"({len(changed)} in all) is not what it was when the evaluation began; "
            "restore the data set, or choose another folder"
        )


def check(row: Row, where: str, identity: Identity | None) -> None:
    """Raises RecordError for a row, with its stamps, that is not what it was made as."""
    if not is_whole(row):
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
