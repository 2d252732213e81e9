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

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.attacks.losses import LOSSES
from jaxpure.attacks.norms import NORMS, random_direction
from jaxpure.attacks.objective import Look, Objective, check_targets
from jaxpure.attacks.pgd import check_at_least, check_ball, clean_gradient
from jaxpure.attacks.verdict import judge_draws, rival, started
from jaxpure.randomness import Policy, choose, stream
from jaxpure.types import Image, Key, Label, register_pytree

TARGETED = "targeted_dlr"
SELECTIONS = ("reference", "consistent")
MOMENTUM = 0.25  # share of the last movement in an update, from the second one on

# In L1: the share of pixels that the first updates change; what the number of pixels
# that the best point changes is divided by to get the next; the fall of that number that
# makes the step long again; what a step that stays is divided by; its shortest, in eps.
L1_SHARE = 0.2
L1_THINNER = 1.5
L1_FALL = 0.95
L1_SHORTER = 1.5
L1_SHORTEST = 0.1


class Run(NamedTuple):
    """One run of APGD, from a random start through `num_steps` updates.

    Attributes:
      previous: `(H, W, C)` the iterate before the one under way.
      step_size: `()` length of the next step.
      best: `(H, W, C)` the iterate of highest loss so far.
      best_gradient: `(H, W, C)` there.
      best_loss: `()` there.
      last_loss: `()` of the iterate before.
      rises: `()` int32, updates since the last checkpoint whose loss was higher than the
        one before.
      since: `()` int32, updates since the last checkpoint.
      window: `()` int32, updates from the last checkpoint to the next.
      checked_loss: `()` the best loss at the last checkpoint.
      shortened: `()` bool, whether the last checkpoint shortened the step.
      share: `()` share of the pixels that an update changes (L1).
      support: `()` pixels that the best point changed at the last checkpoint (L1).
    """

    previous: jax.Array
    step_size: jax.Array
    best: jax.Array
    best_gradient: jax.Array
    best_loss: jax.Array
    last_loss: jax.Array
    rises: jax.Array
    since: jax.Array
    window: jax.Array
    checked_loss: jax.Array
    shortened: jax.Array
    share: jax.Array
    support: jax.Array


class ApgdState(NamedTuple):
    """All of the attack's progress on one image; see types.AttackProgress."""

    key: Key
    original: jax.Array
    label: jax.Array
    target: jax.Array
    x: jax.Array  # what the next step evaluates
    count: jax.Array  # runs finished
    iteration: jax.Array  # -1: the clean image; 0: the start; i: after update i
    run: Run
    highest_loss: jax.Array  # of all runs
    adversarial: jax.Array
    step: jax.Array
    done: jax.Array
    broken_at: jax.Array
    bad_gradients: jax.Array
    zero_gradients: jax.Array


@partial(
    register_pytree,
    data_fields=["objective", "eps", "num_steps", "num_restarts", "rho"],
    meta_fields=["norm", "num_targets", "selection"],
)
@dataclass(frozen=True, eq=False)
class Apgd:
    """APGD with restarts or targets. Build it with `create`.

    A run evaluates the clean image, a random start, and `num_steps` updates of it. After
    a run that misclassified, the attack ends; else it goes on with the next start or
    target. Where the attack sees exactly what will judge it (all replayed), it ends at
    the first misclassification. The result is the last misclassified iterate, or the one
    of highest loss where none is.

    An image that is misclassified to begin with, in all draws of its first look, is left
    alone.

    Attributes:
      objective: what is climbed.
      eps: radius of the ball, in units of the image's range [0, 1] (in L1: their sum).
      num_steps: updates of a run (100 in the paper).
      num_restarts: runs, of each target.
      rho: share of the updates that must raise the loss for the step to stay (0.75).
      norm: "linf", "l2" or "l1".
      num_targets: wrong classes to aim at, the likeliest first; 1 for untargeted losses.
      selection: whose draws tell loss and misclassification: "reference", the last of the
        gradient's, as in auto-attack; "consistent", the mean over the policy's selection
        keys. Where all draws are the same, so are both.
    """

    objective: Objective
    eps: Any
    num_steps: Any
    num_restarts: Any
    rho: Any
    norm: str = "linf"
    num_targets: int = 1
    selection: str = "reference"

    @classmethod
    def create(
        cls,
        defense: Any,
        policy: Policy,
        *,
        eps: float,
        num_steps: int = 100,
        norm: str = "linf",
        loss: str = "cross_entropy",
        eot_samples: int = 1,
        num_restarts: int = 1,
        num_targets: int = 9,
        rho: float = 0.75,
        selection: str = "reference",
    ) -> "Apgd":
        """APGD on a defense that is already under a gradient rule.

        `loss` is "cross_entropy", "dlr", "margin" or, for APGD-T, "targeted_dlr"; only
        that one looks at `num_targets`.
        """
        check_ball(norm, eps, num_steps=num_steps)
        check_at_least(1, num_restarts=num_restarts, num_targets=num_targets)
        for what, value, known in (
            ("loss", loss, (*LOSSES, TARGETED)),
            ("selection", selection, SELECTIONS),
        ):
            if value not in known:
                raise ValueError(f"{what}={value!r}, expected one of {', '.join(known)}")
        if not 0 <= rho <= 1:
            raise ValueError(f"{rho=}, expected 0 to 1: a share of the updates")
        targeted = loss == TARGETED
        objective = Objective(defense, policy, loss, "loss", eot_samples, targeted)
        targets = num_targets if targeted else 1
        return cls(objective, eps, num_steps, num_restarts, rho, norm, targets, selection)

    @property
    def policy(self) -> Policy:
        return self.objective.policy

    @property
    def purifications_per_step(self) -> int:
        if self.selection == "reference":
            return self.objective.draws(self.policy.gradient)
        return self.objective.purifications_per_look

    @property
    def gradients_per_step(self) -> int:
        return self.objective.draws(self.policy.gradient)

    @property
    def max_steps(self) -> int:
        """Evaluations that an image can take."""
        return int(self.num_restarts) * self.num_targets * (int(self.num_steps) + 2)

    def init(self, key: Key, x: Image, label: Label) -> ApgdState:
        logits = jax.eval_shape(self.objective.defense, key, x)
        jax.eval_shape(self.objective.loss_of(label, label), logits)
        if self.objective.targeted:
            check_targets(self.num_targets, logits.size)
        zero = jnp.zeros((), jnp.int32)
        return ApgdState(
            key=key,
            original=x,
            label=label,
            target=(label == 0).astype(label.dtype),  # any wrong class
            x=x,
            count=zero,
            iteration=zero - 1,
            run=self._new_run(x),
            highest_loss=jnp.full((), -jnp.inf, x.dtype),
            **started(x),
        )

    def step(self, state: ApgdState) -> ApgdState:
        gradient, logits = self._look(state)
        gradient, bad, zero = clean_gradient(gradient)
        after = choose(
            state.iteration < 0,
            self._begin(state, logits),
            self._advance(state, gradient, logits),
        )
        after = after._replace(
            step=state.step + 1,
            bad_gradients=state.bad_gradients + bad,
            zero_gradients=state.zero_gradients + zero,
        )
        return choose(state.done, state, after)

    def _look(self, state: ApgdState) -> Look:
        where = (state.x, state.label, state.target)
        if self.selection == "consistent":
            return self.objective.look(state.key, state.step, *where)
        keys = self.objective.gradient_keys(state.key, state.step)
        return Look(*self.objective.gradient(keys, *where))

    def _begin(self, state: ApgdState, logits: jax.Array) -> ApgdState:
        """After a look at the clean image: leave it alone, or take the next start."""
        fallen = judge_draws(logits, state.label).fooled == 1
        alone = (state.count == 0) & fallen
        key = jax.random.fold_in(stream(state.key, "attack/start"), state.count)
        target = rival(logits, state.label, state.count // self.num_restarts)
        return state._replace(
            target=target.astype(state.target.dtype),
            x=random_start(self.norm, key, state.original, self.eps),
            iteration=jnp.zeros_like(state.iteration),
            run=self._new_run(state.original),
            done=state.done | alone,
            broken_at=jnp.where(alone, state.step, state.broken_at),
        )

    def _advance(self, state: ApgdState, gradient, logits) -> ApgdState:
        """After the evaluation of an iterate: to the next, or to the next run."""
        if self.selection == "reference":
            logits = logits[-1:]
        loss = self.objective.mean_loss(logits, state.label, state.target)
        loss = loss.astype(state.highest_loss.dtype)
        wrong = judge_draws(logits, state.label).broken
        state = self._record(state, loss, wrong)
        run = observe(state.run, state.iteration, state.x, gradient, loss)
        run, x, gradient = self._check(run, state.x, state.original, gradient)
        moved = self._move(state, run, x, gradient)

        ended = state.iteration >= self.num_steps
        broken = state.broken_at >= 0
        last = state.count + 1 >= self.num_restarts * self.num_targets
        done = ended & (broken | last)
        if self.policy.replays_all:
            done |= wrong
        next_run = moved._replace(
            x=state.original,
            count=state.count + 1,
            iteration=jnp.full_like(state.iteration, -1),
        )
        return choose(ended, next_run, moved)._replace(done=done)

    def _record(self, state: ApgdState, loss, wrong) -> ApgdState:
        """The last misclassified iterate; until there is one, that of highest loss."""
        broken = state.broken_at >= 0
        higher = loss > state.highest_loss
        kept = wrong | (~broken & higher)
        return state._replace(
            adversarial=jnp.where(kept, state.x, state.adversarial),
            highest_loss=jnp.where(higher, loss, state.highest_loss),
            broken_at=jnp.where(wrong & ~broken, state.step, state.broken_at),
        )

    def _new_run(self, x: Image) -> Run:
        zero = jnp.zeros((), jnp.int32)
        longest = (1.0 if self.norm == "l1" else 2.0) * self.eps
        low = jnp.full((), -jnp.inf, x.dtype)
        return Run(
            previous=x,
            step_size=jnp.asarray(longest, x.dtype),
            best=x,
            best_gradient=jnp.zeros_like(x),
            best_loss=low,
            last_loss=low,
            rises=zero,
            since=zero,
            window=percent(4 if self.norm == "l1" else 22, self.num_steps),
            checked_loss=low,
            shortened=jnp.ones((), bool),
            share=jnp.full((), L1_SHARE, x.dtype),
            support=jnp.full((), x.size, x.dtype),
        )

    def _check(self, run: Run, x, original, gradient) -> tuple[Run, jax.Array, jax.Array]:
        """At a checkpoint: a new step size, and back to the best point where it says."""
        if self.norm == "l1":
            checked, back = check_support(run, original, self.eps)
        else:
            shrink, least = percent(3, self.num_steps), percent(6, self.num_steps)
            checked, back = check_progress(run, self.rho, shrink, least)
        due = run.since == run.window
        back = due & back
        return (
            choose(due, checked, run),
            jnp.where(back, run.best, x),
            jnp.where(back, run.best_gradient, gradient),
        )

    def _move(self, state: ApgdState, run: Run, x, gradient) -> ApgdState:
        """The next iterate, from `x` and the gradient there."""
        original, eps = state.original, self.eps
        if self.norm == "l1":
            moved = sparse_ascend(x, original, gradient, run.step_size, run.share, eps)
        else:
            project = l2_project if self.norm == "l2" else NORMS["linf"].project
            moved = project(x + run.step_size * self._ascent(gradient), original, eps)
            momentum = jnp.where(state.iteration > 0, MOMENTUM, 0).astype(x.dtype)
            blend = x + (moved - x) * (1 - momentum) + (x - run.previous) * momentum
            moved = project(blend, original, eps)
        return state._replace(
            x=moved, run=run._replace(previous=x), iteration=state.iteration + 1
        )

    def _ascent(self, gradient: jax.Array) -> jax.Array:
        """The direction of a step in Linf and L2."""
        if self.norm == "linf":
            return jnp.sign(gradient)
        # The ratio of dlr is flat but for its own 1e-12 where the true class is third:
        # nothing to go far for. Other losses have tiny gradients that are sound.
        return l2_unit(gradient, jnp.inf if "dlr" in self.objective.loss else 1e-6)


def random_start(norm: str, key: Key, x: Image, eps: Any) -> Image:
    """A point on the ball's edge; in L1, the nearest one to Gaussian noise."""
    if norm == "l1":
        noise = jax.random.normal(key, x.shape, x.dtype)
        return NORMS[norm].project(x + noise, x, eps)
    return jnp.clip(x + eps * random_direction(norm, key, x), 0, 1)


def percent(share: int, num_steps: Any) -> jax.Array:
    """`share` hundredths of the updates, rounded down, at least 1: `()` int32."""
    return jnp.asarray(jnp.maximum(share * num_steps // 100, 1), jnp.int32)


def observe(run: Run, iteration, x: Image, gradient, loss) -> Run:
    """The run after an evaluation at `x`; `iteration` 0 is the start."""
    start = iteration == 0
    better = start | (loss > run.best_loss)
    rises = ~start & (loss > run.last_loss)
    return run._replace(
        previous=jnp.where(start, x, run.previous),
        best=jnp.where(better, x, run.best),
        best_gradient=jnp.where(better, gradient, run.best_gradient),
        best_loss=jnp.where(better, loss, run.best_loss),
        # The reference's array of losses has no row for the start: in its place the first
        # update meets the last row, which is still 0.
        last_loss=jnp.where(start, 0, loss),
        rises=run.rises + rises,
        since=run.since + ~start,
        checked_loss=jnp.where(start, loss, run.checked_loss),
    )


def check_progress(run: Run, rho, shrink, least) -> tuple[Run, jax.Array]:
    """A checkpoint in Linf and L2: `(run, whether to go back to the best point)`.

    The step is halved where the loss rose too seldom (condition 1), or where neither the
    step nor the best loss has changed since the last checkpoint (condition 2).
    """
    seldom = run.rises <= rho * run.window
    stuck = ~run.shortened & (run.checked_loss >= run.best_loss)
    halve = seldom | stuck
    checked = run._replace(
        step_size=jnp.where(halve, run.step_size / 2, run.step_size),
        rises=jnp.zeros_like(run.rises),
        since=jnp.zeros_like(run.since),
        window=jnp.maximum(run.window - shrink, least),
        checked_loss=run.best_loss,
        shortened=halve,
    )
    return checked, halve


def check_support(run: Run, original: Image, eps) -> tuple[Run, jax.Array]:
    """A checkpoint in L1: `(run, whether to go back to the best point)`.

    While the best point changes fewer and fewer pixels, the step stays long.
    """
    support = jnp.sum(run.best != original).astype(run.support.dtype)
    sparser = support < L1_FALL * run.support
    shorter = jnp.maximum(run.step_size / L1_SHORTER, L1_SHORTEST * eps)
    checked = run._replace(
        step_size=jnp.where(sparser, eps, shorter).astype(run.step_size.dtype),
        since=jnp.zeros_like(run.since),
        share=support / (L1_THINNER * original.size),
        support=support,
    )
    return checked, sparser


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


def l2_project(x: Image, centre: Image, eps) -> Image:
    """Into the ball and the box, a trillionth further in than need be: see `l2_unit`."""
    delta = x - centre
    length = jnp.minimum(jnp.linalg.norm(delta.ravel()), eps)
    return jnp.clip(centre + length * l2_unit(delta), 0, 1)


def sparse_ascend(x: Image, original: Image, gradient, step_size, share, eps) -> Image:
    """A step along the signs of the largest gradients, a `share` of them, in L1."""
    size = jnp.abs(gradient).ravel()
    place = jnp.clip((1 - share) * x.size, 0, x.size - 1).astype(jnp.int32)
    threshold = jnp.sort(size)[place]
    signs = jnp.where(jnp.abs(gradient) >= threshold, jnp.sign(gradient), 0)
    direction = signs / jnp.maximum(jnp.sum(jnp.abs(signs)), 1)
    return NORMS["l1"].project(x + step_size * direction, original, eps)
