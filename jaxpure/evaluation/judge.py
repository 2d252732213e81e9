"""The judge: the plain defense on images, under their judging keys, written down."""

from collections.abc import Iterable

import numpy as np
from etils import epath

from jaxpure.evaluation import lanes, records, statistics
from jaxpure.evaluation.identity import Identity
from jaxpure.evaluation.setup import Setup


class Judge:
    """Judges images under the judging keys and writes down what it saw."""

    def __init__(
        self,
        setup: Setup,
        where: lanes.Lanes,
        examples: lanes.Examples,
        identity: Identity,
        stored: np.ndarray,
    ):
        self.setup, self.lanes, self.stored = setup, where, stored
        self.examples, self.identity = examples, identity

    def images_of(self, indices: Iterable[int]) -> np.ndarray:
        position = self.examples.position
        return self.examples.images[[position[int(i)] for i in indices]]

    def label_of(self, index: int) -> int:
        return int(self.examples.labels[self.examples.position[index]])

    def known(self, folder: epath.Path) -> dict[int, records.Row]:
        """Rows on disk that are ours: a folder holds other processes' rows too."""
        rows = records.read(folder, self.identity)
        return {i: row for i, row in rows.items() if i in self.examples.position}

    def given(self, indices: Iterable[int]) -> list[records.Row]:
        """The examples themselves, so that records say all that they are about."""
        return [
            {"label": self.label_of(i), "image": self.stored[self.examples.position[i]]}
            for i in indices
        ]

    def __call__(
        self,
        folder: epath.Path,
        indices: list[int],
        images: np.ndarray,
        more: list[records.Row] | None = None,
    ) -> dict[int, records.Row]:
        return self.record(folder, indices, self.logits(indices, images), more)

    def logits(self, indices: list[int], images: np.ndarray) -> np.ndarray:
        """`(n, keys, classes)` of images `(n, H, W, C)`."""
        setup, root = self.setup, self.examples.root
        return lanes.judge(
            self.lanes,
            setup.defense,
            setup.policy,
            root,
            indices,
            images,
            setup.judging_keys,
        )

    def record(
        self,
        folder: epath.Path,
        indices: list[int],
        logits: Iterable[np.ndarray],
        more: list[records.Row] | None = None,
    ) -> dict[int, records.Row]:
        """Writes down logits `(keys, classes)` of each example; returns rows by index."""
        rows = [{"index": i, "logits": row} for i, row in zip(indices, logits, strict=True)]
        rows = [a | b for a, b in zip(rows, more or [{}] * len(rows), strict=True)]
        records.append(folder, rows, self.identity)
        return {row["index"]: row for row in rows}

    def right(self, rows: dict[int, records.Row]) -> dict[int, bool]:
        """Whether each row's headline draw is right, by index."""
        return {
            i: bool(
                statistics.correct(row["logits"][None], np.array([self.label_of(i)]))[0, 0]
            )
            for i, row in rows.items()
        }
