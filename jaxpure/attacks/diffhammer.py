"""DiffHammer (Wang et al. 2024, NeurIPS): a gradient of the draws that can fall together.

Averaging the gradients of many purifications pulls between those with a weakness in common
and those without. DiffHammer weighs them (section 4.1): by expectation-maximisation it
looks for the change of the purified images that takes most of them over the boundary, and
takes part mostly for those that it does take. The weighted gradient at the purified images
then goes back through one purification alone, the representative (gradient grafting,
section 4.2), so that a step costs n forward passes and one with a gradient.

Its draws also evaluate the iterate, before it is moved: the largest share of draws fooled
at any iterate, and whether any was, are the paper's N-evaluation (`Progress.lost`).

Choices, where the paper leaves one: the loss is the margin, which changes sign where the
class does; the change that a gradient r stands for is the point of the ball furthest along
it. As the authors' code has it, the representative is the draw whose own change the others
gain most by, losses counted through `elu`, and a step takes up a share
`(step + 1)^-alpha` of the new gradient and keeps the rest of the last. Unlike it, r is
renewed in every round of the EM, as in the paper's Algorithm 1.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.attacks.balls import NormBall, ascend, check_ball
from jaxpure.attacks.progress import Budget, Example, Progress, init_progress
from jaxpure.attacks.verdict import Criterion, check_criterion, judge_draws
from jaxpure.errors import UserError, check_range
from jaxpure.keys import Key, stream
from jaxpure.losses import loss_of
from jaxpure.objective import Evaluation, Objective, clean_gradient
from jaxpure.policy import Policy
from jaxpure.pytrees import Static, pytree
from jaxpure.types import Image, Label

NORMS = ("linf", "l2", "l1")


class HammerState(NamedTuple):
    """All of the attack's progress on one image.

    Attributes:
      example: what is attacked.
      x: `(H, W, C)` the iterate that the next step evaluates.
      gradient: `(H, W, C)` that the last step followed.
      progress: what every attack keeps.
    """

    example: Example
    x: Image
    gradient: jax.Array
    progress: Progress


class Draws(NamedTuple):
    """What n purifications of one image tell.

    Attributes:
      logits: `(n, classes)`.
      losses: `(n,)`.
      gradients: `(n, H, W, C)` of the losses at the purified images.
    """

    logits: jax.Array
    losses: jax.Array
    gradients: jax.Array


@pytree
class DiffHammer:
    """DiffHammer with its N-evaluation.

    An image is evaluated `num_steps + 1` times under the policy's gradient keys, and moved
    `num_steps` times. Where the attack sees exactly what will judge it (all replayed), it
    stops at the first misclassification.

    Attributes:
      step_size: length of a step.
      num_steps: updates (150 in the paper).
      eot_samples: purifications of a step (10 in the paper).
      random_start: begin at a random point of the ball instead of at the image.
      criterion: which iterate is the best; see `verdict.CRITERIA`.
      em_lambda: sharpness of the weights (5 in the paper).
      em_alpha: power by which a new gradient's share falls (0.5 in the paper).
      em_steps: rounds of the EM (5 in the paper).
    """

    step_size: float = 2 / 255
    num_steps: int = 150
    eot_samples: Static[int] = 10
    random_start: Static[bool] = True
    criterion: Static[Criterion] = "most"
    em_lambda: float = 5.0
    em_alpha: float = 0.5
    em_steps: Static[int] = 5

    def __post_init__(self):
        check_range(0, above=True, step_size=self.step_size)
        check_range(1, num_steps=self.num_steps, em_steps=self.em_steps)
        check_range(0, em_lambda=self.em_lambda, em_alpha=self.em_alpha)
        check_criterion(self.criterion)

    def objective(self, defense: Any, policy: Policy) -> Objective:
        if not (hasattr(defense, "purifier") and hasattr(defense, "classifier")):
            raise UserError(
                "diffhammer looks at purified images: it needs a defense with a purifier "
                "and a classifier; for another use pgd"
            )
        return Objective(defense, policy, "margin", eot_samples=self.eot_samples)

    def budget(self, objective: Objective) -> Budget:
        """The draws of a step, and the representative once more with its gradient."""
        draws = objective.gradient_draws
        return Budget(self.num_steps + 1, 1, draws, draws)

    def undefended(self) -> "DiffHammer":
        return dataclasses.replace(self, criterion="most")

    def init(
        self, objective: Objective, ball: NormBall, key: Key, x: Image, label: Label
    ) -> HammerState:
        del objective
        check_ball("diffhammer", ball, NORMS)
        start = ball.start(stream(key, "attack/start"), x) if self.random_start else x
        return HammerState(
            Example(key, x, label), start, jnp.zeros_like(x), init_progress(x)
        )

    def step(self, objective: Objective, ball: NormBall, state: HammerState) -> HammerState:
        example, evaluations = state.example, state.progress.evaluations
        keys = objective.gradient_keys(example.key, evaluations)
        draws = draw(objective, keys, state.x, example.label)
        verdict = judge_draws(draws.logits, example.label, self.criterion)
        seen = self._graft(objective, ball, keys, state.x, draws)
        progress = state.progress.select(state.x, verdict).count(seen)
        done = evaluations >= self.num_steps
        if objective.policy.replays_all:
            done |= verdict.broken

        share = (evaluations + 1.0) ** -self.em_alpha
        gradient = share * seen.gradient + (1 - share) * state.gradient
        gradient = gradient.astype(state.x.dtype)
        x = ascend(ball, state.x, example.image, gradient, self.step_size)
        return HammerState(example, x, gradient, progress._replace(done=done))

    def _graft(
        self, objective: Objective, ball: NormBall, keys: Any, x: Image, draws: Draws
    ) -> Evaluation:
        """The weighted gradient, back through the representative purification."""

        def direction(gradient: jax.Array) -> jax.Array:
            return ball.eps * ball.direction(gradient)

        chosen = representative(draws, direction)
        aggregated = weigh(draws, direction, chosen, self.em_lambda, self.em_steps)
        key = jax.tree.map(lambda k: k[chosen], keys)
        _, pullback = jax.vjp(partial(objective.defense.purifier, key), x)
        cleaned = clean_gradient(pullback(aggregated)[0], draws.logits)
        return Evaluation(*cleaned, finite=jnp.all(jnp.isfinite(x)))


def draw(objective: Objective, keys: Any, x: Image, label: Label) -> Draws:
    """Purifies under each key; the gradient stops at the purified image."""
    defense, loss = objective.defense, loss_of(objective.loss, label)

    def of_purified(purified):
        logits = defense.classifier(purified)
        return loss(logits), logits

    def one(key):
        purified = jax.lax.stop_gradient(defense.purifier(key, x))
        value, gradient = jax.value_and_grad(of_purified, has_aux=True)(purified)
        return Draws(value[1], value[0], gradient)

    return objective.map(one, keys)


def representative(draws: Draws, direction: Callable) -> jax.Array:
    """`()` the draw along whose own gradient all draws together would gain most."""
    changes = jax.vmap(direction)(draws.gradients)
    gains = jnp.einsum("rhwc,ihwc->ri", changes, draws.gradients)
    return jnp.argmax(jnp.sum(jax.nn.elu(draws.losses[None] + gains), 1))


def weigh(
    draws: Draws, direction: Callable, chosen: jax.Array, em_lambda: Any, em_steps: int
) -> jax.Array:
    """The mean of the draws' gradients `(H, W, C)`, weighed by EM from a chosen one on.

    E-step: a draw's weight is how likely the change along the mean takes it over the
    boundary, `sigmoid(em_lambda * (loss + gain))`. M-step: the weighed mean.
    """

    def round(_, mean):
        gains = jnp.einsum("hwc,ihwc->i", direction(mean), draws.gradients)
        chances = jax.nn.log_sigmoid(em_lambda * (draws.losses + gains))
        weights = jax.nn.softmax(chances)  # in logarithms: all may be next to nothing
        return jnp.einsum("i,ihwc->hwc", weights, draws.gradients).astype(mean.dtype)

    return jax.lax.fori_loop(0, em_steps, round, draws.gradients[chosen])
