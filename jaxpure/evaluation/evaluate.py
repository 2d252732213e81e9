"""An evaluation: a defense judged clean, attacked, and judged again on what was found.

Everything is written down as it is made, in three folders of records (clean, attacked,
judged) joined by the examples' indices, so a killed evaluation goes on where it was and
a finished one can be judged again under other keys.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from jaxpure.data import Dataset
from jaxpure.evaluation import engine, records, statistics
from jaxpure.randomness import Policy
from jaxpure.types import Key

# A float32 sum of a pixel and eps may leave the ball by a rounding.
BALL_SLACK = 1e-6


class UnfinishedError(ValueError):
    """Records are missing: the evaluation has not come to its end."""


class Progress(Protocol):
    """Told of progress: `stage` is "clean" or "attack"; accuracies so far or None."""

    def __call__(
        self, stage: str, done: int, total: int, clean: float, robust: float | None
    ) -> None: ...


@dataclass(frozen=True)
class Result:
    """Joined records of an evaluation, examples in the order of the data set.

    Attributes:
      indices: `(n,)` in the published set.
      labels: `(n,)`.
      clean_logits: `(n, keys, classes)`.
      logits: `(n, keys, classes)` of the adversarial images.
      images: `(n, H, W, C)` the adversarial images.
      linf: `(n,)` distance from the clean image.
      l2: `(n,)` likewise.
      attack_calls: `(n,)` steps of the attack spent.
      evaluations: `(n,)` evaluations of the attack's iterates.
      broken_at: `(n,)` the first evaluation that the attack saw misclassified, or -1.
      bad_gradients: `(n,)` evaluations whose gradient was not finite.
      zero_gradients: `(n,)` evaluations whose gradient was identically zero.
    """

    indices: np.ndarray
    labels: np.ndarray
    clean_logits: np.ndarray
    logits: np.ndarray
    images: np.ndarray
    linf: np.ndarray
    l2: np.ndarray
    attack_calls: np.ndarray
    evaluations: np.ndarray
    broken_at: np.ndarray
    bad_gradients: np.ndarray
    zero_gradients: np.ndarray

    @property
    def clean(self) -> np.ndarray:
        """`(n, keys)` whether each clean draw is right."""
        return statistics.correct(self.clean_logits, self.labels)

    @property
    def robust(self) -> np.ndarray:
        """`(n, keys)` whether each draw of the adversarial image is right."""
        return statistics.correct(self.logits, self.labels)

    @property
    def nonfinite(self) -> np.ndarray:
        """Indices of examples with logits that are not finite."""
        bad = ~np.isfinite(self.clean_logits).all((1, 2))
        return self.indices[bad | ~np.isfinite(self.logits).all((1, 2))]


def evaluate(
    folder: epath.Path,
    defense: Any,
    attack: Any,
    dataset: Dataset,
    *,
    root: Key,
    judging_keys: int,
    batch_size: int,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
) -> Result:
    """Judges, attacks and judges again; or reads what `folder` holds of that already.

    An image that is misclassified to begin with is left alone: under judging key 0 where
    the attack replays all noise, else under every judging key.

    Args:
      folder: where the records go.
      defense: `(key, x) -> logits`: the plain one, under no gradient rule.
      attack: on the same defense, under a gradient rule.
      dataset: the examples; in a multi-process run, this process's share.
      root: the run's root key.
      judging_keys: draws under which every image is judged.
      batch_size: images side by side on each device.
      mesh: the devices; by default all of this host's.
      progress: called as rows are made.

    Raises:
      ValueError: an adversarial image left its norm ball or [0, 1]; names the example.
    """
    mesh = engine.local_mesh() if mesh is None else mesh
    shape = {"batch_size": batch_size, "mesh": mesh}
    size = engine.num_slots(mesh, batch_size)
    total = len(dataset)
    position = {int(index): i for i, index in enumerate(dataset.indices)}
    policy = attack.policy

    def judge_into(stage: str, indices: np.ndarray, images: np.ndarray) -> None:
        logits = engine.judge(
            defense, policy, root, indices, images, keys=judging_keys, **shape
        )
        rows = [
            {"index": int(i), "logits": row} for i, row in zip(indices, logits, strict=True)
        ]
        records.append(folder / stage, rows)
        right[stage].update(_right(rows, dataset, position))
        tell(stage)

    def tell(stage: str) -> None:
        if progress is None:
            return
        clean = _mean(right["clean"])
        if stage == "clean":
            progress("clean", len(right["clean"]), total, clean, None)
        else:
            progress("attack", len(right["judged"]), total, clean, _mean(right["judged"]))

    stored = {stage: records.read(folder / stage) for stage in ("clean", "judged")}
    right = {
        stage: _right(list(rows.values()), dataset, position)
        for stage, rows in stored.items()
    }

    missing = [i for i in dataset.indices if int(i) not in right["clean"]]
    images = dataset.floats()
    for chunk in _chunks(missing, size):
        judge_into("clean", chunk, images[[position[int(i)] for i in chunk]])

    attacked = records.read(folder / "attacked")
    clean = records.read(folder / "clean")
    todo, alone = [], []
    for index in (int(i) for i in dataset.indices):
        if index in attacked:
            continue
        broken = _is_broken(clean[index]["logits"], dataset.labels[position[index]], policy)
        (alone if broken else todo).append(index)
    rows = [_untouched(i, images[position[i]]) for i in alone]
    records.append(folder / "attacked", rows)
    # The folder holds other processes' rows too: theirs are not ours to judge.
    unjudged = [i for i in attacked if i in position and i not in right["judged"]]
    waiting = [attacked[i] for i in unjudged] + rows

    def judge_waiting(at_least: int) -> None:
        while len(waiting) >= at_least and waiting:
            batch = waiting[:size]
            del waiting[:size]
            indices = np.array([row["index"] for row in batch])
            adversarial = np.stack([row["image"] for row in batch])
            _check_ball(attack, adversarial, images, indices, position)
            judge_into("judged", indices, adversarial)

    finished = engine.attack(
        attack,
        root,
        dataset,
        [position[i] for i in todo],
        snapshot=folder / f"under_way-{jax.process_index():03d}.safetensors",
        **shape,
    )
    for rows in finished:
        records.append(folder / "attacked", rows)
        waiting += rows
        judge_waiting(at_least=size)
        tell("attack")
    judge_waiting(at_least=1)
    return load(folder, dataset)


def load(folder: epath.Path, dataset: Dataset) -> Result:
    """Joins a finished evaluation's records, in the order of `dataset`."""
    stages = {s: records.read(folder / s) for s in ("clean", "attacked", "judged")}
    rows = []
    for index in (int(i) for i in dataset.indices):
        missing = [stage for stage, found in stages.items() if index not in found]
        if missing:
            raise UnfinishedError(
                f"example {index} has no {missing[0]} record in {folder}; the run is not "
                "finished: start it again to go on"
            )
        rows.append({stage: found[index] for stage, found in stages.items()})
    images = np.stack([row["attacked"]["image"] for row in rows])
    linf, l2 = _distances(images, dataset.floats())
    counts = {
        name: np.array([row["attacked"][name] for row in rows])
        for name in (
            "attack_calls",
            "evaluations",
            "broken_at",
            "bad_gradients",
            "zero_gradients",
        )
    }
    return Result(
        indices=dataset.indices,
        labels=dataset.labels,
        clean_logits=np.stack([row["clean"]["logits"] for row in rows]),
        logits=np.stack([row["judged"]["logits"] for row in rows]),
        images=images,
        linf=linf,
        l2=l2,
        **counts,
    )


def judge_again(
    result: Result,
    defense: Any,
    policy: Policy,
    *,
    root: Key,
    judging_keys: int,
    batch_size: int,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Logits `(n, keys, classes)` of found adversarial images under another root's keys."""
    mesh = engine.local_mesh() if mesh is None else mesh
    return engine.judge(
        defense,
        policy,
        root,
        result.indices,
        result.images,
        keys=judging_keys,
        batch_size=batch_size,
        mesh=mesh,
    )


def share_of_process(dataset: Dataset) -> Dataset:
    """This process's examples: every `process_count`-th, from its own number on."""
    ours = slice(jax.process_index(), None, jax.process_count())
    return Dataset(
        dataset.name,
        dataset.images[ours],
        dataset.labels[ours],
        dataset.indices[ours],
        dataset.num_classes,
    )


def _right(rows, dataset: Dataset, position: dict[int, int]) -> dict[int, bool]:
    """Whether each row's headline draw is right, by index."""
    return {
        row["index"]: bool(
            statistics.correct(
                row["logits"][None], dataset.labels[[position[row["index"]]]]
            )[0, 0]
        )
        for row in rows
        if row["index"] in position
    }


def _is_broken(logits: np.ndarray, label: int, policy: Policy) -> bool:
    right = statistics.correct(logits[None], np.array([label]))[0]
    return not (right[0] if policy.replays_all else right.any())


def _untouched(index: int, image: np.ndarray) -> records.Row:
    return {
        "index": index,
        "image": image,
        "attack_calls": 0,
        "evaluations": 0,
        "broken_at": 0,
        "bad_gradients": 0,
        "zero_gradients": 0,
    }


def _check_ball(attack, adversarial, images, indices, position) -> None:
    clean = images[[position[int(i)] for i in indices]]
    linf, l2 = _distances(adversarial, clean)
    distance = {"linf": linf, "l2": l2}[attack.norm]
    inside = (
        (distance <= attack.eps * (1 + 1e-5) + BALL_SLACK)
        & (adversarial >= 0).all((1, 2, 3))
        & (adversarial <= 1).all((1, 2, 3))
    )
    if not inside.all():
        i = int(np.flatnonzero(~inside)[0])
        raise ValueError(
            f"the attack's image for example {indices[i]} is at {attack.norm} distance "
            f"{distance[i]:.6g} (eps {float(attack.eps):.6g}) or outside [0, 1]; the "
            "attack must project its iterates"
        )


def _distances(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    delta = (a.astype(np.float64) - b).reshape(len(a), -1)
    return np.abs(delta).max(1), np.sqrt(np.square(delta).sum(1))


def _chunks(values: list, size: int) -> list[np.ndarray]:
    return [np.array(values[i : i + size]) for i in range(0, len(values), size)]


def _mean(right: dict[int, bool]) -> float:
    return float(np.mean(list(right.values()))) if right else float("nan")
