"""How an image does against the draws that an attack looks at it under.

A stochastic defense gives other logits for every key, so that "misclassified" must say of
how many draws. That is the criterion; among images that meet it, or that do not, the
better one fools more draws. Evaluations that submit an image again and again while it is
being made (DiffHammer's N-evaluation, DiffBreak's majority vote) are read off the same
looks: `Resubmission` remembers the best of them all.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.attacks.losses import margin
from jaxpure.types import Image, Label

CRITERIA = ("most", "any", "vote", "mean_logits")


class Verdict(NamedTuple):
    """What draws of the defense say of one image.

    Attributes:
      broken: `()` bool, misclassified by the criterion.
      score: `()` how far beyond or short of that: larger is worse for the defense.
      margin: `()` mean margin, best wrong logit minus the true one.
      fooled: `()` share of draws that are misclassified.
      lost: `()` share of draws that are not right: misclassified, or not finite.
      vote_lost: `()` bool, whether the class predicted most often is a wrong one, or there
        is no draw to predict any.
    """

    broken: jax.Array
    score: jax.Array
    margin: jax.Array
    fooled: jax.Array
    lost: jax.Array
    vote_lost: jax.Array

    def better_than(self, other: "Verdict") -> jax.Array:
        """By criterion, then score, then margin."""
        higher = (self.score > other.score) | (
            (self.score == other.score) & (self.margin > other.margin)
        )
        return (self.broken & ~other.broken) | ((self.broken == other.broken) & higher)


def judge_draws(logits: jax.Array, label: Label, criterion: str = "most") -> Verdict:
    """The verdict of draws `(n, classes)`.

    A draw that is not finite counts for nothing in the search, which is not for such
    images; but it is not right either, so that it is lost.

    Args:
      logits: of the draws.
      label: the true class.
      criterion: an image is broken where "most" (more than half) of the draws are
        misclassified, where "any" of them is (resubmission), where the "vote" goes to a
        wrong class (of the classes predicted most often the lowest, as in the report's
        majority vote), or where the "mean_logits" are wrong (Hill et al. 2021).
    """
    finite = jnp.all(jnp.isfinite(logits), -1)
    predicted = jnp.argmax(logits, -1)
    fooled = jnp.mean((finite & (predicted != label)).astype(logits.dtype))
    margins = jax.vmap(margin, (0, None))(logits, label)
    votes = jnp.sum(jax.nn.one_hot(predicted, logits.shape[-1]) * finite[:, None], 0)
    outvoted = (jnp.argmax(votes) != label) & jnp.any(finite)
    right = finite & (predicted == label)
    mean = jnp.mean(logits, 0)
    sound = jnp.all(jnp.isfinite(mean))
    broken, score = {
        "most": (fooled > 0.5, fooled),
        "any": (fooled > 0, fooled),
        "vote": (outvoted, margin(votes, label) / len(logits)),
        "mean_logits": (
            sound & (jnp.argmax(mean) != label),
            jnp.where(sound, margin(mean, label), -jnp.inf),
        ),
    }[criterion]
    return Verdict(
        broken,
        score.astype(logits.dtype),
        jnp.mean(jnp.where(finite, margins, -jnp.inf)),
        fooled,
        1 - jnp.mean(right.astype(logits.dtype)),
        outvoted | ~jnp.any(finite),
    )


def no_verdict(x: Image) -> Verdict:
    """Worse than the verdict of any image."""
    low, no = jnp.full((), -jnp.inf, x.dtype), jnp.zeros((), bool)
    zero = jnp.zeros((), x.dtype)
    return Verdict(no, low, low, zero, zero, no)


class Resubmission(NamedTuple):
    """The best of all looks of an attack, whatever its criterion.

    Attributes:
      fooled: `()` the largest share of draws that were lost on any iterate: above 0, one
        draw of one iterate was not right.
      outvoted: `()` bool, whether the vote on any iterate was lost.
    """

    fooled: jax.Array
    outvoted: jax.Array

    def after(self, verdict: Verdict) -> "Resubmission":
        return Resubmission(
            jnp.maximum(self.fooled, verdict.lost), self.outvoted | verdict.vote_lost
        )


def started(x: Image) -> dict[str, jax.Array]:
    """The fields of types.AttackProgress before the first look at image `x`."""
    zero = jnp.zeros((), jnp.int32)
    return {
        "adversarial": x,
        "step": zero,
        "done": jnp.zeros((), bool),
        "broken_at": zero - 1,
        "bad_gradients": zero,
        "zero_gradients": zero,
    }


def started_to_select(x: Image) -> dict[str, Any]:
    """`started`, and what `keep_best` keeps."""
    nothing = no_verdict(x)
    resubmission = Resubmission(nothing.lost, nothing.vote_lost)
    return {**started(x), "verdict": nothing, "resubmission": resubmission}


def keep_best(state: Any, image: Image, verdict: Verdict) -> Any:
    """An attack's state after a look at `image`, which it keeps if it is the best so far.

    The state is a NamedTuple with `adversarial`, `verdict` (that image's), `resubmission`,
    `broken_at` and `step`.
    """
    better = verdict.better_than(state.verdict)
    first = verdict.broken & (state.broken_at < 0)
    return state._replace(
        adversarial=jnp.where(better, image, state.adversarial),
        verdict=jax.tree.map(lambda a, b: jnp.where(better, a, b), verdict, state.verdict),
        resubmission=state.resubmission.after(verdict),
        broken_at=jnp.where(first, state.step, state.broken_at),
        step=state.step + 1,
    )


def check_criterion(criterion: str) -> None:
    if criterion not in CRITERIA:
        raise ValueError(f"{criterion=}, expected one of {', '.join(CRITERIA)}")


def rival(logits: jax.Array, label: Label, rank: jax.Array) -> jax.Array:
    """The wrong class of this rank by mean logit over draws `(n, classes)`; 0: highest."""
    mean = jnp.mean(logits, 0)
    first = jnp.arange(mean.size) == label
    return jnp.argsort(jnp.where(first, jnp.inf, mean), descending=True)[rank + 1]
