"""StAdv: spatially transformed adversarial examples (Xiao et al. 2018, arXiv:1801.02612).

The flow that says from where each pixel is fetched is what is optimised: the attack climbs
the loss less `tau` times the flow's roughness (eqs. 2 and 4), so that neighbours move
together.

Xiao et al. minimise without a bound, by L-BFGS. Purification is judged under a bounded flow
(Laidlaw, Singla and Feizi 2021; Nie et al. 2022, Table 4): see `flow.Flow`. Then signed
steps in the flow, as PGD takes them in the image, are what this does.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.attacks.balls import check_ball
from jaxpure.attacks.flow import Flow, roughness, warp
from jaxpure.attacks.progress import Budget, Example, Progress, init_progress
from jaxpure.attacks.verdict import Criterion, check_criterion, judge_draws
from jaxpure.errors import check_range
from jaxpure.keys import Key, stream
from jaxpure.losses import loss_named
from jaxpure.objective import Average, Objective, clean_gradient
from jaxpure.policy import Policy
from jaxpure.pytrees import Static, pytree
from jaxpure.types import Image, Label

# Total step length as a multiple of the bound, so that the flow can cross the ball once.
REACH = 2.5


class StadvState(NamedTuple):
    """All of the attack's progress on one image.

    Attributes:
      example: what is attacked.
      flow: `(H, W, 2)` rows and columns, in pixels; the next step evaluates it.
      progress: what every attack keeps.
    """

    example: Example
    flow: jax.Array
    progress: Progress


@pytree
class Stadv:
    """StAdv under a bound on the flow.

    An image is evaluated `num_steps + 1` times and moved `num_steps` times; the result is
    the best iterate by the criterion. Where the attack sees exactly what will judge it
    (all replayed), it stops at the first misclassification.

    Attributes:
      num_steps: updates.
      eot_samples: draws averaged for every gradient.
      loss: what is climbed: a name of `losses.LOSSES`, or a function.
      average: see `Objective`.
      tau: weight of the flow's roughness (0.05 in the paper).
      random_start: begin at a random flow instead of at none.
      criterion: when an iterate counts as broken; see `verdict.CRITERIA`.
    """

    num_steps: int = 100
    eot_samples: Static[int] = 1
    loss: Static[str] = "margin"
    average: Static[Average] = "loss"
    tau: float = 0.05
    random_start: Static[bool] = True
    criterion: Static[Criterion] = "most"

    def __post_init__(self):
        check_range(1, num_steps=self.num_steps)
        check_range(0, tau=self.tau)
        check_criterion(self.criterion)
        loss_named(self.loss)

    def objective(self, defense: Any, policy: Policy) -> Objective:
        return Objective(defense, policy, self.loss, self.average, self.eot_samples)

    def budget(self, objective: Objective) -> Budget:
        draws = objective.selection_draws
        return Budget(
            self.num_steps + 1, objective.gradient_draws, objective.extra_draws, draws
        )

    def undefended(self) -> "Stadv":
        return dataclasses.replace(self, criterion="most")

    def init(
        self, objective: Objective, ball: Flow, key: Key, x: Image, label: Label
    ) -> StadvState:
        del objective
        check_ball("stadv", ball, ("flow",))
        flow = jnp.zeros((*x.shape[:2], 2), x.dtype)
        if self.random_start:
            flow = ball.start(stream(key, "attack/start"), x)
        return StadvState(Example(key, x, label), flow, init_progress(x))

    def step(self, objective: Objective, ball: Flow, state: StadvState) -> StadvState:
        example, evaluations = state.example, state.progress.evaluations
        x, pullback = jax.vjp(lambda flow: warp(example.image, flow), state.flow)
        seen = objective.look(example.key, evaluations, x, example.label)
        verdict = judge_draws(seen.logits, example.label, self.criterion)
        # An image of one grey has a gradient, and its flow has none.
        gradient, _, bad, zero = clean_gradient(pullback(seen.gradient)[0], seen.logits)
        seen = seen._replace(bad=jnp.maximum(bad, seen.bad), zero=zero & ~seen.bad)
        progress = state.progress.select(x, verdict).count(seen)
        done = evaluations >= self.num_steps
        if objective.policy.replays_all:
            done |= verdict.broken
        climbed = gradient - self.tau * jax.grad(roughness)(state.flow)
        step_size = REACH / self.num_steps
        return StadvState(
            example,
            ball.ascend(state.flow, example.image, climbed, step_size),
            progress._replace(done=done),
        )
