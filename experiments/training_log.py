"""What a training run writes down: losses, speed, and measurements on the test split."""

import contextlib
import csv
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from experiments import throughput
from experiments.events import Events
from jaxpure.files import write_atomically


class TrainingLog:
    """Losses of a run in `loss.jsonl`, measurements in `validation.csv`, its time.

    A resumed run drops the lines of steps that it takes again, and those that are damaged.

    Args:
      workdir: where the files are.
      batch_size: images of an update.
      events: where all is copied to, what is already there included.
      step: the last step that stands.

    Attributes:
      pace: of the run so far.
    """

    def __init__(
        self,
        workdir: epath.Path,
        batch_size: int,
        events: Events | None = None,
        step: int = 0,
    ):
        self.pace = throughput.load(workdir)
        self._workdir = workdir
        self._batch_size = batch_size
        self._events = events
        for at, loss in losses(workdir, step):
            self._copy(at, {"training/loss": loss})
        for row in validations(workdir, step):
            self._copy(row["step"], _tags(row))
        self._recent: list[jax.Array] = []
        self._costs: list[float | None] = []
        self._since = self._saved = time.monotonic()

    def add(self, loss: jax.Array, matmul_seconds: float | None = None) -> None:
        """Takes note of an update's loss, without waiting for it, and of its cost.

        Args:
          loss: `()`.
          matmul_seconds: that matrix products would take for it; None: not known.
        """
        self._recent.append(loss)
        self._costs.append(matmul_seconds)

    def write(self, step: int) -> tuple[float, throughput.Pace]:
        """Adds a line for the losses since the last; returns their mean and their pace."""
        mean = round(float(jnp.mean(jnp.stack(self._recent))), 6)
        now = time.monotonic()
        known = [cost for cost in self._costs if cost is not None]
        cost = sum(known) if len(known) == len(self._costs) else None
        pace = throughput.Pace(len(self._recent), now - self._since, cost)
        self.pace = self.pace.and_then(pace)
        self._since, self._recent, self._costs = now, [], []
        rows = [*losses(self._workdir, step - 1), (step, mean)]
        lines = [json.dumps({"step": at, "loss": loss}) + "\n" for at, loss in rows]
        write_atomically(self._workdir / "loss.jsonl", "".join(lines).encode())
        self._copy(step, {"training/loss": mean})
        return mean, pace

    def validation(self, step: int, row: dict[str, float]) -> None:
        """Adds a row, with a header where it is the first."""
        new = {"step": step, "images": step * self._batch_size, **row}
        before = validations(self._workdir, step - 1)
        rows = [*(old for old in before if list(old) == list(new)), new]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(new)
        for at, images, *values in (row.values() for row in rows):
            writer.writerow([at, images, *(f"{value:.6f}" for value in values)])
        write_atomically(self._workdir / "validation.csv", text.getvalue().encode())
        self._copy(step, _tags(row))

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """For work that is not training: its time does not count."""
        jax.block_until_ready(self._recent)
        started = time.monotonic()
        yield
        self._since += time.monotonic() - started

    def seconds_since_saved(self) -> float:
        return time.monotonic() - self._saved

    def saved(self) -> None:
        """Takes note that the state was saved, and of the time until then."""
        throughput.save(self._workdir, self.pace)
        self._saved = time.monotonic()

    def _copy(self, step: int, values: dict[str, float]) -> None:
        if self._events is not None:
            self._events.add(step, values)


def losses(workdir: epath.Path, last: int) -> list[tuple[int, float]]:
    """The steps and mean losses that a run wrote down, up to a step.

    Damaged lines are left out: a log is worth no training.
    """
    found = []
    for line in _lines(workdir / "loss.jsonl"):
        with contextlib.suppress(
            ValueError, TypeError, KeyError, OverflowError, RecursionError
        ):
            values = json.loads(line)
            found.append((int(values["step"]), float(values["loss"])))
    return [row for row in found if row[0] <= last]


def validations(workdir: epath.Path, last: int) -> list[dict[str, Any]]:
    """The rows of measurements up to a step: "step" and "images", and floats by name."""
    found = []
    for row in csv.DictReader(_lines(workdir / "validation.csv")):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            values = {name: float(text) for name, text in row.items()}
            counted = {name: int(row[name]) for name in ("step", "images")}
            found.append(values | counted)
    return [row for row in found if row["step"] <= last]


def _tags(row: dict[str, float]) -> dict[str, float]:
    """Measurements by the tags of their events."""
    names = [name for name in row if name not in ("step", "images")]
    return {f"test/{name}": row[name] for name in names}


def _lines(path: epath.Path) -> list[str]:
    """Lines of a file that may be damaged."""
    if not path.is_file():
        return []
    return path.read_bytes().decode(errors="replace").replace("\0", "").splitlines()
