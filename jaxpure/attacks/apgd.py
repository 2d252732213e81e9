"""Auto-PGD (Croce and Hein 2020, arXiv:2003.01690, Algorithm 1), with its L1 version
(Croce and Hein 2021, arXiv:2103.01208) and its targeted one (APGD-T).

PGD with momentum that chooses its own step size: it begins long, and at checkpoints,
where the loss has not risen often enough, the step is shortened and the search goes on
from its best point. In L1 an update changes only some of the pixels, and how many follows
from how many the best point changes.

It agrees, iterate by iterate, with the authors' implementation in the auto-attack
repository, whose habits it keeps where the paper says less or otherwise:

- The first checkpoint compares the first update's loss with 0, not with the start's.
- The result is the last misclassified iterate, the start included, and not the one of
  highest loss.
- After a step back to the best point, the momentum is that point minus the iterate
  before: the step back counts as movement.
- Targets are ranked by the clean image's logits, looked at anew before every run.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.attacks.apgd_schedule import (
    Run,
    check_progress,
    check_support,
    new_run,
    observe,
)
from jaxpure.attacks.balls import NormBall, check_ball
from jaxpure.attacks.progress import Budget, Example, Progress, init_progress
from jaxpure.attacks.verdict import judge_draws, target_class
from jaxpure.errors import UserError, check_in, check_range
from jaxpure.keys import Key, drawn, stream
from jaxpure.losses import is_ratio, is_targeted, loss_named, loss_of
from jaxpure.objective import Evaluation, Objective
from jaxpure.policy import Policy
from jaxpure.pytrees import Static, choose, pytree
from jaxpure.types import Image, Label

NORMS = ("linf", "l2", "l1")
MOMENTUM = 0.25  # share of the last movement in an update, from the second one on


class ApgdState(NamedTuple):
    """All of the attack's progress on one image.

    Attributes:
      example: what is attacked.
      target: `()` the class aimed at.
      x: `(H, W, C)` what the next step evaluates.
      count: `()` int32, runs finished.
      iteration: `()` int32; -1: the clean image; 0: the start; i: after update i.
      run: the run under way.
      highest_loss: `()` of all runs.
      progress: what every attack keeps.
    """

    example: Example
    target: jax.Array
    x: Image
    count: jax.Array
    iteration: jax.Array
    run: Run
    highest_loss: jax.Array
    progress: Progress


@pytree
class Apgd:
    """APGD with restarts or targets.

    A run evaluates the clean image, a random start, and `num_steps` updates of it. After
    a run that misclassified, the attack ends; else it goes on with the next start or
    target. Where the attack sees exactly what will judge it (all replayed), it ends at
    the first misclassification. The result is the last misclassified iterate, or the one
    of highest loss where none is.

    An image that is misclassified to begin with, in all draws of its first look, is left
    alone.

    Attributes:
      num_steps: updates of a run (100 in the paper).
      eot_samples: draws averaged for every gradient.
      loss: "cross_entropy", "dlr", "margin" or another of `losses.LOSSES`, or a function;
        "targeted_dlr" makes it APGD-T.
      num_restarts: runs, of each target.
      num_targets: wrong classes that a targeted loss aims at, the likeliest first.
      rho: share of the updates that must raise the loss for the step to stay (0.75).
      selection: whose draws tell loss and misclassification: "reference", the last of the
        gradient's, as in auto-attack; "consistent", the mean over the policy's selection
        keys. Where all draws are the same, so are both.
      auxiliary_loss: see `Objective`.
    """

    num_steps: int = 100
    eot_samples: Static[int] = 1
    loss: Static[str] = "cross_entropy"
    num_restarts: int = 1
    num_targets: Static[int] = 9
    rho: float = 0.75
    selection: Static[Literal["reference", "consistent"]] = "reference"
    auxiliary_loss: Any = None

    def __post_init__(self):
        check_range(1, num_steps=self.num_steps, num_restarts=self.num_restarts)
        check_range(1, num_targets=self.num_targets)
        check_range(0, 1, rho=self.rho)
        check_in("selection", self.selection, ("reference", "consistent"))
        loss_named(self.loss)

    @property
    def targets(self) -> int:
        return self.num_targets if is_targeted(self.loss) else 1

    def objective(self, defense: Any, policy: Policy) -> Objective:
        return Objective(
            defense,
            policy,
            self.loss,
            eot_samples=self.eot_samples,
            auxiliary_loss=self.auxiliary_loss,
        )

    def budget(self, objective: Objective) -> Budget:
        consistent = self.selection == "consistent"
        return Budget(
            self.num_restarts * self.targets * (self.num_steps + 2),
            objective.gradient_draws,
            objective.extra_draws if consistent else 0,
            objective.selection_draws if consistent else objective.gradient_draws,
        )

    def init(
        self, objective: Objective, ball: NormBall, key: Key, x: Image, label: Label
    ) -> ApgdState:
        check_ball("apgd", ball, NORMS)
        logits = jax.eval_shape(objective.defense, key, x)
        jax.eval_shape(loss_of(self.loss, label, label), logits)  # classes enough for it
        check_targets(self.targets, logits.size)
        zero = jnp.zeros((), jnp.int32)
        return ApgdState(
            example=Example(key, x, label),
            target=(label == 0).astype(label.dtype),  # any wrong class
            x=x,
            count=zero,
            iteration=zero - 1,
            run=new_run(x, ball.eps, self.num_steps, sparse=ball.name == "l1"),
            highest_loss=jnp.full((), -jnp.inf, x.dtype),
            progress=init_progress(x),
        )

    def step(self, objective: Objective, ball: NormBall, state: ApgdState) -> ApgdState:
        seen = self._look(objective, state)
        after = choose(
            state.iteration < 0,
            self._begin(ball, state, seen),
            self._advance(objective, ball, state, seen),
        )
        progress = after.progress.count(seen)._replace(
            evaluations=state.progress.evaluations + 1
        )
        return after._replace(progress=progress)

    def _look(self, objective: Objective, state: ApgdState) -> Evaluation:
        key, step = state.example.key, state.progress.evaluations
        where = (state.x, state.example.label, state.target)
        if self.selection == "consistent":
            return objective.look(key, step, *where)
        return objective.gradient(objective.gradient_keys(key, step), *where)

    def _begin(self, ball: NormBall, state: ApgdState, seen: Evaluation) -> ApgdState:
        """After a look at the clean image: leave it alone, or take the next start."""
        example, progress = state.example, state.progress
        alone = (state.count == 0) & (judge_draws(seen.logits, example.label).fooled == 1)
        key = jax.random.fold_in(stream(example.key, "attack/start"), state.count)
        rank = state.count // self.num_restarts
        target = target_class(seen.logits, example.label, rank)
        return state._replace(
            target=target.astype(state.target.dtype),
            x=random_start(ball, key, example.image),
            iteration=jnp.zeros_like(state.iteration),
            run=new_run(example.image, ball.eps, self.num_steps, sparse=ball.name == "l1"),
            progress=progress._replace(
                done=progress.done | alone,
                broken_at=jnp.where(alone, progress.evaluations, progress.broken_at),
            ),
        )

    def _advance(
        self, objective: Objective, ball: NormBall, state: ApgdState, seen: Evaluation
    ) -> ApgdState:
        """After the evaluation of an iterate: to the next, or to the next run."""
        example = state.example
        logits = seen.logits[-1:] if self.selection == "reference" else seen.logits
        loss = objective.mean_loss(logits, example.label, state.target)
        loss = loss.astype(state.highest_loss.dtype)
        wrong = judge_draws(logits, example.label).broken
        progress = state.progress.watch(judge_draws(seen.logits, example.label))
        higher = loss > state.highest_loss
        kept = wrong | (~progress.broken & higher)
        progress = progress._replace(
            adversarial=jnp.where(kept, state.x, progress.adversarial),
            broken_at=progress.first_broken(wrong),
        )

        run = observe(state.run, state.iteration, state.x, seen.gradient, loss)
        if ball.name == "l1":
            checked, back = check_support(run, example.image, ball.eps)
        else:
            checked, back = check_progress(run, self.rho, self.num_steps)
        due = run.since == run.window
        back = due & back
        run = choose(due, checked, run)
        x = jnp.where(back, run.best, state.x)
        gradient = jnp.where(back, run.best_gradient, seen.gradient)
        moved = self._move(objective, ball, state, run, x, gradient)

        ended = state.iteration >= self.num_steps
        last = state.count + 1 >= self.num_restarts * self.targets
        done = ended & (progress.broken | last)
        if objective.policy.replays_all:
            done |= wrong
        return state._replace(
            x=jnp.where(ended, example.image, moved),
            count=state.count + ended,
            iteration=jnp.where(ended, -1, state.iteration + 1),
            run=run._replace(previous=x),
            highest_loss=jnp.where(higher, loss, state.highest_loss),
            progress=progress._replace(done=done),
        )

    def _move(
        self,
        objective: Objective,
        ball: NormBall,
        state: ApgdState,
        run: Run,
        x: Image,
        gradient: jax.Array,
    ) -> Image:
        """The next iterate, from `x` and the gradient there."""
        original = state.example.image
        if ball.name == "l1":
            return sparse_ascend(ball, x, original, gradient, run.step_size, run.share)
        if ball.name == "linf":
            direction = jnp.sign(gradient)
        else:
            # The ratio of dlr is flat but for its own 1e-12 where the true class is third:
            # nothing to go far for. Other losses have tiny gradients that are sound.
            direction = l2_unit(gradient, jnp.inf if is_ratio(objective.loss) else 1e-6)
        moved = project(ball, x + run.step_size * direction, original)
        momentum = jnp.where(state.iteration > 0, MOMENTUM, 0).astype(x.dtype)
        blend = x + (moved - x) * (1 - momentum) + (x - run.previous) * momentum
        return project(ball, blend, original)


def random_start(ball: NormBall, key: Key, x: Image) -> Image:
    """A point on the ball's edge; in L1, the nearest one to Gaussian noise."""
    if ball.name == "l1":
        return ball.project(x + drawn(jax.random.normal, key, x.shape, x.dtype), x)
    return jnp.clip(x + ball.eps * ball.random_direction(key, x), 0, 1)


def project(ball: NormBall, x: Image, centre: Image) -> Image:
    """Into the ball and the box; in L2, a trillionth further in than need be, as in the
    reference: see `l2_unit`."""
    if ball.name != "l2":
        return ball.project(x, centre)
    delta = x - centre
    length = jnp.minimum(jnp.linalg.norm(delta.ravel()), ball.eps)
    return jnp.clip(centre + length * l2_unit(delta), 0, 1)


def l2_unit(vector: jax.Array, most: float = 1e-6) -> jax.Array:
    """The vector over its L2 norm plus 1e-12, as in the reference; 0 for 0.

    The addend is at most this share of the norm, so that the gradient of a confident
    classifier, however small, keeps its direction; its squares, which underflow in
    float32, are of a scaled vector.
    """
    largest = jnp.max(jnp.abs(vector))
    scale = jnp.where(largest > 0, largest, 1)
    scaled = vector / scale
    length = jnp.where(largest > 0, jnp.linalg.norm(scaled.ravel()), 1)
    return scaled / (length + jnp.minimum(1e-12 / scale, most * length))


def sparse_ascend(
    ball: NormBall, x: Image, original: Image, gradient: jax.Array, step_size, share
) -> Image:
    """A step along the signs of the largest gradients, a `share` of them, in L1."""
    size = jnp.abs(gradient).ravel()
    place = jnp.clip((1 - share) * x.size, 0, x.size - 1).astype(jnp.int32)
    threshold = jnp.sort(size)[place]
    signs = jnp.where(jnp.abs(gradient) >= threshold, jnp.sign(gradient), 0)
    direction = signs / jnp.maximum(jnp.sum(jnp.abs(signs)), 1)
    return ball.project(x + step_size * direction, original)


def check_targets(num_targets: int, classes: int) -> None:
    """Raises UserError where a defense has too few classes for so many targets."""
    if num_targets > classes - 1:
        raise UserError(
            f"{num_targets=} is more than the wrong classes of a defense with {classes} "
            f"classes; use at most {classes - 1}"
        )
