"""An evaluation: a defense judged clean, attacked, and judged again on what was found.

Everything is written down as it is made, in three folders of records (clean, attacked,
judged) joined by the examples' indices, so a killed evaluation goes on where it was and
a finished one can be judged again under other keys.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from jaxpure.attacks import stadv
from jaxpure.data import Dataset, check, take
from jaxpure.evaluation import engine, records, statistics
from jaxpure.randomness import Policy
from jaxpure.types import Key

# A float32 sum of a pixel and eps may leave the ball by a rounding.
BALL_SLACK = 1e-6

COUNTS = (
    "attack_calls",
    "evaluations",
    "bad_gradients",
    "zero_gradients",
    "gradient_evaluations",
    "forward_evaluations",
)


class UnfinishedError(ValueError):
    """Records are missing: the evaluation has not come to its end."""


class Progress(Protocol):
    """Told of progress: `stage` is "clean", or "attack" and an attack's name."""

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
      gradient_evaluations: `(n,)` passes through the defense with a gradient.
      forward_evaluations: `(n,)` passes of the attack without one.
      broken_by: `(n,)` str, the one of a sequence of attacks that broke each image, or "".
      fooled: `(n,)` the largest share of its own draws that the attack fooled at any of
        its evaluations; NaN where it does not say.
      outvoted: `(n,)` bool, whether at any of them the vote of the draws was wrong.
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
    gradient_evaluations: np.ndarray
    forward_evaluations: np.ndarray
    broken_by: np.ndarray
    fooled: np.ndarray
    outvoted: np.ndarray

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
      attack: on the same defense, under a gradient rule; or a sequence of attacks (with
        `stages`), each of which goes on with the images that stand.
      dataset: the examples; in a multi-process run, this process's share.
      root: the run's root key.
      judging_keys: draws under which every image is judged.
      batch_size: images side by side on each device.
      mesh: the devices; by default all of this host's.
      progress: called as rows are made.

    Raises:
      DataError: an image outside [0, 1] or not finite, or a label out of range; names the
        example.
      ValueError: an adversarial image left its norm ball or [0, 1]; names the example.
    """
    check(dataset)
    mesh = engine.local_mesh() if mesh is None else mesh
    judge = _Judge(defense, dataset, attack.policy, root, judging_keys, batch_size, mesh)
    tell = _Teller(progress, len(dataset))

    clean = {i: row for i, row in records.read(folder / "clean").items() if i in judge}
    tell.clean = judge.right(clean.values())
    missing = [i for i in judge.position if i not in clean]
    for chunk in _chunks(missing, judge.slots):
        rows = judge(folder / "clean", chunk, judge.images_of(chunk))
        clean |= {row["index"]: row for row in rows}
        tell.clean |= judge.right(rows)
        tell("clean")

    labels = {i: dataset.labels[judge.position[i]] for i in judge.position}
    broken = [i for i in clean if _is_broken(clean[i]["logits"], labels[i], attack.policy)]
    standing = [i for i in judge.position if i not in set(broken)]
    untouched = [_untouched(i, judge.images_of([i])[0]) for i in broken]
    stages = getattr(attack, "stages", None)
    if stages is None:
        _attack(folder, attack, judge, standing, untouched, tell, "attack")
        return load(folder, dataset)
    _attack(folder, attack, judge, [], untouched, tell, "attack")
    tell.fallen = len(broken)
    finished, fallen_at = [], {}
    for number, (name, stage) in enumerate(stages):
        place = folder / "stages" / f"{number}-{name}"
        _attack(place, stage, judge, standing, [], tell, f"attack {name}")
        rows = {s: records.read(place / s) for s in ("attacked", "judged")}
        finished.append(rows)
        right = judge.right(rows["judged"][i] for i in standing)
        fallen_at |= {i: name for i in standing if not right[i]}
        standing = [i for i in standing if right[i]]
        tell.fallen = len(dataset) - len(standing)
    _settle(folder, finished, fallen_at, labels)
    return load(folder, dataset)


class _Judge:
    """Judges images of a data set under the judging keys and writes down what it saw."""

    def __init__(self, defense, dataset, policy, root, keys, batch_size, mesh):
        self.defense, self.policy, self.root, self.keys = defense, policy, root, keys
        self.dataset, self.images = dataset, dataset.floats()
        self.shape = {"batch_size": batch_size, "mesh": mesh}
        self.slots = engine.num_slots(mesh, batch_size)
        self.position = {int(index): i for i, index in enumerate(dataset.indices)}

    def __contains__(self, index: int) -> bool:
        """Whether the example is ours: a folder holds other processes' rows too."""
        return index in self.position

    def images_of(self, indices: Iterable[int]) -> np.ndarray:
        return self.images[[self.position[int(i)] for i in indices]]

    def __call__(
        self, folder: epath.Path, indices: Iterable[int], images: np.ndarray
    ) -> list[records.Row]:
        logits = engine.judge(
            self.defense,
            self.policy,
            self.root,
            np.array(list(indices)),
            images,
            keys=self.keys,
            **self.shape,
        )
        rows = [
            {"index": int(i), "logits": row} for i, row in zip(indices, logits, strict=True)
        ]
        records.append(folder, rows)
        return rows

    def right(self, rows: Iterable[records.Row]) -> dict[int, bool]:
        """Whether each row's headline draw is right, by index."""
        found = {}
        for row in rows:
            if row["index"] in self:
                label = self.dataset.labels[[self.position[row["index"]]]]
                correct = statistics.correct(row["logits"][None], label)
                found[row["index"]] = bool(correct[0, 0])
        return found


class _Teller:
    """What is known so far, for a progress bar.

    Attributes:
      clean: whether each clean image's headline draw is right.
      judged: likewise of the adversarial images of the attack under way.
      fallen: images that attacks before this one have broken.
    """

    def __init__(self, progress: Progress | None, total: int):
        self.progress, self.total = progress, total
        self.clean: dict[int, bool] = {}
        self.judged: dict[int, bool] = {}
        self.fallen = 0

    def __call__(self, stage: str) -> None:
        if self.progress is None:
            return
        clean = _mean(self.clean)
        if stage == "clean":
            self.progress("clean", len(self.clean), self.total, clean, None)
        else:
            done = len(self.judged) + self.fallen
            robust = sum(self.judged.values()) / done if done else float("nan")
            self.progress(stage, done, self.total, clean, robust)


def _attack(
    folder: epath.Path,
    attack: Any,
    judge: _Judge,
    standing: list[int],
    untouched: list[records.Row],
    tell: _Teller,
    stage: str,
) -> None:
    """One attack on the images that stand, judged as they fall, all of it in `folder`.

    `untouched` are rows that need no attack, to be judged with the others.
    """
    attacked = {i: r for i, r in records.read(folder / "attacked").items() if i in judge}
    judged = {i: r for i, r in records.read(folder / "judged").items() if i in judge}
    tell.judged = judge.right(judged.values())
    new = [row for row in untouched if row["index"] not in attacked]
    records.append(folder / "attacked", new)
    waiting = [row for i, row in attacked.items() if i not in judged] + new

    def judge_waiting(at_least: int) -> None:
        while len(waiting) >= at_least and waiting:
            batch = waiting[: judge.slots]
            del waiting[: judge.slots]
            indices = [row["index"] for row in batch]
            adversarial = np.stack([row["image"] for row in batch])
            _check_ball(attack, adversarial, judge.images_of(indices), indices)
            tell.judged |= judge.right(judge(folder / "judged", indices, adversarial))
            tell(stage)

    todo = [judge.position[i] for i in standing if i not in attacked]
    if todo:
        finished = engine.attack(
            attack,
            judge.root,
            judge.dataset,
            todo,
            snapshot=folder / f"under_way-{jax.process_index():03d}.safetensors",
            **judge.shape,
        )
        for rows in finished:
            rows = [row | _cost(attack, row["attack_calls"]) for row in rows]
            records.append(folder / "attacked", rows)
            waiting += rows
            judge_waiting(at_least=judge.slots)
            tell(stage)
    judge_waiting(at_least=1)


def _cost(attack: Any, calls: int) -> records.Row:
    """Evaluations of the defense that so many steps took, with gradient and without.

    An attack that does not say takes a gradient in every one.
    """
    gradients = getattr(attack, "gradients_per_step", attack.purifications_per_step)
    return {
        "gradient_evaluations": int(calls) * gradients,
        "forward_evaluations": int(calls) * (attack.purifications_per_step - gradients),
    }


def _settle(
    folder: epath.Path,
    finished: list[dict[str, dict[int, records.Row]]],
    fallen_at: dict[int, str],
    labels: dict[int, int],
) -> None:
    """Writes the outcome of a sequence of attacks: one row an image, of what broke it.

    Of an image that stands, the attempt is kept that came nearest under the headline key:
    no key that attacks do not see takes part in the choice.
    """
    settled = records.read(folder / "attacked")
    attacked, judged = [], []
    for index, label in labels.items():
        tries = [
            (stage["attacked"][index], stage["judged"][index])
            for stage in finished
            if index in stage["attacked"]
        ]
        if index in settled or not tries:
            continue
        margins = [statistics.margin(judged["logits"][0], label) for _, judged in tries]
        broken = index in fallen_at  # by the last that tried
        best = len(tries) - 1 if broken else int(np.argmax(margins))
        counts = {name: sum(int(row[name]) for row, _ in tries) for name in COUNTS}
        counts |= {
            name: max(row[name] for row, _ in tries if name in row)
            for name in ("fooled", "outvoted")
            if any(name in row for row, _ in tries)
        }
        before = sum(int(row["evaluations"]) for row, _ in tries[:-1])
        outcome = {
            "broken_by": fallen_at.get(index, ""),
            "broken_at": before + int(tries[-1][0]["broken_at"]) if broken else -1,
        }
        attacked.append({**tries[best][0], **counts, **outcome})
        judged.append(tries[best][1])
    records.append(folder / "judged", judged)
    records.append(folder / "attacked", attacked)


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
    distances = _distances(images, dataset.floats())
    counts = {
        name: np.array([row["attacked"][name] for row in rows])
        for name in (*COUNTS, "broken_at")
    }
    return Result(
        indices=dataset.indices,
        labels=dataset.labels,
        clean_logits=np.stack([row["clean"]["logits"] for row in rows]),
        logits=np.stack([row["judged"]["logits"] for row in rows]),
        images=images,
        linf=distances["linf"],
        l2=distances["l2"],
        broken_by=np.array([row["attacked"].get("broken_by", "") for row in rows]),
        fooled=np.array([row["attacked"].get("fooled", np.nan) for row in rows], float),
        outvoted=np.array([bool(row["attacked"].get("outvoted")) for row in rows]),
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
    return take(dataset, slice(jax.process_index(), None, jax.process_count()))


def _is_broken(logits: np.ndarray, label: int, policy: Policy) -> bool:
    right = statistics.correct(logits[None], np.array([label]))[0]
    return not (right[0] if policy.replays_all else right.any())


def _untouched(index: int, image: np.ndarray) -> records.Row:
    return {
        "index": index,
        "image": image,
        "broken_at": 0,
        "fooled": 1.0,
        "outvoted": True,
        **dict.fromkeys(COUNTS, 0),
    }


def _check_ball(attack, adversarial, clean, indices) -> None:
    eps = float(attack.eps)
    if attack.norm == "flow":  # no ball of pixels: what no flow within the bound can make
        distance = stadv.excess(adversarial, clean, eps)
        allowed = BALL_SLACK
    else:
        distance = _distances(adversarial, clean)[attack.norm]
        allowed = eps * (1 + 1e-5) + BALL_SLACK
    in_range = (adversarial >= 0).all((1, 2, 3)) & (adversarial <= 1).all((1, 2, 3))
    inside = (distance <= allowed) & in_range
    if not inside.all():
        i = int(np.flatnonzero(~inside)[0])
        raise ValueError(
            f"the attack's image for example {indices[i]} is at {attack.norm} distance "
            f"{distance[i]:.6g} (eps {eps:.6g}) or outside [0, 1]; the attack must project "
            "its iterates"
        )


def _distances(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    delta = (a.astype(np.float64) - b).reshape(len(a), -1)
    size = np.abs(delta)
    return {
        "linf": size.max(1),
        "l2": np.sqrt(np.square(delta).sum(1)),
        "l1": size.sum(1),
    }


def _chunks(values: list[int], size: int) -> list[list[int]]:
    return [values[i : i + size] for i in range(0, len(values), size)]


def _mean(right: dict[int, bool]) -> float:
    return float(np.mean(list(right.values()))) if right else float("nan")
