"""Projected gradient descent (Madry et al. 2018), under every rule and policy.

With momentum it is the iterative method of Dong et al. 2018 (eq. 6: gradients of unit
L1 norm are summed). With `average="logits"`, `random_start=False` and BPDA it makes the
updates of BPDA+EOT (Hill et al. 2021); their protocol is bpda_eot_hill's. With
`iterate="last"` on a cheaper defense (gradient `transfer`) it is the PGD+EOT of Lee and
Kim 2023.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.attacks.norms import NORMS
from jaxpure.attacks.objective import Look, Objective
from jaxpure.attacks.verdict import (
    Resubmission,
    Verdict,
    check_criterion,
    judge_draws,
    keep_best,
    started_to_select,
)
from jaxpure.randomness import Policy, choose, stream
from jaxpure.types import Image, Key, Label, register_pytree

ITERATES = ("best", "last")


class PgdState(NamedTuple):
    """All of the attack's progress on one image; see types.AttackProgress."""

    key: Key
    original: jax.Array
    label: jax.Array
    x: jax.Array  # the iterate that the next step evaluates
    momentum: jax.Array
    adversarial: jax.Array
    verdict: Verdict  # of `adversarial`, under the selection keys of its step
    resubmission: Resubmission  # of all iterates
    step: jax.Array
    done: jax.Array
    broken_at: jax.Array
    bad_gradients: jax.Array
    zero_gradients: jax.Array


@partial(
    register_pytree,
    data_fields=["objective", "eps", "step_size", "num_steps", "momentum"],
    meta_fields=["norm", "random_start", "criterion", "iterate"],
)
@dataclass(frozen=True, eq=False)
class Pgd:
    """PGD with best-iterate selection. Build it with `create`.

    An image is evaluated `num_steps + 1` times and moved `num_steps` times. The result is
    the best iterate by the criterion: by default the one that fools most selection draws,
    and among those the one of largest mean margin. Where the attack sees exactly what
    will judge it (all replayed), it stops at the first misclassification.

    Attributes:
      objective: what is climbed.
      eps: radius of the ball, in units of the image's range [0, 1].
      step_size: length of a step in the ball's norm.
      num_steps: updates.
      momentum: weight of the previous gradients.
      norm: "linf", "l2" or "l1".
      random_start: begin at a random point of the ball instead of at the image.
      criterion: when an iterate counts as broken; see `verdict.judge_draws`.
      iterate: "best", or "last": what is reached in the end, whatever it does. That one
        needs no selection: what is told of its iterates is of the gradient's draws.
    """

    objective: Objective
    eps: Any
    step_size: Any
    num_steps: Any
    momentum: Any = 0.0
    norm: str = "linf"
    random_start: bool = True
    criterion: str = "most"
    iterate: str = "best"

    @classmethod
    def create(
        cls,
        defense: Any,
        policy: Policy,
        *,
        eps: float,
        step_size: float,
        num_steps: int = 50,
        norm: str = "linf",
        loss: str = "cross_entropy",
        average: str = "loss",
        eot_samples: int = 1,
        random_start: bool = True,
        momentum: float = 0.0,
        criterion: str = "most",
        iterate: str = "best",
    ) -> "Pgd":
        """PGD on a defense that is already under a gradient rule."""
        check_ball(norm, eps, step_size, num_steps)
        check_criterion(criterion)
        if iterate not in ITERATES:
            raise ValueError(f"{iterate=}, expected one of {', '.join(ITERATES)}")
        objective = Objective(defense, policy, loss, average, eot_samples)
        return cls(
            objective,
            eps,
            step_size,
            num_steps,
            momentum,
            norm,
            random_start,
            criterion,
            iterate,
        )

    @property
    def policy(self) -> Policy:
        return self.objective.policy

    @property
    def draws(self) -> int:
        """Draws that differ behind every verdict on an iterate."""
        best = self.iterate == "best"
        rule = self.policy.selection if best else self.policy.gradient
        return self.objective.draws(rule)

    @property
    def purifications_per_step(self) -> int:
        if self.iterate == "last":
            return self.gradients_per_step
        return self.objective.purifications_per_look

    @property
    def gradients_per_step(self) -> int:
        return self.objective.draws(self.policy.gradient)

    @property
    def max_steps(self) -> int:
        """Evaluations that an image can take."""
        return int(self.num_steps) + 1

    def init(self, key: Key, x: Image, label: Label) -> PgdState:
        start = x
        if self.random_start:
            norm = NORMS[self.norm]
            start = norm.random_point(stream(key, "attack/start"), x, self.eps)
        return PgdState(
            key=key,
            original=x,
            label=label,
            x=start,
            momentum=jnp.zeros_like(x),
            **started_to_select(x),
        )

    def step(self, state: PgdState) -> PgdState:
        look = self._look(state)
        verdict = judge_draws(look.logits, state.label, self.criterion)
        selected = keep_best(state, state.x, verdict)
        if self.iterate == "last":
            selected = selected._replace(adversarial=state.x, verdict=verdict)
        finished = state.step >= self.num_steps
        if self.policy.replays_all:
            finished |= verdict.broken
        moved = self._ascend(selected._replace(done=finished), look.gradient)
        return choose(state.done, state, moved)

    def _look(self, state: PgdState) -> Look:
        if self.iterate == "best":
            return self.objective.look(state.key, state.step, state.x, state.label)
        keys = self.objective.gradient_keys(state.key, state.step)
        return Look(*self.objective.gradient(keys, state.x, state.label))

    def _ascend(self, state: PgdState, gradient: jax.Array) -> PgdState:
        gradient, bad, zero = clean_gradient(gradient)
        size = jnp.sum(jnp.abs(gradient))
        scaled = gradient / jnp.where(size > 0, size, 1)
        momentum = self.momentum * state.momentum + scaled
        x = ascend(self.norm, state.x, state.original, momentum, self.step_size, self.eps)
        return state._replace(
            x=x,
            momentum=momentum,
            bad_gradients=state.bad_gradients + bad,
            zero_gradients=state.zero_gradients + zero,
        )


def check_ball(
    norm: str,
    eps: float,
    step_size: float = 0.0,
    num_steps: int = 0,
    norms: Sequence[str] = tuple(NORMS),
) -> None:
    """Raises ValueError for a ball or a budget that makes no sense.

    Args:
      norm: its name.
      eps: its radius, in units of the image's range [0, 1].
      step_size: 0 for an attack that has none to give.
      num_steps: updates.
      norms: those that the attack has.
    """
    if norm not in norms:
        raise ValueError(f"{norm=}, expected one of {', '.join(norms)}")
    if norm == "linf" and not 0 <= eps <= 1:
        raise ValueError(f"{eps=}, expected 0 to 1: images are in [0, 1]")
    check_at_least(0, eps=eps, step_size=step_size, num_steps=num_steps)


def check_at_least(least: float, **options: float) -> None:
    """Raises ValueError for the first option that is less."""
    for name, value in options.items():
        if not value >= least:
            raise ValueError(f"{name}={value!r}, expected at least {least}")


def clean_gradient(gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(gradient or zeros if not finite, was not finite, was identically zero)`."""
    finite = jnp.all(jnp.isfinite(gradient))
    gradient = jnp.where(finite, gradient, 0)
    zero = finite & jnp.all(gradient == 0)
    return gradient, (~finite).astype(jnp.int32), zero.astype(jnp.int32)


def ascend(
    norm: str,
    x: Image,
    original: Image,
    gradient: jax.Array,
    step_size: jax.Array | float,
    eps: jax.Array | float,
) -> Image:
    """One step up the gradient and back into the ball and the box."""
    rule = NORMS[norm]
    return rule.project(x + step_size * rule.ascent(gradient), original, eps)
