"""All measurements of a page, each kept under a digest of what it depends on.

A unit is one measurement of one batch of examples. It is written whole or not at all, so
that the study can be killed at any moment; the same command goes on with what is missing.
"""

import dataclasses
import io
import json
from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from experiments import things, weights
from experiments.build import load
from experiments.config import PaperConfig
from experiments.paper.asks import Ask
from jaxpure.attacks import BALLS
from jaxpure.data import Dataset
from jaxpure.defenses import PurifiedClassifier
from jaxpure.errors import UserError
from jaxpure.evaluation.identity import arrays_digest, digest_of, example_digests
from jaxpure.files import write_atomically
from jaxpure.purifiers import PURIFIERS
from jaxpure.specs import build

# What no single unit depends on: each names its purifier and its examples itself.
WHOLE = ("data", "denoiser", "purifier", "sweep", "checkpoints", "num_examples")

Arrays = dict[str, np.ndarray]


class Rows(NamedTuple):
    """The examples of a unit.

    Attributes:
      indices: `(n,)` in the published set.
      images: `(n, H, W, C)` float32 in [0, 1].
      labels: `(n,)`.
    """

    indices: np.ndarray
    images: np.ndarray
    labels: np.ndarray


class Measure(NamedTuple):
    """A measurement.

    Attributes:
      function: `(study, ask, rows, **options) -> arrays` with a row an example.
      cost: `(plan, **options)`, about how many purifications of an image it takes.
      examples: `(plan)`, of how many examples it is taken.
      version: of what it means; another makes what is kept of it void.
      looks_at_all: whether a unit depends on all examples of the study, not its own alone.
      at_once: whether all examples are one unit.
    """

    function: Callable[..., Arrays]
    cost: Callable[..., float]
    examples: Callable[[PaperConfig], int] = lambda plan: plan.num_examples
    version: int = 1
    looks_at_all: bool = False
    at_once: bool = False


class Study:
    """Measurements of one plan, read from `folder` where they are there already.

    Attributes:
      plan: what is measured.
      dataset: on which examples.
      folder: where units are kept.
      measures: what can be asked for, by name.
    """

    def __init__(
        self,
        plan: PaperConfig,
        folder: epath.Path,
        measures: dict[str, Measure],
        data_dir: str | None = None,
    ):
        self.plan, self.folder, self.measures = plan, folder, measures
        count = str(plan.num_examples)
        chosen = things.set_option("data", plan.data, ["num_examples"], count)
        self.dataset: Dataset = load(chosen, data_dir)
        self.root = jax.random.key(plan.seed)
        self.ball = build(BALLS, plan.ball)

    @cached_property
    def classifier(self) -> Any:
        return weights.load(self.plan.classifier)

    @cached_property
    def _examples(self) -> dict[int, str]:
        return example_digests(self.dataset)

    @property
    def indices(self) -> np.ndarray:
        """`(n,)` of the examples in the published set."""
        return self.dataset.indices

    def purifier(self, ask: Ask) -> Any:
        """The purifier that an ask is about."""
        return _purifier(ask.purifier, ask.denoiser)

    def defense(self, ask: Ask) -> PurifiedClassifier:
        """That purifier before the classifier."""
        return PurifiedClassifier(self.purifier(ask), self.classifier)

    def check(self, ask: Ask) -> None:
        """Traces a defense, so that what does not fit the data is told before any work.

        Raises:
          UserError: networks or purifier do not fit the images or the classes.
        """
        key = jax.eval_shape(lambda: jax.random.key(0))
        x = jax.ShapeDtypeStruct(self.dataset.image_shape, np.float32)
        (classes,) = jax.eval_shape(
            lambda d, k, x: d(k, x), self.defense(ask), key, x
        ).shape
        if classes != self.dataset.num_classes:
            raise UserError(
                f"--classifier={self.plan.classifier} has {classes} classes, "
                f"{self.dataset.name} has {self.dataset.num_classes}"
            )

    def resizes(self, ask: Ask) -> str:
        """How the purifier changes the images' shape; "" where it does not."""
        key = jax.eval_shape(lambda: jax.random.key(0))
        x = jax.ShapeDtypeStruct(self.dataset.image_shape, np.float32)
        found = jax.eval_shape(lambda f, k, x: f(k, x), self.purifier(ask), key, x).shape
        if found == x.shape:
            return ""
        return (
            f"the purifier makes images {found} of images {x.shape}, so that what it does "
            "to distances has no meaning"
        )

    def batches(self, ask: Ask) -> list[Rows]:
        """The examples of each unit of an ask."""
        measure = self.measures[ask.measure]
        last = min(measure.examples(self.plan), len(self.dataset))
        images, size = self.dataset.floats(), self.plan.batch_size
        if measure.at_once:
            size = last
        places = [slice(i, min(i + size, last)) for i in range(0, last, size)]
        return [
            Rows(self.indices[at], images[at], self.dataset.labels[at]) for at in places
        ]

    def unit(self, ask: Ask, rows: Rows) -> Arrays:
        """One unit: read, or else measured and written."""
        found = self.kept(ask, rows)
        if found is None:
            function = self.measures[ask.measure].function
            found = function(self, ask, rows, **dict(ask.options))
            sink = io.BytesIO()
            stamp = np.array(f"{arrays_digest(found)} {self._about(ask, rows)}")
            arrays: dict[str, Any] = {"about": stamp, **found}
            np.savez_compressed(sink, **arrays)
            write_atomically(self.path(ask, rows), sink.getvalue())
        return found

    def missing(self, asks: Iterable[Ask]) -> list[tuple[Ask, Rows]]:
        """Units that are not there yet."""
        return [
            (ask, rows)
            for ask in asks
            for rows in self.batches(ask)
            if not self.path(ask, rows).exists()
        ]

    def all(self, ask: Ask) -> Arrays:
        """A measurement of all examples, each array with a row an example.

        Raises:
          ValueError: something is not finite; names what, and the examples.
        """
        units = [self.unit(ask, rows) for rows in self.batches(ask)]
        found = {name: np.concatenate([u[name] for u in units]) for name in units[0]}
        for name, values in found.items():
            if values.dtype.kind == "f":
                _require_finite(ask, name, values, self.indices)
        return found

    def kept(self, ask: Ask, rows: Rows) -> Arrays | None:
        """One unit, if it is there already."""
        return _read(self.path(ask, rows), self._about(ask, rows))

    def path(self, ask: Ask, rows: Rows) -> epath.Path:
        """The file of a unit, named by the digest of all that it depends on."""
        digest = digest_of(self._about(ask, rows).encode())
        return self.folder / f"{ask.measure}-{digest}.npz"

    def _about(self, ask: Ask, rows: Rows) -> str:
        """All that a unit depends on, as text."""
        plan = dataclasses.asdict(self.plan)
        measure = self.measures[ask.measure]
        about: dict[str, Any] = {
            "version": measure.version,
            "ask": ask._asdict(),
            "denoiser": _digest(ask.denoiser),
            "classifier": _digest(self.plan.classifier),
            "examples": [[int(i), self._examples[int(i)]] for i in rows.indices],
            "plan": {n: v for n, v in plan.items() if n not in WHOLE},
        }
        if measure.looks_at_all:
            about["all"] = sorted(self._examples.values())
        return json.dumps(about, sort_keys=True)


def _require_finite(ask: Ask, name: str, values: np.ndarray, indices: np.ndarray) -> None:
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(1)
    if bad.any():
        named = ", ".join(str(i) for i in indices[: len(values)][bad][:10])
        raise ValueError(
            f"{ask.measure}: {name} is not finite for example {named} ({ask.purifier}, "
            f"{ask.denoiser})"
        )


@lru_cache
def _digest(name: str) -> str:
    return weights.digest(name)


@lru_cache
def _purifier(spec: str, denoiser: str) -> Any:
    try:
        return build(PURIFIERS, spec, denoiser=weights.load(denoiser))
    except UserError as error:
        raise UserError(f"purifier {spec} with denoiser {denoiser}: {error}") from error


def _read(path: epath.Path, about: str) -> Arrays | None:
    """What a unit's file holds; None where it is missing, damaged or another's."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except Exception:  # whatever is wrong with it, it is measured anew
        return None
    stamp = str(found.pop("about", ""))
    return found if stamp == f"{arrays_digest(found)} {about}" else None
