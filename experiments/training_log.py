"""What a training run writes down: losses, speed, and measurements on the test split."""

import csv
import io
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from jaxpure.files import write_atomically


class TrainingLog:
    """Losses of a run in `loss.jsonl`, measurements in `validation.csv`.

    A resumed run drops the lines of steps that it takes again, and those that are damaged.
    """

    def __init__(self, workdir: epath.Path, batch_size: int):
        self._losses = workdir / "loss.jsonl"
        self._table = workdir / "validation.csv"
        self._batch_size = batch_size
        self._recent: list[jax.Array] = []
        self._since = self._saved = time.monotonic()

    def add(self, loss: jax.Array) -> None:
        """Takes note of an update's loss, without waiting for it."""
        self._recent.append(loss)

    def write(self, step: int) -> tuple[float, float]:
        """Adds a line for the losses since the last; returns their mean and images/s."""
        mean = float(jnp.mean(jnp.stack(self._recent)))
        now = time.monotonic()
        speed = len(self._recent) * self._batch_size / (now - self._since)
        self._since, self._recent = now, []
        kept = [line for line in _lines(self._losses) if _is_before(line, step)]
        kept.append(json.dumps({"step": step, "loss": round(mean, 6)}))
        write_atomically(self._losses, ("\n".join(kept) + "\n").encode())
        return mean, speed

    def validation(self, step: int, row: dict[str, float]) -> None:
        """Adds a row, with a header where it is the first."""
        started = time.monotonic()
        names = ["step", "images", *row]
        found = csv.DictReader(_lines(self._table))
        whole = [old for old in found if list(old) == names and None not in old.values()]
        rows = [old for old in whole if _number(old["step"]) < step]
        images = step * self._batch_size
        rows.append(
            {"step": step, "images": images} | {k: f"{v:.6f}" for k, v in row.items()}
        )
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self._table, text.getvalue().encode())
        self._since += time.monotonic() - started

    def seconds_since_saved(self) -> float:
        return time.monotonic() - self._saved

    def saved(self) -> None:
        self._saved = time.monotonic()


def _lines(path: epath.Path) -> list[str]:
    """Lines of a file that may be damaged; a log is worth no training."""
    if not path.is_file():
        return []
    return path.read_bytes().decode(errors="replace").replace("\0", "").splitlines()


def _is_before(line: str, step: int) -> bool:
    """Whether a line of the losses is whole, and of an earlier step."""
    try:
        return int(json.loads(line)["step"]) < step
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return False


def _number(text: Any) -> float:
    """A step of the table; infinity for a text that is none."""
    return int(text) if str(text).isdecimal() else float("inf")
