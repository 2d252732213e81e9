"""Fast Adaptive Boundary attack, targeted (FAB-T; Croce and Hein 2020, arXiv:1907.02044).

FAB looks for the nearest misclassified image, wherever it is. It takes the defense for
linear, so that the boundary to a target class is a hyperplane, and moves to a point a
little beyond the hyperplane that is near to it both from the iterate and from the image.
Whenever it finds itself misclassified it goes part of the way back to the image.

It agrees with the implementation in the auto-attack repository: the steps of Algorithm 1
of the paper without the final search along the segment to the image, for targets in the
order of the clean image's logits.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.attacks.apgd import check_targets
from jaxpure.attacks.balls import NormBall, check_ball
from jaxpure.attacks.progress import Budget, Example, Progress, init_progress
from jaxpure.attacks.verdict import judge_draws, target_class
from jaxpure.errors import check_range
from jaxpure.keys import Key, stream
from jaxpure.objective import Objective
from jaxpure.policy import Policy
from jaxpure.pytrees import Static, choose, pytree
from jaxpure.types import Image, Label

NORMS = ("linf", "l2", "l1")
SHORTEST = 1e-8  # a way to the hyperplane is never taken for shorter than this


class FabState(NamedTuple):
    """All of the attack's progress on one image.

    Attributes:
      example: what is attacked.
      target: `()` the class aimed at.
      x: `(H, W, C)` where the next step takes the gradient.
      count: `()` int32, runs finished.
      iteration: `()` int32, updates made in this run; -1: the clean image is to be seen.
      nearest: `(H, W, C)` the misclassified image of least distance, in the ball or not;
        `progress.adversarial` is this one if it is in the ball, else the clean image.
      distance: `()` its; infinite while there is none.
      progress: what every attack keeps.
    """

    example: Example
    target: jax.Array
    x: Image
    count: jax.Array
    iteration: jax.Array
    nearest: Image
    distance: jax.Array
    progress: Progress


@pytree
class Fab:
    """FAB-T with restarts.

    A run looks at the clean image, to rank the targets, and makes `num_steps` updates.
    After a run that found a misclassified image in the ball, the attack ends; else it
    goes on with the next start or target. Where the attack sees exactly what will judge
    it (all replayed), it ends at the first such image; `distance` is then no more than a
    bound on the least one.

    Gradients are taken under the policy's gradient keys, misclassification is that of
    most draws under its selection keys. An image that is misclassified to begin with, in
    all draws of its first look, is left alone.

    Attributes:
      num_steps: updates of a run (100 in the paper).
      eot_samples: draws averaged for every gradient.
      num_restarts: runs, of each target; all but the first begin at random.
      num_targets: wrong classes to aim at, the likeliest first.
      alpha_max: largest weight of the image in an update (0.1).
      eta: how far to go, in ways to the hyperplane (1.05).
      beta: how much of a misclassified change to go on with (0.9).
    """

    num_steps: int = 100
    eot_samples: Static[int] = 1
    num_restarts: int = 1
    num_targets: Static[int] = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self):
        check_range(1, num_steps=self.num_steps, num_restarts=self.num_restarts)
        check_range(1, num_targets=self.num_targets, eta=self.eta)
        check_range(0, 1, alpha_max=self.alpha_max, beta=self.beta)

    def objective(self, defense: Any, policy: Policy) -> Objective:
        return Objective(defense, policy, "targeted_margin", eot_samples=self.eot_samples)

    def budget(self, objective: Objective) -> Budget:
        """A gradient at the iterate, and a look at where it leads."""
        calls = self.num_restarts * self.num_targets * (self.num_steps + 1)
        draws = objective.selection_draws
        return Budget(calls, objective.gradient_draws, draws, draws)

    def init(
        self, objective: Objective, ball: NormBall, key: Key, x: Image, label: Label
    ) -> FabState:
        check_ball("fab", ball, NORMS)
        classes = jax.eval_shape(objective.defense, key, x).size
        check_targets(self.num_targets, classes)
        zero = jnp.zeros((), jnp.int32)
        return FabState(
            example=Example(key, x, label),
            target=(label == 0).astype(label.dtype),  # any wrong class
            x=x,
            count=zero,
            iteration=zero - 1,
            nearest=x,
            distance=jnp.full((), jnp.inf, x.dtype),
            progress=init_progress(x),
        )

    def step(self, objective: Objective, ball: NormBall, state: FabState) -> FabState:
        example, evaluations = state.example, state.progress.evaluations
        keys = objective.gradient_keys(example.key, evaluations)
        where = (example.label, state.target)
        seen = objective.gradient(keys, state.x, *where)
        margin = objective.mean_loss(seen.logits, *where).astype(state.x.dtype)
        margin = jnp.where(jnp.isfinite(margin), margin, 0)
        moved = self._move(ball, state, seen.gradient, margin)

        clean = state.iteration < 0
        looked_at = jnp.where(clean, example.image, moved)
        logits = objective.selection_logits(example.key, evaluations, looked_at)
        after = choose(
            clean,
            self._begin(ball, state, logits),
            self._advance(ball, state, moved, logits),
        )
        after = self._end_run(objective, after)
        progress = after.progress.count(seen)._replace(evaluations=evaluations + 1)
        return after._replace(progress=progress.watch(judge_draws(logits, example.label)))

    def _begin(self, ball: NormBall, state: FabState, logits: jax.Array) -> FabState:
        """After a look at the clean image: leave it alone, or take the next start."""
        example, progress = state.example, state.progress
        alone = (state.count == 0) & (judge_draws(logits, example.label).fooled == 1)
        key = jax.random.fold_in(stream(example.key, "attack/start"), state.count)
        noise = ball.random_direction(key, example.image)
        away = jnp.clip(example.image + 0.5 * ball.eps * noise, 0, 1)
        again = state.count % self.num_restarts > 0
        target = target_class(logits, example.label, state.count // self.num_restarts)
        return state._replace(
            target=target.astype(state.target.dtype),
            x=jnp.where(again, away, example.image),
            iteration=jnp.zeros_like(state.iteration),
            progress=progress._replace(
                done=progress.done | alone,
                broken_at=jnp.where(alone, progress.evaluations, progress.broken_at),
            ),
        )

    def _move(
        self, ball: NormBall, state: FabState, gradient: jax.Array, margin: jax.Array
    ) -> Image:
        """The next point, for a defense that were linear with this margin at `state.x`."""
        x, original = state.x, state.example.image
        # What of the margin is left to gain, from here and from the image.
        from_image = margin + jnp.vdot(gradient, original - x)
        forward = to_hyperplane(ball.name, x, gradient, -margin)
        sideways = to_hyperplane(ball.name, original, gradient, -from_image)
        length, other = (
            jnp.maximum(ball.distance(way, jnp.zeros_like(way)), SHORTEST)
            for way in (forward, sideways)
        )
        bias = jnp.minimum(length / (length + other), self.alpha_max)
        ahead = x + self.eta * forward
        beside = original + self.eta * sideways
        return jnp.clip((1 - bias) * ahead + bias * beside, 0, 1)

    def _advance(
        self, ball: NormBall, state: FabState, x: Image, logits: jax.Array
    ) -> FabState:
        """After a look at the next point: keep it if it is the nearest, and go back."""
        original, progress = state.example.image, state.progress
        wrong = judge_draws(logits, state.example.label).broken
        distance = ball.distance(x, original)
        nearer = wrong & (distance < state.distance)
        hit = nearer & (distance <= ball.eps)
        back = original + self.beta * (x - original)
        return state._replace(
            x=jnp.where(wrong, back, x),
            iteration=state.iteration + 1,
            nearest=jnp.where(nearer, x, state.nearest),
            distance=jnp.where(nearer, distance, state.distance),
            progress=progress._replace(
                adversarial=jnp.where(hit, x, progress.adversarial),
                broken_at=progress.first_broken(hit),
            ),
        )

    def _end_run(self, objective: Objective, state: FabState) -> FabState:
        """On to the next run where this one is at its end; done where all are."""
        progress = state.progress
        ended = state.iteration >= self.num_steps
        last = state.count + 1 >= self.num_restarts * self.num_targets
        done = progress.done | ended & (progress.broken | last)
        if objective.policy.replays_all:
            done |= progress.broken
        next_run = state._replace(
            x=state.example.image,
            count=state.count + 1,
            iteration=jnp.full_like(state.iteration, -1),
        )
        return choose(ended, next_run, state)._replace(
            progress=progress._replace(done=done)
        )


def to_hyperplane(norm: str, x: Image, normal: jax.Array, gap: jax.Array) -> jax.Array:
    """The least change of `x` in the norm that gains `gap` along `normal`, in the box.

    That is the `d` of least norm with `sum(normal * d) = gap` and `x + d` in [0, 1]; where
    the box does not reach the hyperplane, the corner that comes nearest to it
    (Croce and Hein 2020, section 2.2).

    Args:
      norm: of the change.
      x: `(H, W, C)` in [0, 1].
      normal: `(H, W, C)` of the hyperplane.
      gap: `()` of any sign.
    """
    direction = (jnp.sign(normal) * jnp.where(gap < 0, -1, 1)).astype(x.dtype)
    weight = jnp.abs(normal).ravel()
    room = jnp.where(direction > 0, 1 - x, jnp.where(direction < 0, x, 0)).ravel()
    if norm == "l1":
        size = _fill_in_turn(weight, room, jnp.abs(gap))
    else:
        speed = weight if norm == "l2" else jnp.sign(weight)
        size = _fill_together(weight, speed, room, jnp.abs(gap))
    return direction * size.reshape(x.shape)


def _fill_together(weight, speed, room, gap):
    """Sizes `min(level * speed, room)` whose sum by `weight` is `gap`: `(n,)`.

    `gained(level) = sum(weight * min(level * speed, room))` rises with the level, linearly
    between breakpoints, the levels at which a room is full.
    """
    full_at = jnp.where(speed > 0, room / jnp.where(speed > 0, speed, 1), 0)
    order = jnp.argsort(full_at)
    breakpoints = full_at[order]
    filled = jnp.cumsum((weight * room)[order])
    slopes = jnp.cumsum((weight * speed)[order][::-1])[::-1]  # from each on
    none = jnp.zeros_like(filled[:1])
    slopes_after = jnp.concatenate([slopes[1:], none])
    gained_at = filled + jnp.where(slopes_after > 0, breakpoints * slopes_after, 0)
    first = jnp.sum(gained_at < gap)  # the first room that need not be filled
    reached = first < len(gained_at)
    slope = slopes[jnp.minimum(first, len(gained_at) - 1)]
    missing = gap - jnp.concatenate([none, filled])[first]
    level = jnp.maximum(missing, 0) / jnp.where(slope > 0, slope, 1)
    return jnp.where(reached, jnp.minimum(level * speed, room), room)


def _fill_in_turn(weight, room, gap):
    """Sizes whose sum by `weight` is `gap`, the largest weights filled first: `(n,)`."""
    order = jnp.argsort(weight, descending=True)
    weight, sorted_room = weight[order], room[order]
    gains = weight * sorted_room
    missing = gap - (jnp.cumsum(gains) - gains)
    size = jnp.clip(missing / jnp.where(weight > 0, weight, 1), 0, sorted_room)
    return jnp.zeros_like(room).at[order].set(size)
