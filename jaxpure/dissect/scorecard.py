"""A scorecard of one defense: is its robustness real, or do its gradients hide?

Each line is one check that Athalye et al. 2018 (arXiv:1802.00420, section 3.1) or Carlini
et al. 2019 (arXiv:1902.06705, the checklist) ask of an evaluation: a measured number, its
95% interval, and what it says. All attacks are judged under the same keys on the same
images, so that their gaps are paired.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxpure.attacks import BALLS, Pgd, Square
from jaxpure.data import Dataset
from jaxpure.data import load as load_data
from jaxpure.defenses import noise_parts
from jaxpure.dissect.results import Result
from jaxpure.errors import UserError, check_in, check_range
from jaxpure.evaluation import Result as Evaluation
from jaxpure.evaluation import evaluate
from jaxpure.evaluation.statistics import paired_gap, wilson
from jaxpure.evaluation.told import OnProgress
from jaxpure.keys import Key, defense_key, example_key
from jaxpure.losses import margin
from jaxpure.specs import build

Verdict = Literal["masked", "clear", "undecided"]

ATHALYE = "Athalye et al. 2018, 3.1"
CARLINI = "Carlini et al. 2019, checklist"
RISES = 0.75  # of images at least, where the gradient leads up


class Line(NamedTuple):
    """One check.

    Attributes:
      check: its name.
      measured: what the number is.
      value: the number, a share of the images or a difference of two.
      low: lower end of its 95% interval.
      high: upper end.
      images: how many it is of.
      verdict: "masked" where more is broken than the plain attack shows, "clear" where
        nothing of the kind is hidden, "undecided" where so few images cannot tell.
      answers: the item that it answers.
    """

    check: str
    measured: str
    value: float
    low: float
    high: float
    images: int
    verdict: Verdict
    answers: str

    def __str__(self) -> str:
        value, low, high = (100 * x for x in (self.value, self.low, self.high))
        return f"{self.check}: {value:.1f} ({low:.1f} to {high:.1f}), {self.verdict}"


@dataclass(frozen=True)
class Scorecard:
    """All checks of one defense.

    Attributes:
      lines: those that were made.
      left_out: why a check has no meaning for this defense, by its name.
      about: what was evaluated, in text.
    """

    lines: tuple[Line, ...]
    left_out: dict[str, str]
    about: dict[str, Any]

    @property
    def masked(self) -> list[str]:
        """Names of the checks that found masking."""
        return [line.check for line in self.lines if line.verdict == "masked"]

    @property
    def verdict(self) -> Verdict:
        """ "masked" if any check says so, "clear" if all are clear."""
        if self.masked:
            return "masked"
        clear = all(line.verdict == "clear" for line in self.lines)
        return "clear" if clear else "undecided"

    def __getitem__(self, check: str) -> Line:
        for line in self.lines:
            if line.check == check:
                return line
        why = self.left_out.get(check)
        names = ", ".join(line.check for line in self.lines)
        raise UserError(
            f"no line {check!r}: left out, {why}"
            if why
            else f"no line {check!r}; there are {names}"
        )

    def result(self) -> Result:
        """The lines as named columns."""
        columns = {
            name: np.array([getattr(line, name) for line in self.lines])
            for name in Line._fields
        }
        ends = {"low": "value_low", "high": "value_high"}
        columns = {ends.get(name, name): column for name, column in columns.items()}
        about = "checks for masked gradients; value with its 95% interval, over images"
        notes = {name: str(value) for name, value in self.about.items()}
        return Result("scorecard", about, columns, notes)

    def to_csv(self, path: epath.PathLike) -> None:
        """Writes the lines as a CSV file, what was evaluated in comments above."""
        self.result().write(path)

    def __str__(self) -> str:
        heads = (
            "check",
            "measured, in points",
            "value (95% interval)",
            "verdict",
            "answers",
        )
        rows: list[tuple[str, ...]] = [heads]
        for line in self.lines:
            value, low, high = (100 * x for x in (line.value, line.low, line.high))
            number = f"{value:.1f} ({low:.1f} to {high:.1f})"
            rows.append((line.check, line.measured, number, line.verdict, line.answers))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        text = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        text += [f"left out: {name}, {why}" for name, why in self.left_out.items()]
        found = ", ".join(self.masked) or "no check"
        about = (
            f"{self.about['images']} images of {self.about['data']}, {self.about['ball']}"
        )
        return "\n".join([about, "", *text, "", f"{self.verdict}: masked by {found}"])


@dataclass(frozen=True)
class Attempts:
    """Evaluations by name, each made when it is first asked for.

    Attributes:
      make: evaluates the attempt of this name.
      made: those that were.
      tolerance: a difference below it does not matter.
    """

    make: Callable[[str], Evaluation]
    made: dict[str, Evaluation]
    tolerance: float

    def robust(self, name: str) -> np.ndarray:
        """`(n,)` bool, whether each image is right under judging key 0."""
        if name not in self.made:
            self.made[name] = self.make(name)
        return self.made[name].robust[:, 0]

    def more(self, check: str, measured: str, weak: str, strong: str, answers: str) -> Line:
        """How much more the attempt finds that should find no more than the other.

        Args:
          check: the line's name.
          measured: what the number is.
          weak: attempt whose robust accuracy is taken for the defense's.
          strong: attempt that a sound defense gives no advantage.
          answers: the item.
        """
        gap = paired_gap(self.robust(weak), self.robust(strong))
        clear = gap.high <= self.tolerance
        verdict = judge(gap.low > 0 and not clear, clear)
        return Line(check, measured, gap.gap, gap.low, gap.high, gap.n, verdict, answers)

    def averaging(
        self, check: str, measured: str, one: str, many: str, known: str, answers: str
    ) -> Line:
        """What averaging over draws gains, where knowing the draw gains something.

        Args:
          check: the line's name.
          measured: what the number is.
          one: attempt that follows one draw of noise at a time.
          many: attempt that averages over draws.
          known: attempt that knows the draw.
          answers: the item.
        """
        gap = paired_gap(self.robust(one), self.robust(many))
        real = paired_gap(self.robust(one), self.robust(known))
        matters = real.high > self.tolerance
        useless = gap.high <= self.tolerance
        verdict = judge(
            real.low > 0 and matters and useless,
            not matters or (gap.low > 0 and not useless),
        )
        return Line(check, measured, gap.gap, gap.low, gap.high, gap.n, verdict, answers)

    def falls(self, check: str, measured: str, near: str, far: str, answers: str) -> Line:
        """How much lower the accuracy is in the larger ball, which has to be lower."""
        gap = paired_gap(self.robust(near), self.robust(far))
        much_is_left = wilson(self.robust(far)).low > self.tolerance
        none_is_left = not self.robust(far).any()
        verdict = judge(
            gap.high <= self.tolerance and much_is_left, gap.low > 0 or none_is_left
        )
        return Line(check, measured, gap.gap, gap.low, gap.high, gap.n, verdict, answers)

    def rare(self, check: str, measured: str, hits: np.ndarray, answers: str) -> Line:
        """The share of images of which something is true that should be true of none."""
        if not len(hits):
            nan = float("nan")
            return Line(check, measured, nan, nan, nan, 0, "undecided", answers)
        share = wilson(hits)
        verdict = judge(
            share.low > self.tolerance, share.high <= self.tolerance or not hits.any()
        )
        return Line(check, measured, *share, verdict, answers)


def judge(masked: bool, clear: bool) -> Verdict:
    """The word for two findings that exclude each other."""
    return "masked" if masked else "clear" if clear else "undecided"


def scorecard(
    defense: Any,
    dataset: Any,
    *,
    ball: Any,
    key: Key,
    num_steps: int = 20,
    step_size: float | None = None,
    eot_samples: int = 8,
    queries: int = 500,
    tolerance: float = 0.1,
    checks: Sequence[str] | None = None,
    judging_keys: int = 2,
    batch_size: int = 50,
    folder: epath.PathLike | None = None,
    progress: bool | OnProgress = False,
) -> Scorecard:
    """Looks for masked gradients in a defense, with a line for each check.

    The plain attack is PGD along the exact gradient with the noise replayed. It costs one
    evaluation; all others together about `eot_samples` + 9 times as much.

    Args:
      defense: `(key, x) -> logits`, a callable pytree, as `jp.defense` makes it.
      dataset: a `data.Dataset`, or a spec as `data.load` takes.
      ball: a ball of pixels, as "linf(8/255)".
      key: the root key.
      num_steps: updates of the plain attack, at least 2.
      step_size: of its steps; by default 2.5 times the ball's radius over `num_steps`.
      eot_samples: draws of the EOT attacks, at least 2.
      queries: of Square, the attack without gradients.
      tolerance: a share of images below which a difference does not matter; a line is
        clear where its whole interval is.
      checks: names of the lines that are wanted; by default all.
      judging_keys: as for `evaluate`.
      batch_size: images side by side on each device.
      folder: where the evaluations are kept; the same call goes on from there.
      progress: as for `evaluate`.

    Raises:
      UserError: the defense draws from a data set or a ball that do not fit, an option is
        out of range, or an attack's iterates are not finite.
    """
    check_range(2, num_steps=num_steps, eot_samples=eot_samples)
    check_range(1, queries=queries)
    check_range(0, 1, above=True, tolerance=tolerance)
    examples, ball = load_data(dataset), build(BALLS, ball)
    if getattr(ball, "name", "") not in ("linf", "l2", "l1"):
        raise UserError(
            f"the scorecard moves pixels in a ball of Linf, L2 or L1, and not in {ball}"
        )
    effort = _Effort(
        ball,
        num_steps,
        2.5 * ball.eps / num_steps if step_size is None else step_size,
        eot_samples,
        queries,
        largest=ball.largest(examples.image_shape),
    )
    attacks = _attacks(effort)

    def make(name: str) -> Evaluation:
        attack, further = attacks[name]
        usual = {"ball": ball, "key": key, "judging_keys": judging_keys}
        usual |= {"batch_size": batch_size, "progress": progress}
        place = None if folder is None else epath.Path(folder) / name
        return evaluate(defense, attack, examples, folder=place, **(usual | further))

    tries = Attempts(make, {}, tolerance)
    left_out = _left_out(defense)

    def rises(name: str) -> Line:
        return _rises(name, defense, examples, ball, key, batch_size)

    makers = _makers(effort, tries, rises)
    for name in checks or ():
        check_in("check", name, makers)
    wanted = [n for n in makers if checks is None or n in checks]
    lines = tuple(makers[n](n) for n in wanted if n not in left_out)
    left_out = {n: why for n, why in left_out.items() if n in wanted}
    about = {
        "images": len(examples),
        "data": examples.name,
        "ball": str(ball),
        "attack": f"pgd(step_size={effort.step_size:.4g},num_steps={num_steps})",
        "robust accuracy": str(wilson(tries.robust("plain"))),
        "tolerance": tolerance,
    }
    return Scorecard(lines, left_out, about)


class _Effort(NamedTuple):
    """How hard the attacks try.

    Attributes:
      ball: what the plain attack may do.
      num_steps: of the plain attack.
      step_size: of its steps.
      eot_samples: draws of the EOT attacks.
      queries: of the attack without gradients.
      largest: the radius from which every image is within reach.
    """

    ball: Any
    num_steps: int
    step_size: float
    eot_samples: int
    queries: int
    largest: float

    @property
    def doubled(self) -> float:
        """Twice the radius, or the largest."""
        return min(2 * self.ball.eps, self.largest)

    @property
    def few(self) -> int:
        """Steps of EOT at about the cost of the plain attack."""
        return max(self.num_steps // self.eot_samples, 1)

    @property
    def many(self) -> int:
        """Steps of one draw each that take as many gradients as those."""
        return self.few * self.eot_samples


def _attacks(effort: _Effort) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Each attempt's attack, and its options of `evaluate`."""
    ball, steps, few, many = effort.ball, effort.num_steps, effort.few, effort.many

    def pgd(num_steps: int = steps, scale: float = 1.0, eot: int = 1) -> Pgd:
        size = scale * effort.step_size
        return Pgd(step_size=size, num_steps=num_steps, eot_samples=eot)

    def within(radius: float) -> dict[str, Any]:
        return {"ball": dataclasses.replace(ball, eps=radius)}

    replay: dict[str, Any] = {"policy": "replay"}
    fresh: dict[str, Any] = {"policy": "fresh"}
    # One step goes as far as the ball does, from the image itself (FGSM).
    once = Pgd(step_size=ball.eps, num_steps=1, random_start=False)
    wider, widest = effort.doubled, effort.largest
    return {
        "plain": (pgd(), replay),
        "bpda": (pgd(), replay | {"gradient": "bpda"}),
        "fresh": (pgd(), fresh),
        "fresh_eot": (pgd(eot=effort.eot_samples), fresh),
        "fresh_eot_few": (pgd(few, steps / few, effort.eot_samples), fresh),
        "fresh_many": (pgd(many, steps / many), fresh),
        "one_step": (once, replay),
        "more_steps": (pgd(4 * steps), replay),
        "wider": (pgd(scale=wider / ball.eps), replay | within(wider)),
        "unbounded": (pgd(scale=widest / ball.eps), replay | within(widest)),
        "queries": (Square(num_queries=effort.queries), replay),
        "transfer": (pgd(), fresh | {"gradient": "transfer(identity)"}),
    }


def _makers(
    effort: _Effort, tries: Attempts, rises: Callable[[str], Line]
) -> dict[str, Callable[[str], Line]]:
    """What makes each line, by its name, which it is given."""
    steps, draws, few, many = (
        effort.num_steps,
        effort.eot_samples,
        effort.few,
        effort.many,
    )
    return {
        "replay gap": lambda name: tries.more(
            name,
            "fresh - replay, EOT 1",
            "fresh",
            "plain",
            f"{CARLINI}: the attacker knows the defense, its randomness included",
        ),
        "EOT against replay": lambda name: tries.more(
            name,
            f"fresh EOT {draws} - replay",
            "fresh_eot",
            "plain",
            f"{CARLINI}: ensemble over randomness (EOT) for a randomized defense",
        ),
        "EOT": lambda name: tries.averaging(
            name,
            f"fresh EOT 1 - fresh EOT {draws}",
            "fresh",
            "fresh_eot",
            "plain",
            f"{ATHALYE} and 4.2: EOT is to beat randomness, and does not",
        ),
        "steps or draws": lambda name: tries.more(
            name,
            f"EOT {draws} x {few} steps - EOT 1 x {many}",
            "fresh_eot_few",
            "fresh" if many == steps else "fresh_many",
            "Gao et al. 2022: EOT and steps at equal cost",
        ),
        "BPDA": lambda name: tries.more(
            name,
            "exact - BPDA",
            "plain",
            "bpda",
            f"{ATHALYE} and 4.1: shattered gradients, BPDA",
        ),
        "one step": lambda name: tries.more(
            name,
            f"{steps} steps - 1 step",
            "plain",
            "one_step",
            f"{ATHALYE}: one-step attacks beat iterative ones",
        ),
        "more steps": lambda name: tries.more(
            name,
            f"{steps} steps - {4 * steps} steps",
            "plain",
            "more_steps",
            f"{CARLINI}: attacks have converged",
        ),
        "larger eps": lambda name: tries.falls(
            name,
            f"eps - {effort.doubled / effort.ball.eps:.3g} eps",
            "plain",
            "wider",
            f"{ATHALYE}: a larger bound does not help the attack",
        ),
        "unbounded": lambda name: tries.rare(
            name,
            "robust, eps unbounded",
            tries.robust("unbounded"),
            f"{ATHALYE}: unbounded attacks do not reach 100%",
        ),
        "queries": lambda name: tries.more(
            name,
            f"gradients - Square, {effort.queries} queries",
            "plain",
            "queries",
            f"{ATHALYE}: black-box attacks beat white-box ones",
        ),
        "transfer": lambda name: tries.more(
            name,
            "gradients - transfer from no purifier",
            "plain",
            "transfer",
            f"{CARLINI}: transfer from a similar model",
        ),
        "loss along gradient": rises,
        "usable gradients": lambda name: tries.rare(
            name,
            "images with a gradient zero or not finite",
            _unusable(tries),
            f"{ATHALYE}: gradients that vanish, explode or do not exist",
        ),
    }


def _left_out(defense: Any) -> dict[str, str]:
    """Checks that have no meaning for this defense, and why."""
    purifier = getattr(defense, "purifier", None)
    if purifier is None:
        why = "it has no purifier whose gradient could be replaced"
        return dict.fromkeys(("BPDA", "transfer"), why)
    if hasattr(purifier, "noise_parts") and not noise_parts(purifier):
        why = "it draws no noise"
        names = ("replay gap", "EOT against replay", "EOT", "steps or draws")
        return dict.fromkeys(names, why)
    return {}


def _unusable(tries: Attempts) -> np.ndarray:
    """Of the images that the plain attack tried, those with a gradient of no use."""
    tries.robust("plain")
    plain = tries.made["plain"]
    tried = plain.evaluations > 0
    return (plain.zero_gradients + plain.bad_gradients > 0)[tried]


def _rises(
    check: str, defense: Any, examples: Dataset, ball: Any, key: Key, batch_size: int
) -> Line:
    """The share of images whose margin grows by a hundredth of the ball up the gradient."""
    images, labels = examples.floats(), examples.labels
    indices = examples.indices.astype(np.int32)
    places = [slice(i, i + batch_size) for i in range(0, len(labels), batch_size)]
    found = [
        _climbs(defense, ball, key, indices[at], images[at], labels[at]) for at in places
    ]
    share = wilson(np.concatenate(found))
    verdict = judge(share.high < RISES, share.low > RISES)
    measured, answers = (
        "images whose loss rises",
        f"{CARLINI}: the loss rises as it is climbed",
    )
    return Line(check, measured, *share, verdict, answers)


@jax.jit
def _climbs(defense, ball, root, indices, images, labels) -> jax.Array:
    """`(n,)` bool, whether a short step along the gradient raises each image's margin."""

    def one(index, image, label):
        judging = defense_key(example_key(root, index), 0)

        def loss(x):
            return margin(defense(judging, x), label)

        before, gradient = jax.value_and_grad(loss)(image)
        change = ball.eps / 100 * ball.direction(gradient)
        return loss(image + jnp.where(jnp.isfinite(change), change, 0)) > before

    return jax.vmap(one)(indices, images, labels)
