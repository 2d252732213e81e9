"""A finished evaluation read from its folder alone, without weights and data.

The records hold the examples, and `identity.json` the protocol, so that what was made on
one machine can be read, verified and judged again on another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from jaxpure.data import Dataset
from jaxpure.evaluation import records, settle
from jaxpure.evaluation.identity import Identity
from jaxpure.evaluation.result import Result, check_images

Rows = dict[int, list[records.Row]]
"""All rows by index, in the order in which they were made, with their stamps."""


@dataclass(frozen=True)
class Stored:
    """What an evaluation's folder holds.

    Attributes:
      place: the folder.
      identity: what its records belong to, with the digests of its examples.
      about: the protocol (`identity.describe`).
      rows: of "clean", "NAME attacked" and "NAME judged", in the order of the protocol.
      damaged: lines that could not be read.
    """

    place: epath.Path
    identity: Identity
    about: Mapping[str, Any]
    rows: Mapping[str, Rows]
    damaged: tuple[str, ...]

    @property
    def stages(self) -> list[str]:
        return list(self.about["stages"])

    @property
    def budgets(self) -> dict[str, dict[str, int]]:
        """Of each stage: "calls", "gradient_draws", "forward_draws"."""
        return dict(zip(self.stages, self.about["budgets"], strict=True))

    @property
    def dataset(self) -> Dataset:
        """The examples, in the order of their indices.

        Raises:
          UnfinishedError: an example has no clean row.
        """
        clean = _first(self.rows["clean"])
        indices = sorted(self.identity.examples)
        for index in indices:
            if index not in clean:
                raise settle.unfinished(index, "clean", self.place)
        images = np.stack([clean[i]["image"] for i in indices])
        labels = np.array([clean[i]["label"] for i in indices], np.int32)
        classes = clean[indices[0]]["logits"].shape[-1]
        return Dataset(
            self.identity.parts["data"],
            images,
            labels,
            np.array(indices, np.int64),
            classes,
        )

    @property
    def result(self) -> Result:
        """The outcome, examples in the order of their indices.

        Raises:
          UnfinishedError: a record is missing.
          RecordError: one was altered, or is not of this evaluation.
          AttackError: an image is not where the attack may take it.
        """
        for kind, rows in self.rows.items():
            for found in rows.values():
                records.check(found[0], f"{self.place}, {kind}", self.identity)
        stages = [
            (
                name,
                _first(self.rows[f"{name} attacked"]),
                _first(self.rows[f"{name} judged"]),
            )
            for name in self.stages
        ]
        about = dict(self.about) | {
            "data": self.identity.parts["data"],
            "hash": self.identity.evaluation_hash,
            "parts": dict(self.identity.parts),
        }
        clean = _first(self.rows["clean"])
        found = settle.join(self.dataset, clean, stages, about, self.place)
        check_images(found)
        return found


def open_folder(folder: epath.PathLike) -> Stored:
    """Reads an evaluation's folder.

    Raises:
      RecordError: it holds no evaluation, or one whose identity is damaged.
    """
    place = epath.Path(folder)
    found = records.read_identity(place)
    parts = {str(name): str(value) for name, value in found["parts"].items()}
    identity = Identity(parts, records.read_examples(place))
    about, rows, damaged = found["about"], {}, []
    folders = {"clean": place / "clean"}
    for number, name in enumerate(about["stages"]):
        stage = settle.stage_folder(place, number, name)
        folders |= {f"{name} {what}": stage / what for what in ("attacked", "judged")}
    for kind, where in folders.items():
        rows[kind] = {}
        for line, row in records.scan(where):
            if row is None:
                damaged.append(line)
            else:
                rows[kind].setdefault(row["index"], []).append(row)
    return Stored(place, identity, about, rows, tuple(damaged))


def _first(rows: Rows) -> dict[int, records.Row]:
    return {index: records.without_stamps(found[0]) for index, found in rows.items()}
