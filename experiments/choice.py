"""Which of a config's examples a run is about: `--indices=3,17,40-49` and `--limit=20`.

Both change the config's `data`, so that a run's folder, its records' table and its report
say which examples they are about, and a folder of other examples is refused.
"""

import dataclasses
import re
from typing import Any

from experiments import config as configs
from experiments import things
from experiments.arguments import ArgumentError, Flag
from jaxpure import data, specs
from jaxpure.data.dataset import MAX_INDEX

MOST = 1_000_000  # examples in a command line; all of a larger set needs no list
PIECE = re.compile(r"\s*(?P<first>[0-9]{1,18})\s*(-\s*(?P<last>[0-9]{1,18})\s*)?")

FLAGS = (
    Flag("limit", "only the first so many of the config's examples", int, least=1),
    Flag("indices", "these examples of the data set instead, as in 3,17,40-49"),
)


def chosen(
    config: configs.RunConfig, limit: int | None, indices: str | None
) -> configs.RunConfig:
    """The config with fewer or other examples; the limit is of those that are chosen.

    Args:
      config: of the run.
      limit: the first so many; None means all.
      indices: text as `read_indices` takes it; None means those of the config.

    Raises:
      ArgumentError: the text cannot be read, or there are fewer examples than the limit.
      DataError: an index is given twice.
    """
    if indices is not None:
        config = _with(config, "indices", read_indices(indices))
    if limit is None:
        return config
    source: Any = data.parse(config.data)
    if source.indices is not None:
        _check_limit(limit, len(source.indices), "chosen by indices")
        return _with(config, "indices", source.indices[:limit])
    if source.num_examples is not None:
        _check_limit(limit, source.num_examples, f"config.data={config.data}")
    return _with(config, "num_examples", limit)


def read_indices(text: str) -> tuple[int, ...]:
    """The published indices in a list of numbers and ranges, both ends included.

    Raises:
      ArgumentError: a piece is no number and no range, or they are too many.
    """
    found: list[int] = []
    for piece in text.split(","):
        match = PIECE.fullmatch(piece)
        shown = f"--indices={text}" if len(text) < 80 else "--indices"
        if match is None:
            raise ArgumentError(
                f"{shown}: {piece.strip()!r} is no index and no range; expected whole "
                "numbers and ranges, as in 3,17,40-49"
            )
        low, high = int(match["first"]), int(match["last"] or match["first"])
        if high < low or high >= MAX_INDEX:
            raise ArgumentError(
                f"{shown}: {piece.strip()}, expected indices of 0 to {MAX_INDEX - 1}, a "
                "range's smaller one first"
            )
        if len(found) + high - low >= MOST:
            raise ArgumentError(
                f"{shown}: more than {MOST} examples; the whole of a set needs no indices"
            )
        found += range(low, high + 1)
    return tuple(found)


def _check_limit(limit: int, count: int, which: str) -> None:
    if limit > count:
        raise ArgumentError(
            f"--limit={limit}, expected at most {count}: there are {count} examples "
            f"({which})"
        )


def _with(config: configs.RunConfig, name: str, value: Any) -> configs.RunConfig:
    """The config with one of the two options by which a source chooses its examples."""
    text = things.set_option("data", config.data, [name], specs.write(value))
    spec, (other,) = specs.parse(text), {"num_examples", "indices"} - {name}
    options = {n: v for n, v in spec.options.items() if n != other}
    changed = str(spec._replace(options=options))
    data.parse(changed)
    return dataclasses.replace(config, data=changed)
