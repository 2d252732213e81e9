"""Projected gradient descent (Madry et al. 2018, arXiv:1706.06083, eq. 2.2).

With momentum it is the iterative method of Dong et al. 2018 (eq. 6: gradients of unit
L1 norm are summed). With `average="logits"`, `random_start=False` and BPDA it makes the
updates of BPDA+EOT (Hill et al. 2021); their protocol is bpda_eot_hill's. With
`iterate="last"` on a cheaper defense (gradient `transfer`) it is the PGD+EOT of Lee and
Kim 2023.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.attacks.balls import NormBall, ascend, check_ball
from jaxpure.attacks.progress import Budget, Example, Progress, init_progress
from jaxpure.attacks.verdict import Criterion, check_criterion, judge_draws
from jaxpure.errors import check_in, check_range
from jaxpure.keys import Key, stream
from jaxpure.losses import loss_named
from jaxpure.objective import Average, Evaluation, Objective
from jaxpure.policy import Policy
from jaxpure.pytrees import Static, pytree
from jaxpure.types import Image, Label

NORMS = ("linf", "l2", "l1")


class PgdState(NamedTuple):
    """All of the attack's progress on one image.

    Attributes:
      example: what is attacked.
      x: `(H, W, C)` the iterate that the next step evaluates.
      momentum: `(H, W, C)` the sum of gradients that a step follows.
      progress: what every attack keeps.
    """

    example: Example
    x: Image
    momentum: jax.Array
    progress: Progress


@pytree
class Pgd:
    """PGD with best-iterate selection.

    An image is evaluated `num_steps + 1` times and moved `num_steps` times. The result is
    the best iterate by the criterion: by default the one that fools most selection draws,
    and among those the one of largest mean margin. Where the attack sees exactly what
    will judge it (all replayed), it stops at the first misclassification.

    Attributes:
      step_size: length of a step in the ball's norm.
      num_steps: updates.
      eot_samples: draws averaged for every gradient.
      loss: what is climbed: a name of `losses.LOSSES`, or a function.
      average: "loss" averages losses over draws, "logits" takes the loss of mean logits.
      random_start: begin at a random point of the ball instead of at the image.
      momentum: weight of the previous gradients.
      criterion: when an iterate counts as broken; see `verdict.CRITERIA`.
      iterate: "best", or "last": what is reached in the end, whatever it does. That one
        needs no selection: what is told of its iterates is of the gradient's draws.
    """

    step_size: float = 2 / 255
    num_steps: int = 50
    eot_samples: Static[int] = 1
    loss: Static[str] = "cross_entropy"
    average: Static[Average] = "loss"
    random_start: Static[bool] = True
    momentum: float = 0.0
    criterion: Static[Criterion] = "most"
    iterate: Static[Literal["best", "last"]] = "best"

    def __post_init__(self):
        check_range(0, above=True, step_size=self.step_size)
        check_range(1, num_steps=self.num_steps)
        check_range(0, momentum=self.momentum)
        check_criterion(self.criterion)
        loss_named(self.loss)
        check_in("iterate", self.iterate, ("best", "last"))

    def objective(self, defense: Any, policy: Policy) -> Objective:
        return Objective(defense, policy, self.loss, self.average, self.eot_samples)

    def budget(self, objective: Objective) -> Budget:
        best = self.iterate == "best"
        draws = objective.selection_draws if best else objective.gradient_draws
        extra = objective.extra_draws if best else 0
        return Budget(self.num_steps + 1, objective.gradient_draws, extra, draws)

    def undefended(self) -> "Pgd":
        """For a classifier without randomness, where there is one draw to judge by."""
        return dataclasses.replace(self, criterion="most", iterate="best")

    def init(
        self, objective: Objective, ball: NormBall, key: Key, x: Image, label: Label
    ) -> PgdState:
        del objective
        check_ball("pgd", ball, NORMS)
        start = ball.start(stream(key, "attack/start"), x) if self.random_start else x
        return PgdState(Example(key, x, label), start, jnp.zeros_like(x), init_progress(x))

    def step(self, objective: Objective, ball: NormBall, state: PgdState) -> PgdState:
        example, evaluations = state.example, state.progress.evaluations
        seen = self._look(objective, state)
        verdict = judge_draws(seen.logits, example.label, self.criterion)
        progress = state.progress.select(state.x, verdict).count(seen)
        if self.iterate == "last":
            progress = progress._replace(adversarial=state.x, verdict=verdict)
        done = evaluations >= self.num_steps
        if objective.policy.replays_all:
            done |= verdict.broken

        size = jnp.sum(jnp.abs(seen.gradient))
        gradient = seen.gradient / jnp.where(size > 0, size, 1)
        momentum = self.momentum * state.momentum + gradient
        x = ascend(ball, state.x, example.image, momentum, self.step_size)
        return PgdState(example, x, momentum, progress._replace(done=done))

    def _look(self, objective: Objective, state: PgdState) -> Evaluation:
        key, step = state.example.key, state.progress.evaluations
        if self.iterate == "best":
            return objective.look(key, step, state.x, state.example.label)
        keys = objective.gradient_keys(key, step)
        return objective.gradient(keys, state.x, state.example.label)
