"""Whether an evaluation's records can be trusted: rules, each checked by itself.

The rules look at what is on disk and at nothing else, so that what was made on one machine
is verified on another, without weights and data. `RULES` says what they are; `VERSION`
counts their changes, so that a verification says by which rules it was made.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from jaxpure.attacks.balls import BALLS, Linf
from jaxpure.errors import UserError
from jaxpure.evaluation import records, settle, statistics
from jaxpure.evaluation.bounds import outside
from jaxpure.evaluation.folder import Stored, open_folder
from jaxpure.evaluation.identity import VERSION as PROTOCOL
from jaxpure.evaluation.identity import about_digest, example_digest, root_key
from jaxpure.evaluation.result import Result, misplaced
from jaxpure.evaluation.summary import summarize
from jaxpure.keys import defense_key, example_key
from jaxpure.specs import build

VERSION = 2
MOST_KEYS = 100_000  # looked at by the rule on distinct keys


class Finding(NamedTuple):
    """What one rule says.

    Attributes:
      rule: its name.
      meaning: what it asks for.
      problems: what is not so, a sentence each; none where all is well.
    """

    rule: str
    meaning: str
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        if self.ok:
            return f"ok    {self.rule}: {self.meaning}"
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return f"FAIL  {self.rule}: {next(iter(self.problems))}{more}"


class Rule(NamedTuple):
    """One thing that must be so.

    Attributes:
      name: in two or three words.
      meaning: what it asks for, in a sentence.
      check: `(stored) -> what is not so`, pure.
    """

    name: str
    meaning: str
    check: Callable[[Any], Iterable[str]]


def verify(
    evaluation: Result | epath.PathLike,
    reported: Mapping[str, Any] | None = None,
    undefended: epath.PathLike | None = None,
) -> list[Finding]:
    """Checks an evaluation by every rule that its form allows.

    Args:
      evaluation: its folder of records, or a result.
      reported: what was told of it, as `evaluation.summary.summarize` has it, which is
        computed anew and compared: of a folder all of it, of a result what is there.
      undefended: the folder of the classifier alone, where `reported` tells of that too.

    Raises:
      RecordError: the folder holds no evaluation.
    """
    if isinstance(evaluation, Result):
        rules, evidence = RESULT_RULES, evaluation
    else:
        rules, evidence = RULES, open_folder(evaluation)
    findings = [_find(rule, evidence) for rule in rules]
    if reported is not None:
        rule = Rule(
            "reported numbers",
            "every reported reading is what the records give",
            lambda evidence: misreported(evidence, reported, undefended),
        )
        findings.append(_find(rule, evidence))
    return findings


def _find(rule: Rule, evidence: Any) -> Finding:
    try:
        problems = tuple(rule.check(evidence))
    except UserError as error:
        problems = (f"cannot be checked: {error}",)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        problems = (f"cannot be checked, for the records lack it ({error!r})",)
    return Finding(rule.name, rule.meaning, problems)


def _version(stored: Stored) -> Iterable[str]:
    found = stored.identity.parts.get("version")
    if found != str(PROTOCOL):
        yield f"the records are of protocol {found}, and these rules are for {PROTOCOL}"


def _protocol(stored: Stored) -> Iterable[str]:
    if about_digest(stored.about) != stored.identity.parts["about"]:
        yield "identity.json tells another protocol than the records were made by"


def _readable(stored: Stored) -> Iterable[str]:
    for line in stored.damaged:
        yield f"{line} is damaged; start the evaluation again to do it anew"


def _digests(stored: Stored) -> Iterable[str]:
    for kind, row in _all_rows(stored):
        index = row["index"]
        if not records.is_whole(row):
            yield f"the {kind} record of example {index} was altered after it was made"
        elif row.get("belongs") != stored.identity.digest:
            yield f"the {kind} record of example {index} belongs to another evaluation"
        elif row.get("example") != stored.identity.examples.get(index, row.get("example")):
            yield f"the {kind} record of example {index} is of another image or label"


def _examples(stored: Stored) -> Iterable[str]:
    for index, rows in stored.rows["clean"].items():
        for row in rows:
            image = row["image"]
            if image.dtype == np.uint8:
                image = image.astype(np.float32) / np.float32(255)
            if example_digest(image, int(row["label"])) != row["example"]:
                yield f"the image or label of example {index} is not what its digest says"


def _complete(stored: Stored) -> Iterable[str]:
    """EXACTLY_ONE clean row an example; of each stage one of each kind where it stands."""
    for index in sorted(stored.identity.examples):
        clean = stored.rows["clean"].get(index, [])
        yield from _exactly_one(clean, "clean", index)
        if not clean:
            continue
        label = int(clean[0]["label"])
        due = settle.stands(clean[0]["logits"], label, stored.about["replays_all"])
        for name in stored.stages:
            for kind in (f"{name} attacked", f"{name} judged"):
                rows = stored.rows[kind].get(index, [])
                if due:
                    yield from _exactly_one(rows, kind, index)
                elif rows:
                    yield f"example {index} has a {kind} record, though it had fallen"
            judged = stored.rows[f"{name} judged"].get(index, [])
            due = due and bool(judged) and settle.is_right(judged[0]["logits"], label)


def _exactly_one(rows: list[records.Row], kind: str, index: int) -> Iterable[str]:
    """Two writers may have made the same row twice; they must agree."""
    different = len({row["digest"] for row in rows})
    if different != 1:
        yield f"example {index} has {different} different {kind} records, expected one"


def _in_ball(stored: Stored) -> Iterable[str]:
    ball = _ball(stored.about)
    for name in stored.stages:
        rows = [r for found in stored.rows[f"{name} attacked"].values() for r in found]
        known = [row for row in rows if row["index"] in stored.rows["clean"]]
        if not known:
            continue
        clean = [stored.rows["clean"][row["index"]][0]["image"] for row in known]
        originals = np.stack(clean)
        if originals.dtype == np.uint8:
            originals = originals.astype(np.float32) / np.float32(255)
        images = np.stack([row["image"] for row in known])
        indices = [row["index"] for row in known]
        for index, what in outside(ball, indices, images, originals).items():
            yield f"the {name} image of example {index} {what}"


def _keys(stored: Stored) -> Iterable[str]:
    root, indices = root_key(stored.about), np.array(sorted(stored.identity.examples))
    draws = int(stored.about["judging_keys"])
    indices = indices[: max(MOST_KEYS // draws, 1)].astype(np.int32)

    def words(index):
        example = example_key(root, index)
        keys = jax.vmap(lambda n: defense_key(example, n))(np.arange(draws))
        return jax.random.key_data(keys)

    found = np.asarray(jax.vmap(words)(indices)).reshape(len(indices) * draws, -1)
    if len(np.unique(found, axis=0)) < len(found):
        yield "two draws of the judgement have the same key"


def _budget(stored: Stored) -> Iterable[str]:
    for name, budget in stored.budgets.items():
        for index, rows in stored.rows[f"{name} attacked"].items():
            for row in rows:
                calls = int(row["attack_calls"])
                spent = {
                    "gradient": int(row["gradient_evaluations"]),
                    "forward": int(row["forward_evaluations"]),
                }
                if not 0 < calls <= budget["calls"]:
                    most = budget["calls"]
                    yield f"{name} took {calls} steps on example {index}, of {most}"
                for what, evaluations in spent.items():
                    if evaluations != calls * budget[f"{what}_draws"]:
                        yield (
                            f"{name} on example {index} counts {evaluations} {what} "
                            f"evaluations, which {calls} steps do not make"
                        )


def _finite(stored: Stored) -> Iterable[str]:
    for name in stored.stages:
        for index, rows in stored.rows[f"{name} attacked"].items():
            if any(int(row["nonfinite"]) for row in rows):
                yield f"iterates of {name} for example {index} were not finite"


def _judging(stored: Stored) -> Iterable[str]:
    draws, classes = int(stored.about["judging_keys"]), set()
    for kind, row in _all_rows(stored):
        if kind.endswith("attacked"):
            continue
        shape = row["logits"].shape
        classes.add(shape[-1])
        if len(shape) != 2 or shape[0] != draws:
            yield f"example {row['index']} has {kind} logits {shape}, of {draws} keys"
    if len(classes) > 1:
        yield f"the numbers of classes differ: {sorted(classes)}"


RULES: tuple[Rule, ...] = (
    Rule(
        "protocol version",
        "the records are of the protocol that these rules know",
        _version,
    ),
    Rule("protocol", "what is told of the protocol is what it was", _protocol),
    Rule("readable", "every line of every part file is a record", _readable),
    Rule("digests", "every record is as it was made, and of this evaluation", _digests),
    Rule("examples", "every stored image and label is what its digest says", _examples),
    Rule(
        "complete",
        "EXACTLY_ONE record of each kind that is due, for each example",
        _complete,
    ),
    Rule("in the ball", "every image of an attack is in its ball and in [0, 1]", _in_ball),
    Rule("finite search", "no attack's iterates left the finite numbers", _finite),
    Rule("budget", "no attack took more steps or evaluations than its budget", _budget),
    Rule("judging keys", "every image was judged under as many keys as is said", _judging),
    Rule("distinct keys", "no two draws of the judgement have the same key", _keys),
)


def _result_shapes(result: Result) -> Iterable[str]:
    n = len(result)
    for name, values in result.columns().items():
        if len(values) != n:
            yield f"{name} has {len(values)} rows, and there are {n} labels"
    keys = result.about.get("judging_keys")
    for logits in (result.clean_logits, result.logits):
        if logits.shape[1] != keys:
            yield f"logits are of {logits.shape[1]} keys, and {keys} are told"


def _result_distinct(result: Result) -> Iterable[str]:
    found, counts = np.unique(result.indices, return_counts=True)
    for index in found[counts > 1]:
        yield f"example {index} is there twice"


def _result_outcomes(result: Result) -> Iterable[str]:
    untouched = result.attack_calls == 0
    moved = (result.images != result.clean_images).any((1, 2, 3))
    for index in result.indices[untouched & moved]:
        yield f"example {index} was left alone, and its image is another"
    broken = result.broken_by != ""
    for index in result.indices[broken & result.robust[:, 0]]:
        yield f"example {index} is told to be broken, and its headline draw is right"


RESULT_RULES: tuple[Rule, ...] = (
    Rule("shapes", "as many rows and keys everywhere as is said", _result_shapes),
    Rule("distinct examples", "each example is there EXACTLY_ONE time", _result_distinct),
    Rule(
        "in the ball",
        "every image is in its ball and in [0, 1]",
        lambda r: [f"the image of example {i} {what}" for i, what in misplaced(r).items()],
    ),
    Rule("outcomes", "what is told of each image is what its logits say", _result_outcomes),
)


def misreported(
    evidence: Result | Stored,
    reported: Mapping[str, Any],
    undefended: epath.PathLike | None = None,
) -> Iterable[str]:
    """A sentence for each reported number that the records do not give.

    Args:
      evidence: what was evaluated.
      reported: as `evaluation.summary.summarize` has them: a reading is an object with
        "value", "low", "high" and "n".
      undefended: the folder of the classifier alone, if there is one.
    """
    result = evidence if isinstance(evidence, Result) else evidence.result
    alone = None if undefended is None else open_folder(undefended).result
    for name, ours in summarize(result, alone).items():
        if name not in reported and isinstance(evidence, Stored):
            yield f"{name} is not reported, and is {_brief(ours)}"
        if name in reported and name not in ("warnings", "version"):
            theirs = reported[name]
            if name == "indices":
                ours, theirs = sorted(ours), sorted(theirs)
            if not _agrees(ours, theirs):
                yield f"{name} is reported as {_brief(theirs)}, and is {_brief(ours)}"


def _agrees(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return set(ours) <= set(theirs) and all(
            _agrees(v, theirs[k]) for k, v in ours.items()
        )
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(_agrees, ours, theirs))
    numbers = (int, float)
    if isinstance(ours, numbers) and isinstance(theirs, numbers):
        return bool(np.isclose(ours, theirs, rtol=1e-9, atol=1e-12))
    return ours == theirs


def _brief(value: Any) -> str:
    if isinstance(value, Mapping) and "value" in value:
        return f"{value['value']:.6g}" if isinstance(value["value"], float) else str(value)
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _all_rows(stored: Stored) -> Iterable[tuple[str, records.Row]]:
    for kind, by_index in stored.rows.items():
        for rows in by_index.values():
            for row in rows:
                yield kind, row


def _ball(about: Mapping[str, Any]) -> Any:
    try:
        return build(BALLS, about["ball_spec"])
    except UserError:  # a ball of the user's own: images must be images at least
        return Linf(1.0)


class Agreement(NamedTuple):
    """One reading of two evaluations, and whether chance explains how they differ.

    Attributes:
      reading: its name.
      first: its value.
      second: likewise.
      p_value: of a difference this large, if there were none.
      test: how it was tested.
      ok: whether that is at least the level, shared among all readings.
    """

    reading: str
    first: float
    second: float
    p_value: float
    test: str
    ok: bool

    def __str__(self) -> str:
        mark = "ok  " if self.ok else "FAIL"
        return (
            f"{mark}  {self.reading}: {100 * self.first:.1f}% and {100 * self.second:.1f}% "
            f"({self.test}, p = {self.p_value:.2g})"
        )


def compatible(first: Result, second: Result, level: float = 0.01) -> list[Agreement]:
    """Whether two evaluations are of the same thing, as far as chance can tell.

    On the same images they are paired (McNemar's exact test), else compared as two samples
    (Fisher's exact test). The level is divided by the number of readings (Bonferroni), so
    that of evaluations that only chance tells apart at most that share fails.

    Args:
      first: a result.
      second: another, the reference.
      level: above it in (0, 1) the readings are called compatible.
    """
    from scipy import stats

    if not 0 < level < 1:
        raise UserError(f"{level=}, expected above 0 and below 1")
    same = np.array_equal(first.indices, second.indices) and np.array_equal(
        first.clean_images, second.clean_images
    )
    found = []
    for name, read in _BINARY.items():
        a, b = read(first), read(second)
        if same:
            p, test = statistics.paired_gap(a, b).p_value, "McNemar on the same images"
        else:
            table = [[r.sum(), (~r).sum()] for r in (a, b)]
            p, test = (
                float(np.asarray(stats.fisher_exact(table))[1]),
                "Fisher on two samples",
            )
        found.append(Agreement(name, a.mean(), b.mean(), p, test, True))
    return [each._replace(ok=each.p_value >= level / len(found)) for each in found]


_BINARY: dict[str, Callable[[Result], np.ndarray]] = {
    "clean headline": lambda r: r.clean[:, 0],
    "headline": lambda r: r.robust[:, 0],
    "worst of N": lambda r: np.all(r.robust, axis=1),
    "majority vote": lambda r: statistics.majority_vote(r.logits, r.labels),
}
