"""The outcome of an evaluation, joined from its records.

clean/            logits of every clean image
stages/N-NAME/    of each attack of the cascade: attacked/ (what it found), judged/
"""

from typing import Any

import numpy as np
from etils import epath

from jaxpure.attacks.balls import distances
from jaxpure.data import Dataset
from jaxpure.errors import UserError
from jaxpure.evaluation import records, statistics
from jaxpure.evaluation.identity import Identity
from jaxpure.evaluation.result import COUNTS, Result, check_images
from jaxpure.evaluation.setup import Setup


class UnfinishedError(UserError):
    """Records are missing: the evaluation has not come to its end."""


def stage_folder(folder: epath.Path, number: int, name: str) -> epath.Path:
    """Where the records of one attack of the cascade are."""
    return folder / "stages" / f"{number}-{name}"


def load(folder: epath.Path, dataset: Dataset, setup: Setup, identity: Identity) -> Result:
    """Joins a finished evaluation's records, in the order of `dataset`.

    Raises:
      UnfinishedError: a record is missing; names the example.
      RecordError: a record was altered, or is not of this evaluation.
      AttackError: an image is not where the attack may take it.
    """
    clean = records.read(folder / "clean", identity)
    stages = []
    for number, stage in enumerate(setup.stages):
        place = stage_folder(folder, number, stage.name)
        found = {s: records.read(place / s, identity) for s in ("attacked", "judged")}
        stages.append((stage.name, found["attacked"], found["judged"]))
    about = {**records.read_identity(folder)["about"], "data": dataset.name}
    about |= {"hash": identity.evaluation_hash, "parts": dict(identity.parts)}
    found = join(dataset, clean, stages, about, folder)
    check_images(found, setup.ball)
    return found


def join(
    dataset: Dataset,
    clean: dict[int, records.Row],
    stages: list[tuple[str, dict[int, records.Row], dict[int, records.Row]]],
    about: dict[str, Any],
    folder: epath.Path,
) -> Result:
    """The outcome for each example, in the order of `dataset`.

    Args:
      dataset: the examples.
      clean: rows of the clean images.
      stages: name, attacked rows and judged rows of each attack.
      about: what was evaluated; "replays_all" says which images are left alone.
      folder: for messages.
    """
    images, rows = dataset.floats(), []
    for position, index in enumerate(int(i) for i in dataset.indices):
        if index not in clean:
            raise unfinished(index, "clean", folder)
        label, logits = int(dataset.labels[position]), clean[index]["logits"]
        if stands(logits, label, about["replays_all"]):
            row = settle(index, label, stages, folder)
        else:
            row = _untouched(images[position], logits)
        rows.append({"clean_logits": logits, **row})
    found = np.stack([row["image"] for row in rows])
    distance = distances(found, images)
    counts = {
        name: np.array([int(row[name]) for row in rows]) for name in (*COUNTS, "broken_at")
    }
    return Result(
        indices=dataset.indices,
        labels=dataset.labels,
        clean_logits=np.stack([row["clean_logits"] for row in rows]),
        logits=np.stack([row["logits"] for row in rows]),
        images=found,
        clean_images=images,
        linf=distance["linf"],
        l2=distance["l2"],
        broken_by=np.array([row["broken_by"] for row in rows], np.str_),
        lost=np.array([row["lost"] for row in rows], float),
        vote_lost=np.array([bool(row["vote_lost"]) for row in rows]),
        about=about,
        **counts,
    )


def settle(
    index: int,
    label: int,
    stages: list[tuple[str, dict[int, records.Row], dict[int, records.Row]]],
    folder: epath.Path,
) -> records.Row:
    """The outcome of a cascade for one image: one row, of what broke it.

    For an image that stands, the attempt with the largest margin under judging key 0 is
    kept. Other judging keys are not used, to avoid selecting on held-out noise.

    Args:
      index: of the example.
      label: its class.
      stages: name, attacked rows and judged rows of each attack.
      folder: for messages.
    """
    tries: list[records.Row] = []
    broken_by = ""
    for name, attacked, judged in stages:
        for what, rows in (("attacked", attacked), ("judged", judged)):
            if index not in rows:
                raise unfinished(index, f"{name} {what}", folder)
        tries.append({**attacked[index], "logits": judged[index]["logits"]})
        if not is_right(judged[index]["logits"], label):
            broken_by = name
            break
    margins = [statistics.margin(row["logits"][0], label) for row in tries]
    best = tries[-1] if broken_by else tries[int(np.argmax(margins))]
    return {
        **best,
        **{name: sum(int(row[name]) for row in tries) for name in COUNTS},
        "lost": max(float(row["lost"]) for row in tries),
        "vote_lost": any(bool(row["vote_lost"]) for row in tries),
        "broken_by": broken_by,
        "broken_at": _first_seen(tries),
    }


def stands(logits: np.ndarray, label: int, replays_all: bool) -> bool:
    """Whether a clean image `(keys, classes)` is right, so that it is worth an attack.

    Under judging key 0 where the attack replays all noise, else under any judging key.
    """
    right = statistics.correct(logits[None], np.array([label]))[0]
    return bool(right[0] if replays_all else right.any())


def is_right(logits: np.ndarray, label: int) -> bool:
    """Whether the headline draw of `(keys, classes)` is right."""
    return bool(statistics.correct(logits[None], np.array([label]))[0, 0])


def _first_seen(tries: list[records.Row]) -> int:
    """The first evaluation of all tries that the attack saw misclassified, or -1."""
    before = 0
    for row in tries:
        if row["broken_at"] >= 0:
            return before + int(row["broken_at"])
        before += int(row["evaluations"])
    return -1


def _untouched(image: np.ndarray, logits: np.ndarray) -> records.Row:
    """The outcome for an image that was wrong to begin with: it is left alone."""
    return {
        "image": image,
        "logits": logits,
        "broken_by": "",
        "broken_at": 0,
        "lost": 1.0,
        "vote_lost": True,
        **dict.fromkeys(COUNTS, 0),
    }


def unfinished(index: int, what: str, folder: epath.Path) -> UnfinishedError:
    """The error for a record that is missing."""
    return UnfinishedError(
        f"example {index} has no {what} record in {folder}; the run is not finished: start "
        "it again to go on"
    )
