"""What every measurement here returns in the end: named columns, intervals, a CSV.

An estimate is three columns: `robust`, `robust_low`, `robust_high`, the ends being those
of a 95% interval. Intervals are over images, which are what was sampled.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from etils import epath

from jaxpure.evaluation.statistics import Estimate, wilson
from jaxpure.files import write_atomically

__all__ = ["Estimate", "Result", "bootstrap", "require_finite", "shares", "summarise"]

RESAMPLES = 2000
LOW, HIGH = "_low", "_high"


@dataclass(frozen=True, eq=False)
class Result:
    """Named columns of equal length, as a figure draws them and a CSV holds them.

    Attributes:
      name: what was measured, also the file's name.
      about: the definition, to be printed beside the figure; with it, the source.
      columns: column by name, each `(rows,)`. Estimates have their ends beside them.
      notes: further numbers by name: how many images, keys, directions.
    """

    name: str
    about: str
    columns: Mapping[str, np.ndarray]
    notes: Mapping[str, float | int | str] = field(default_factory=dict)

    def __post_init__(self):
        lengths = {name: np.shape(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1 or any(len(s) != 1 for s in lengths.values()):
            raise ValueError(
                f"{self.name}: columns {lengths}, expected (rows,) of one length"
            )

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, column: str) -> np.ndarray:
        if column not in self.columns:
            raise ValueError(
                f"{self.name} has no column {column!r}; it has {', '.join(self.columns)}"
            )
        return np.asarray(self.columns[column])

    def interval(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of a column's 95% interval, each `(rows,)`."""
        return self[column + LOW], self[column + HIGH]

    def estimate(self, column: str, row: int = 0) -> Estimate:
        """One cell with its interval; `n` from the notes, else 0."""
        low, high = self.interval(column)
        n = int(self.notes.get("images", 0))
        return Estimate(float(self[column][row]), float(low[row]), float(high[row]), n)

    def csv(self) -> str:
        """The columns as CSV, in full precision; definition and notes as comments above."""
        text = io.StringIO()
        for name, value in {"about": self.about, **self.notes}.items():
            text.write(f"# {name}: {' '.join(str(value).split())}\n")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        columns = [np.asarray(column).tolist() for column in self.columns.values()]
        writer.writerows(zip(*columns, strict=True))
        return text.getvalue()

    def write(self, path: epath.PathLike) -> None:
        """Writes the CSV, whole or not at all."""
        write_atomically(path, self.csv().encode())


def require_finite(
    what: str, values: np.ndarray, indices: Sequence[int] | np.ndarray | None = None
) -> np.ndarray:
    """`values` `(n, ...)` as float64, if every number of every example is finite.

    Args:
      what: what the numbers are, for the message.
      values: one row an example.
      indices: `(n,)` the examples' indices in the data set; 0 to n - 1 where left out.

    Raises:
      ValueError: names the examples whose row is not finite.
    """
    values = np.asarray(values, np.float64)
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(1)
    if bad.any():
        names = np.arange(len(values)) if indices is None else np.asarray(indices)
        listed = ", ".join(str(i) for i in names[bad][:10])
        more = f" and {bad.sum() - 10} more" if bad.sum() > 10 else ""
        raise ValueError(
            f"{what} is not finite for example {listed}{more}: find out why (a diverging "
            "chain, an overflow), or leave these examples out and say so"
        )
    return values


def bootstrap(
    values: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over the first axis with percentile bootstrap 95% intervals (Efron 1979).

    A whole row is drawn at a time, so that what was measured on one image stays together.
    Of one row nothing can be said: both ends are NaN.

    Args:
      values: `(n, ...)`.
      resamples: number of bootstrap samples.
      seed: of the resampling.

    Returns:
      mean, low, high: each of shape `values.shape[1:]`.
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    if n == 0:
        raise ValueError("no examples to average over")
    mean = values.mean(0)
    if n == 1:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    weights = resampling_weights(n, resamples, seed) / n
    means = (weights @ values.reshape(n, -1)).reshape(resamples, *values.shape[1:])
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return mean, low, high


def resampling_weights(n: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each of `n` rows is drawn in each bootstrap sample: `(resamples, n)`."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def summarise(
    name: str,
    about: str,
    measured: Mapping[str, np.ndarray],
    *,
    axis: Mapping[str, np.ndarray] | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
    notes: Mapping[str, float | int | str] | None = None,
) -> Result:
    """Means over images, with bootstrap intervals, of what was measured on each.

    Args:
      name: of the result.
      about: its definition and source.
      measured: by column, `(n,)` or `(n, rows)`: one row an image.
      axis: columns that describe the rows, each `(rows,)`, such as a step's number.
      indices: `(n,)` the images' indices in the data set, for messages.
      notes: further numbers.

    Raises:
      ValueError: names the examples for which something is not finite.
    """
    columns: dict[str, np.ndarray] = {k: np.asarray(v) for k, v in (axis or {}).items()}
    images = 0
    for column, values in measured.items():
        values = require_finite(f"{name}: {column}", values, indices)
        images = len(values)
        ends = [np.atleast_1d(end) for end in bootstrap(values)]
        columns |= dict(zip((column, column + LOW, column + HIGH), ends, strict=True))
    return Result(name, about, columns, {"images": images, **(notes or {})})


def shares(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wilson's estimates of shares `(n, rows)` in [0, 1]: value, low, high `(rows,)`."""
    estimates = [wilson(column) for column in np.asarray(values, np.float64).T]
    ends = [[getattr(e, end) for e in estimates] for end in ("value", "low", "high")]
    return np.array(ends[0]), np.array(ends[1]), np.array(ends[2])
