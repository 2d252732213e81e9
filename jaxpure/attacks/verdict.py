"""How an image does against the draws that an attack looks at it under.

A stochastic defense gives other logits for every key, so that "misclassified" must say of
how many draws. That is the criterion; among images that meet it, or that do not, the
better one fools more draws.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.errors import check_in
from jaxpure.losses import margin
from jaxpure.types import Image, Label

Criterion = Literal["most", "any", "vote", "mean_logits"]


class Verdict(NamedTuple):
    """What draws of the defense say of one image.

    Attributes:
      broken: `()` bool, misclassified by the criterion.
      score: `()` how far beyond or short of that: larger is worse for the defense.
      margin: `()` mean margin, best wrong logit minus the true one.
      fooled: `()` share of draws that are misclassified.
      lost: `()` share of draws that are not right: misclassified, or not finite.
      vote_lost: `()` bool, whether the class predicted most often is a wrong one, or no
        class is predicted more often than draws are not finite, as readings have it.
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


class Draws(NamedTuple):
    """What the criteria are read from.

    Attributes:
      logits: `(n, classes)`.
      label: the true class.
      finite: `(n,)` bool, whether all logits of a draw are.
      fooled: `()` share of draws that are finite and wrong.
      votes: `(classes,)` finite draws that predict each class.
    """

    logits: jax.Array
    label: Label
    finite: jax.Array
    fooled: jax.Array
    votes: jax.Array

    @property
    def outvoted(self) -> jax.Array:
        return (jnp.argmax(self.votes) != self.label) & jnp.any(self.finite)


def most(draws: Draws) -> tuple[jax.Array, jax.Array]:
    """More than half of the draws are misclassified."""
    return draws.fooled > 0.5, draws.fooled


def any_draw(draws: Draws) -> tuple[jax.Array, jax.Array]:
    """Some draw is misclassified: what resubmission breaks."""
    return draws.fooled > 0, draws.fooled


def vote(draws: Draws) -> tuple[jax.Array, jax.Array]:
    """The class predicted most often is wrong; of equals the lowest, as in readings."""
    return draws.outvoted, margin(draws.votes, draws.label) / len(draws.logits)


def mean_logits(draws: Draws) -> tuple[jax.Array, jax.Array]:
    """The mean logits are wrong (Hill et al. 2021)."""
    mean = jnp.mean(draws.logits, 0)
    sound = jnp.all(jnp.isfinite(mean))
    score = jnp.where(sound, margin(mean, draws.label), -jnp.inf)
    return sound & (jnp.argmax(mean) != draws.label), score


CRITERIA: dict[str, Callable[[Draws], tuple[jax.Array, jax.Array]]] = {
    "most": most,
    "any": any_draw,
    "vote": vote,
    "mean_logits": mean_logits,
}
"""`(draws) -> (whether the image is broken, score)`, by name."""


def judge_draws(logits: jax.Array, label: Label, criterion: str = "most") -> Verdict:
    """The verdict of draws `(n, classes)` by a criterion of CRITERIA.

    A draw that is not finite counts for nothing in the search, which is not for such
    images; but it is not right either, so that it is lost.
    """
    finite = jnp.all(jnp.isfinite(logits), -1)
    predicted = jnp.argmax(logits, -1)
    fooled = jnp.mean((finite & (predicted != label)).astype(logits.dtype))
    margins = jax.vmap(margin, (0, None))(logits, label)
    votes = jnp.sum(jax.nn.one_hot(predicted, logits.shape[-1]) * finite[:, None], 0)
    right = finite & (predicted == label)
    draws = Draws(logits, label, finite, fooled, votes)
    broken, score = CRITERIA[criterion](draws)
    return Verdict(
        broken,
        score.astype(logits.dtype),
        jnp.mean(jnp.where(finite, margins, -jnp.inf)),
        fooled,
        1 - jnp.mean(right.astype(logits.dtype)),
        draws.outvoted | (jnp.sum(~finite) >= votes[label]),
    )


def no_verdict(x: Image) -> Verdict:
    """Worse than the verdict of any image."""
    low, no = jnp.full((), -jnp.inf, x.dtype), jnp.zeros((), bool)
    zero = jnp.zeros((), x.dtype)
    return Verdict(no, low, low, zero, zero, no)


def check_criterion(criterion: str) -> None:
    """Raises UserError for an unknown criterion."""
    check_in("criterion", criterion, CRITERIA)


def target_class(logits: jax.Array, label: Label, rank: jax.Array) -> jax.Array:
    """The wrong class of this rank by mean logit over draws `(n, classes)`; 0: highest."""
    mean = jnp.mean(logits, 0)
    first = jnp.arange(mean.size) == label
    return jnp.argsort(jnp.where(first, jnp.inf, mean), descending=True)[rank + 1]
