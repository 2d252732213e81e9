"""An evaluation: a defense judged clean, attacked, and judged again on what was found.

    clean      every image under its judging keys
    stages     each attack of the cascade in turn, on the images that stand; what it finds
               is judged as it is found, by the plain defense

Everything is written down as it is made, joined by the examples' indices, so that a killed
evaluation goes on where it was. What the stages found is settled when the records are read
(`settle`): of each image what broke it, or the attempt that came nearest.
"""

import tempfile
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from jaxpure.attacks.cascade import Stage
from jaxpure.data import Dataset, take
from jaxpure.data import load as load_data
from jaxpure.errors import UserError
from jaxpure.evaluation import lanes, lock, processes, records
from jaxpure.evaluation.bounds import AttackError, outside
from jaxpure.evaluation.fitting import BatchSize, lanes_of
from jaxpure.evaluation.identity import describe, identify
from jaxpure.evaluation.judge import Judge
from jaxpure.evaluation.result import Result
from jaxpure.evaluation.settle import load, stage_folder, stands
from jaxpure.evaluation.setup import Setup, check_fit, set_up
from jaxpure.evaluation.told import OnProgress, ProgressReporter, told
from jaxpure.keys import Key
from jaxpure.policy import Policy


def evaluate(
    defense: Any,
    attack: Any,
    data: Any,
    *,
    ball: Any,
    key: Key,
    policy: str | Policy = "replay",
    gradient: Any = "exact",
    judging_keys: int = 10,
    batch_size: BatchSize = 50,
    draws_at_once: int = 1,
    folder: epath.PathLike | None = None,
    progress: bool | OnProgress = False,
    mesh: Mesh | None = None,
) -> Result:
    """Judges a defense clean, attacks it, and judges what was found.

    An image that is misclassified to begin with is left alone: under judging key 0 where
    the attack replays all noise, else under every judging key. An image counts as broken
    only after the plain defense, called anew on the stored image within the ball,
    misclassifies it; a value that is not finite is never right.

    Args:
      defense: `(key, x) -> logits`, a callable pytree, under no gradient rule.
      attack: "pgd(num_steps=20)" or another spec of `attacks.ATTACKS`, or an attack.
      data: a `data.Dataset`, or a spec as `data.load` takes; in a multi-process run this
        process's share.
      ball: "linf(8/255)" or another spec of `attacks.BALLS`, or a ball.
      key: the run's root key.
      policy: which noise the attack knows: "fresh", "fixed", "replay", or refined as in
        "fresh,forward=replay"; see `policy.parse_policy`.
      gradient: "exact", "bpda", "surrogate(...)", "transfer(...)", or a function from
        purifier to purifier.
      judging_keys: draws under which every image is judged.
      batch_size: images side by side on each device, part of the experiment; "auto" is
        as many as the device's memory holds when the evaluation is begun.
      draws_at_once: draws of an image side by side, where many are made; likewise part of
        the experiment, though it changes results by rounding alone.
      folder: where records go as they are made; the same call goes on from there. Without
        it they are kept in a temporary folder.
      progress: True shows a bar; a function is called as rows are made.
      mesh: the devices; by default all of this host's.

    Raises:
      UserError: a spec is wrong, the parts do not fit together, an example is out of
        range, or an attack left its ball; names the thing.
    """
    examples = load_data(data)
    setup = set_up(
        defense,
        attack,
        ball=ball,
        policy=policy,
        gradient=gradient,
        judging_keys=judging_keys,
    )
    check_fit(setup, examples)
    if batch_size == "auto" and processes.ours().count > 1:
        raise UserError(
            "batch_size='auto' is found by each process for itself, and several share an "
            "evaluation: give the same number to all"
        )

    def run_in(path: epath.Path) -> Result:
        where = lanes_of(batch_size, draws_at_once, setup, examples, key, path, mesh)
        return run(setup, examples, key, where, path, tell)

    with told(progress, len(examples)) as tell:
        if folder is not None:
            path = epath.Path(folder)
            with lock.held(path):
                return run_in(path)
        with tempfile.TemporaryDirectory() as temporary:
            return run_in(epath.Path(temporary))


def run(
    setup: Setup,
    dataset: Dataset,
    key: Key,
    where: lanes.Lanes,
    folder: epath.Path,
    progress: OnProgress | None = None,
) -> Result:
    """`evaluate` of a protocol that is already put together, and fits the examples."""
    examples = lanes.Examples(key, dataset.indices, dataset.floats(), dataset.labels)
    identity = identify(setup, key, where, dataset)
    records.claim(folder, identity, describe(setup, key, where))
    judge = Judge(setup, where, examples, identity, dataset.images)
    reporter = ProgressReporter(progress, len(dataset))

    clean = judge.known(folder / "clean")
    reporter.clean = judge.right(clean)
    missing = [i for i in examples.position if i not in clean]
    for chunk in _chunks(missing, where.slots):
        rows = judge(folder / "clean", chunk, judge.images_of(chunk), judge.given(chunk))
        clean |= rows
        reporter.clean |= judge.right(rows)
        reporter("clean")

    standing = [
        i
        for i in examples.position
        if stands(clean[i]["logits"], judge.label_of(i), setup.policy.replays_all)
    ]
    alone = [i for i in examples.position if i not in set(standing)]
    for number, stage in enumerate(setup.stages):
        reporter.fallen = len(dataset) - len(standing)
        place = stage_folder(folder, number, stage.name)
        found = _attack(place, stage, judge, standing, alone, reporter)
        standing, alone = [i for i in standing if found[i]], []
    return load(folder, dataset, setup, identity)


def _attack(
    folder: epath.Path,
    stage: Stage,
    judge: Judge,
    standing: list[int],
    alone: list[int],
    reporter: ProgressReporter,
) -> dict[int, bool]:
    """One attack on the images that stand, judged as they fall, all of it in `folder`.

    The images that are left `alone` keep places in the first batch that is judged, and
    what is found there is thrown away: on a CPU the last bit of a row's logits can depend
    on its place in the batch, and records are to be what they have been.

    Returns:
      Whether each image stands, by index.
    """
    attacked, judged = judge.known(folder / "attacked"), judge.known(folder / "judged")
    reporter.judged = judge.right(judged)
    waiting = [row for i, row in attacked.items() if i not in judged]
    left_alone = set(alone)
    if not judged:
        waiting += [{"index": i, "image": judge.images_of([i])[0]} for i in alone]

    def judge_waiting(at_least: int) -> None:
        while len(waiting) >= at_least and waiting:
            batch = waiting[: judge.lanes.slots]
            del waiting[: judge.lanes.slots]
            found = [row["index"] not in left_alone for row in batch]
            if not any(found):
                continue
            images = np.stack([row["image"] for row in batch])
            logits = judge.logits([row["index"] for row in batch], images)[found]
            batch = [row for row, keep in zip(batch, found, strict=True) if keep]
            _check_found(judge, batch, images[found])
            indices = [row["index"] for row in batch]
            rows = judge.record(folder / "judged", indices, logits)
            reporter.judged |= judge.right(rows)
            reporter(stage.name)

    todo = [i for i in standing if i not in attacked]
    if todo:
        budget = stage.budget
        finished = lanes.attack(
            judge.lanes,
            stage,
            judge.setup.ball,
            judge.examples,
            todo,
            snapshot=folder / f"under_way-{processes.ours().index:03d}.safetensors",
        )
        for rows in finished:
            rows = [
                row
                | {
                    "gradient_evaluations": int(row["attack_calls"])
                    * budget.gradient_draws,
                    "forward_evaluations": int(row["attack_calls"]) * budget.forward_draws,
                }
                for row in rows
            ]
            records.append(folder / "attacked", rows, judge.identity)
            waiting += rows
            judge_waiting(at_least=judge.lanes.slots)
            reporter(stage.name)
    judge_waiting(at_least=1)
    return reporter.judged


def share_of_process(dataset: Dataset) -> Dataset:
    """This process's examples: of n processes every n-th, from its own number on."""
    index, count = processes.ours()
    return take(dataset, slice(index, None, count))


def _check_found(judge: Judge, rows: list[records.Row], images: np.ndarray) -> None:
    """Raises AttackError for an image that is outside its ball, or a search gone astray."""
    for row in rows:
        if int(row["nonfinite"]):
            raise AttackError(
                f"the attack's iterates for example {row['index']} were not finite: its "
                "options send it astray (a step or a momentum too large?), and what it "
                "leaves standing would say nothing"
            )
    indices = [row["index"] for row in rows]
    wrong = outside(judge.setup.ball, indices, images, judge.images_of(indices))
    for index, what in wrong.items():
        raise AttackError(
            f"the attack's image for example {index} {what}; the attack must project its "
            "iterates"
        )


def _chunks(values: list[int], size: int) -> list[list[int]]:
    return [values[i : i + size] for i in range(0, len(values), size)]
