"""Records on disk: a folder of small JSON-lines files, each written once.

A row is a flat dict with an `index` (the example's, in the published set). Every
`append` makes a new file, atomically, which a local disk and a bucket can both do. A
file that was cut short all the same loses only its last, broken line.
"""

import base64
import json
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from jaxpure.files import write_atomically

Row = dict[str, Any]


def append(folder: epath.Path, rows: list[Row]) -> None:
    """Adds rows, all of them or none."""
    if not rows:
        return
    ours = f"part-{jax.process_index():03d}-"
    taken = [p.name for p in folder.glob(f"{ours}*.jsonl")] if folder.exists() else []
    number = max((int(name[len(ours) : -6]) for name in taken), default=-1) + 1
    lines = [json.dumps({k: _encode(v) for k, v in row.items()}) for row in rows]
    content = "".join(line + "\n" for line in lines).encode()
    write_atomically(folder / f"{ours}{number:06d}.jsonl", content)


def read(folder: epath.Path) -> dict[int, Row]:
    """All whole rows by index; broken lines are reported and left out."""
    rows = {}
    if not folder.exists():
        return rows
    for path in sorted(folder.glob("part-*.jsonl")):
        for number, line in enumerate(path.read_text().split("\n")):
            if not line:
                continue
            try:
                values = {k: _decode(v) for k, v in json.loads(line).items()}
                rows[values["index"]] = values
            except (ValueError, KeyError, TypeError):
                logging.warning(
                    "%s is cut short at line %d; that example is done again",
                    path,
                    number + 1,
                )
    return rows


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
