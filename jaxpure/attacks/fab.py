"""Fast Adaptive Boundary attack, targeted (FAB-T; Croce and Hein 2020, arXiv:1907.02044).

FAB looks for the nearest misclassified image, wherever it is. It takes the defense for
linear, so that the boundary to a target class is a hyperplane, and moves to a point a
little beyond the hyperplane that is near to it both from the iterate and from the image.
Whenever it finds itself misclassified it goes part of the way back to the image.

It agrees with the implementation in the auto-attack repository: the steps of Algorithm 1
of the paper without the final search along the segment to the image, for targets in the
order of the clean image's logits.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.attacks.norms import NORMS, random_direction
from jaxpure.attacks.objective import Objective, check_targets
from jaxpure.attacks.pgd import check_at_least, check_ball, clean_gradient
from jaxpure.attacks.verdict import judge_draws, rival, started
from jaxpure.randomness import Policy, choose, stream
from jaxpure.types import Image, Key, Label, register_pytree

SHORTEST = 1e-8  # a way to the hyperplane is never taken for shorter than this


class FabState(NamedTuple):
    """All of the attack's progress on one image; see types.AttackProgress."""

    key: Key
    original: jax.Array
    label: jax.Array
    target: jax.Array
    x: jax.Array  # where the next step takes the gradient
    count: jax.Array  # runs finished
    iteration: jax.Array  # updates made in this run; -1: the clean image is to be seen
    nearest: jax.Array  # the misclassified image of least distance, in the ball or not
    distance: jax.Array  # its; infinite while there is none
    adversarial: jax.Array  # `nearest` if it is in the ball, else the clean image
    step: jax.Array
    done: jax.Array
    broken_at: jax.Array
    bad_gradients: jax.Array
    zero_gradients: jax.Array


@partial(
    register_pytree,
    data_fields=[
        "objective",
        "eps",
        "num_steps",
        "num_restarts",
        "alpha_max",
        "eta",
        "beta",
    ],
    meta_fields=["norm", "num_targets"],
)
@dataclass(frozen=True, eq=False)
class Fab:
    """FAB-T with restarts. Build it with `create`.

    A run looks at the clean image, to rank the targets, and makes `num_steps` updates.
    After a run that found a misclassified image in the ball, the attack ends; else it
    goes on with the next start or target. Where the attack sees exactly what will judge
    it (all replayed), it ends at the first such image; `distance` is then no more than a
    bound on the least one.

    Gradients are taken under the policy's gradient keys, misclassification is that of
    most draws under its selection keys. An image that is misclassified to begin with, in
    all draws of its first look, is left alone.

    Attributes:
      objective: the target's logit minus the true one.
      eps: radius of the ball, in units of the image's range [0, 1] (in L1: their sum).
      num_steps: updates of a run (100 in the paper).
      num_restarts: runs, of each target; all but the first begin at random.
      alpha_max: largest weight of the image in an update (0.1).
      eta: how far to go, in ways to the hyperplane (1.05).
      beta: how much of a misclassified change to go on with (0.9).
      norm: "linf", "l2" or "l1".
      num_targets: wrong classes to aim at, the likeliest first.
    """

    objective: Objective
    eps: Any
    num_steps: Any
    num_restarts: Any
    alpha_max: Any
    eta: Any
    beta: Any
    norm: str = "linf"
    num_targets: int = 9

    @classmethod
    def create(
        cls,
        defense: Any,
        policy: Policy,
        *,
        eps: float,
        num_steps: int = 100,
        norm: str = "linf",
        num_targets: int = 9,
        num_restarts: int = 1,
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
        eot_samples: int = 1,
    ) -> "Fab":
        """FAB-T on a defense that is already under a gradient rule."""
        check_ball(norm, eps, num_steps=num_steps)
        check_at_least(1, num_restarts=num_restarts, num_targets=num_targets)
        check_at_least(1, eta=eta)
        for name, value in (("alpha_max", alpha_max), ("beta", beta)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value!r}, expected 0 to 1")
        objective = Objective(
            defense, policy, "targeted_margin", "loss", eot_samples, targeted=True
        )
        return cls(
            objective,
            eps,
            num_steps,
            num_restarts,
            alpha_max,
            eta,
            beta,
            norm,
            num_targets,
        )

    @property
    def policy(self) -> Policy:
        return self.objective.policy

    @property
    def purifications_per_step(self) -> int:
        """A gradient at the iterate, and a look at where it leads."""
        rules = (self.policy.gradient, self.policy.selection)
        return sum(map(self.objective.draws, rules))

    @property
    def gradients_per_step(self) -> int:
        return self.objective.draws(self.policy.gradient)

    @property
    def max_steps(self) -> int:
        """Evaluations that an image can take."""
        return int(self.num_restarts) * self.num_targets * (int(self.num_steps) + 1)

    def init(self, key: Key, x: Image, label: Label) -> FabState:
        classes = jax.eval_shape(self.objective.defense, key, x).size
        check_targets(self.num_targets, classes)
        zero = jnp.zeros((), jnp.int32)
        return FabState(
            key=key,
            original=x,
            label=label,
            target=(label == 0).astype(label.dtype),  # any wrong class
            x=x,
            count=zero,
            iteration=zero - 1,
            nearest=x,
            distance=jnp.full((), jnp.inf, x.dtype),
            **started(x),
        )

    def step(self, state: FabState) -> FabState:
        keys = self.objective.gradient_keys(state.key, state.step)
        where = (state.label, state.target)
        gradient, logits = self.objective.gradient(keys, state.x, *where)
        gradient, bad, zero = clean_gradient(gradient)
        margin = self.objective.mean_loss(logits, *where).astype(state.x.dtype)
        moved = self._move(state, gradient, jnp.where(jnp.isfinite(margin), margin, 0))

        clean = state.iteration < 0
        seen = jnp.where(clean, state.original, moved)
        logits = self.objective.selection_logits(state.key, state.step, seen)
        after = choose(
            clean, self._begin(state, logits), self._advance(state, moved, logits)
        )
        after = self._end_run(after)._replace(
            step=state.step + 1,
            bad_gradients=state.bad_gradients + bad,
            zero_gradients=state.zero_gradients + zero,
        )
        return choose(state.done, state, after)

    def _begin(self, state: FabState, logits: jax.Array) -> FabState:
        """After a look at the clean image: leave it alone, or take the next start."""
        fallen = judge_draws(logits, state.label).fooled == 1
        alone = (state.count == 0) & fallen
        key = jax.random.fold_in(stream(state.key, "attack/start"), state.count)
        noise = random_direction(self.norm, key, state.original)
        away = jnp.clip(state.original + 0.5 * self.eps * noise, 0, 1)
        again = state.count % self.num_restarts > 0
        target = rival(logits, state.label, state.count // self.num_restarts)
        return state._replace(
            target=target.astype(state.target.dtype),
            x=jnp.where(again, away, state.original),
            iteration=jnp.zeros_like(state.iteration),
            done=state.done | alone,
            broken_at=jnp.where(alone, state.step, state.broken_at),
        )

    def _move(self, state: FabState, gradient: jax.Array, margin: jax.Array) -> Image:
        """The next point, for a defense that were linear with this margin at `state.x`."""
        x, original = state.x, state.original
        # What of the margin is left to gain, from here and from the image.
        from_image = margin + jnp.vdot(gradient, original - x)
        forward = to_hyperplane(self.norm, x, gradient, -margin)
        sideways = to_hyperplane(self.norm, original, gradient, -from_image)
        length, other = (
            jnp.maximum(NORMS[self.norm].distance(way, jnp.zeros_like(way)), SHORTEST)
            for way in (forward, sideways)
        )
        bias = jnp.minimum(length / (length + other), self.alpha_max)
        ahead = x + self.eta * forward
        beside = original + self.eta * sideways
        return jnp.clip((1 - bias) * ahead + bias * beside, 0, 1)

    def _advance(self, state: FabState, x: Image, logits: jax.Array) -> FabState:
        """After a look at the next point: keep it if it is the nearest, and go back."""
        wrong = judge_draws(logits, state.label).broken
        distance = NORMS[self.norm].distance(x, state.original)
        nearer = wrong & (distance < state.distance)
        hit = nearer & (distance <= self.eps)
        back = state.original + self.beta * (x - state.original)
        return state._replace(
            x=jnp.where(wrong, back, x),
            iteration=state.iteration + 1,
            nearest=jnp.where(nearer, x, state.nearest),
            distance=jnp.where(nearer, distance, state.distance),
            adversarial=jnp.where(hit, x, state.adversarial),
            broken_at=jnp.where(hit & (state.broken_at < 0), state.step, state.broken_at),
        )

    def _end_run(self, state: FabState) -> FabState:
        """On to the next run where this one is at its end; done where all are."""
        ended = state.iteration >= self.num_steps
        broken = state.broken_at >= 0
        last = state.count + 1 >= self.num_restarts * self.num_targets
        done = state.done | ended & (broken | last)
        if self.policy.replays_all:
            done |= broken
        next_run = state._replace(
            x=state.original,
            count=state.count + 1,
            iteration=jnp.full_like(state.iteration, -1),
        )
        return choose(ended, next_run, state)._replace(done=done)


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

    What is gained rises with the level, linearly between the levels where a room is full.
    """
    full_at = jnp.where(speed > 0, room / jnp.where(speed > 0, speed, 1), 0)
    order = jnp.argsort(full_at)
    levels = full_at[order]
    filled = jnp.cumsum((weight * room)[order])
    rising = jnp.cumsum((weight * speed)[order][::-1])[::-1]  # from each on
    none = jnp.zeros_like(filled[:1])
    rising_after = jnp.concatenate([rising[1:], none])
    gained = filled + jnp.where(rising_after > 0, levels * rising_after, 0)
    first = jnp.sum(gained < gap)  # the first room that need not be filled
    reached = first < len(gained)
    rate = rising[jnp.minimum(first, len(gained) - 1)]
    missing = gap - jnp.concatenate([none, filled])[first]
    level = jnp.maximum(missing, 0) / jnp.where(rate > 0, rate, 1)
    return jnp.where(reached, jnp.minimum(level * speed, room), room)


def _fill_in_turn(weight, room, gap):
    """Sizes whose sum by `weight` is `gap`, the largest weights filled first: `(n,)`."""
    order = jnp.argsort(weight, descending=True)
    weight, sorted_room = weight[order], room[order]
    gains = weight * sorted_room
    missing = gap - (jnp.cumsum(gains) - gains)
    size = jnp.clip(missing / jnp.where(weight > 0, weight, 1), 0, sorted_room)
    return jnp.zeros_like(room).at[order].set(size)
