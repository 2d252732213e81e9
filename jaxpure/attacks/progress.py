"""What every attack counts and keeps, nested in its state as `progress`.

The best image so far and what was seen of it, the evaluations spent, whether there is
nothing more to do, gradients that were of no use, and what an evaluation that submits an
image again and again while it is being made would have seen (DiffHammer's N-evaluation,
DiffBreak's majority vote).
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxpure.attacks.verdict import Verdict, no_verdict
from jaxpure.keys import Key
from jaxpure.objective import Evaluation, Objective
from jaxpure.types import Image, Label


class Example(NamedTuple):
    """The image that an attack works on.

    Attributes:
      key: the example's key.
      image: `(H, W, C)` as it is.
      label: its class.
    """

    key: Key
    image: Image
    label: Label


class Budget(NamedTuple):
    """What an attack costs at most.

    Attributes:
      calls: calls of `step` that one image can take.
      gradient_draws: evaluations of the defense with a gradient in each.
      forward_draws: evaluations without one in each.
      verdict_draws: draws that differ behind every verdict on an iterate.
    """

    calls: Any
    gradient_draws: int
    forward_draws: int
    verdict_draws: int = 1


class Progress(NamedTuple):
    """All that an evaluation reads of an attack's state.

    Attributes:
      adversarial: `(H, W, C)` the best image so far.
      verdict: of that image, by the draws that it was chosen under.
      lost: `()` the largest share of draws that were lost on any iterate: above 0, one
        draw of one iterate was not right.
      vote_lost: `()` bool, whether the vote on any iterate was lost.
      evaluations: `()` int32, evaluations of iterates so far.
      done: `()` bool, nothing more to do for this image.
      broken_at: `()` int32, the first evaluation that saw a misclassification, or -1.
      bad_gradients: `()` int32, evaluations whose gradient was not finite.
      zero_gradients: `()` int32, evaluations whose gradient was identically zero.
      nonfinite: `()` int32, evaluations of an iterate that was not finite: the search
        has gone astray, and what it leaves standing says nothing.
    """

    adversarial: jax.Array
    verdict: Verdict
    lost: jax.Array
    vote_lost: jax.Array
    evaluations: jax.Array
    done: jax.Array
    broken_at: jax.Array
    bad_gradients: jax.Array
    zero_gradients: jax.Array
    nonfinite: jax.Array

    def select(self, image: Image, verdict: Verdict) -> "Progress":
        """After an evaluation of `image`, which is kept if it is the best so far."""
        better = verdict.better_than(self.verdict)
        return self.watch(verdict)._replace(
            adversarial=jnp.where(better, image, self.adversarial),
            verdict=jax.tree.map(
                lambda a, b: jnp.where(better, a, b), verdict, self.verdict
            ),
            broken_at=self.first_broken(verdict.broken),
            evaluations=self.evaluations + 1,
        )

    def watch(self, verdict: Verdict) -> "Progress":
        """Remembers what resubmission would have seen of an iterate."""
        return self._replace(
            lost=jnp.maximum(self.lost, verdict.lost),
            vote_lost=self.vote_lost | verdict.vote_lost,
        )

    def first_broken(self, broken: jax.Array) -> jax.Array:
        """`broken_at`, were this evaluation's image `broken`."""
        first = broken & (self.broken_at < 0)
        return jnp.where(first, self.evaluations, self.broken_at)

    def count(self, seen: Evaluation) -> "Progress":
        """Counts a gradient that was of no use, and an iterate that is not finite."""
        return self._replace(
            bad_gradients=self.bad_gradients + seen.bad,
            zero_gradients=self.zero_gradients + seen.zero,
            nonfinite=self.nonfinite + ~seen.finite,
        )

    @property
    def broken(self) -> jax.Array:
        return self.broken_at >= 0


def init_progress(x: Image) -> Progress:
    """Before the first evaluation, of image `x`."""
    zero, nothing = jnp.zeros((), jnp.int32), no_verdict(x)
    return Progress(
        adversarial=x,
        verdict=nothing,
        lost=nothing.lost,
        vote_lost=nothing.vote_lost,
        evaluations=zero,
        done=jnp.zeros((), bool),
        broken_at=zero - 1,
        bad_gradients=zero,
        zero_gradients=zero,
        nonfinite=zero,
    )


@runtime_checkable
class Attack(Protocol):
    """A search for an adversarial image: hyper-parameters and nothing else.

    Its state is any pytree with a `progress`. `step` is called while that is not done.
    """

    def objective(self, defense: Any, policy: Any) -> Objective:
        """What it climbs of a defense that is already under a gradient rule.

        Raises:
          UserError: the defense is not one that this attack is for.
        """
        ...

    def budget(self, objective: Objective) -> Budget:
        """What it costs at most."""
        ...

    def init(
        self, objective: Objective, ball: Any, key: Key, x: Image, label: Label
    ) -> Any:
        """The state before the first step; `key` is the example's.

        Raises:
          UserError: the attack has no way of its own in this ball.
        """
        ...

    def step(self, objective: Objective, ball: Any, state: Any) -> Any:
        """The state after one more evaluation."""
        ...
