"""DiffHammer (Wang et al. 2024, NeurIPS): a gradient of the draws that can fall together.

Averaging the gradients of many purifications pulls between those with a weakness in common
and those without. DiffHammer weighs them (section 4.1): by expectation-maximisation it
looks for the change of the purified images that takes most of them over the boundary, and
takes part mostly for those that it does take. The weighted gradient at the purified images
then goes back through one purification alone, the representative (gradient grafting,
section 4.2), so that a step costs n forward passes and one with a gradient.

Its draws also evaluate the iterate, before it is moved: the largest share of draws fooled
at any iterate, and whether any was, are the paper's N-evaluation (`Resubmission`).

Choices, where the paper leaves one: the loss is the margin, which changes sign where the
class does; the change that a gradient r stands for is the point of the ball furthest along
it. As the authors' code has it, the representative is the draw whose own change the others
gain most by, losses counted through `elu`, and a step takes up a share
`(step + 1)^-alpha` of the new gradient and keeps the rest of the last. Unlike it, r is
renewed in every round of the EM, as in the paper's Algorithm 1.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.attacks.norms import NORMS
from jaxpure.attacks.objective import Objective
from jaxpure.attacks.pgd import ascend, check_at_least, check_ball, clean_gradient
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


class HammerState(NamedTuple):
    """All of the attack's progress on one image; see types.AttackProgress."""

    key: Key
    original: jax.Array
    label: jax.Array
    x: jax.Array  # the iterate that the next step evaluates
    gradient: jax.Array  # of the last step
    adversarial: jax.Array
    verdict: Verdict  # of `adversarial`
    resubmission: Resubmission  # of all iterates
    step: jax.Array
    done: jax.Array
    broken_at: jax.Array
    bad_gradients: jax.Array
    zero_gradients: jax.Array


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


@partial(
    register_pytree,
    data_fields=["objective", "eps", "step_size", "num_steps", "em_lambda", "em_alpha"],
    meta_fields=["norm", "random_start", "criterion", "em_steps"],
)
@dataclass(frozen=True, eq=False)
class DiffHammer:
    """DiffHammer with its N-evaluation. Build it with `create`.

    An image is evaluated `num_steps + 1` times under the policy's gradient keys, and moved
    `num_steps` times. Where the attack sees exactly what will judge it (all replayed), it
    stops at the first misclassification.

    Attributes:
      objective: the margin of the defense.
      eps: radius of the ball, in units of the image's range [0, 1].
      step_size: length of a step.
      num_steps: updates (150 in the paper).
      em_lambda: sharpness of the weights (5 in the paper).
      em_alpha: power by which a new gradient's share falls (0.5 in the paper).
      norm: "linf", "l2" or "l1".
      random_start: begin at a random point of the ball instead of at the image.
      criterion: which iterate is the best; see `verdict.judge_draws`.
      em_steps: rounds of the EM (5 in the paper).
    """

    objective: Objective
    eps: Any
    step_size: Any
    num_steps: Any
    em_lambda: Any
    em_alpha: Any
    norm: str = "linf"
    random_start: bool = True
    criterion: str = "most"
    em_steps: int = 5

    @classmethod
    def create(
        cls,
        defense: Any,
        policy: Policy,
        *,
        eps: float,
        step_size: float,
        num_steps: int = 150,
        norm: str = "linf",
        eot_samples: int = 10,
        random_start: bool = True,
        criterion: str = "most",
        em_lambda: float = 5.0,
        em_alpha: float = 0.5,
        em_steps: int = 5,
    ) -> "DiffHammer":
        """DiffHammer on a `PurifiedClassifier` that is already under a gradient rule."""
        check_ball(norm, eps, step_size, num_steps)
        check_at_least(1, em_steps=em_steps)
        check_at_least(0, em_lambda=em_lambda, em_alpha=em_alpha)
        check_criterion(criterion)
        if not (hasattr(defense, "purifier") and hasattr(defense, "classifier")):
            raise ValueError(
                "diffhammer looks at purified images: it needs a defense with a purifier "
                "and a classifier; for another use pgd"
            )
        objective = Objective(defense, policy, "margin", "loss", eot_samples)
        return cls(
            objective,
            eps,
            step_size,
            num_steps,
            em_lambda,
            em_alpha,
            norm,
            random_start,
            criterion,
            em_steps,
        )

    @property
    def policy(self) -> Policy:
        return self.objective.policy

    @property
    def draws(self) -> int:
        """Draws that differ behind every verdict on an iterate."""
        return self.objective.draws(self.policy.gradient)

    @property
    def purifications_per_step(self) -> int:
        """The draws, and the representative once more with its gradient."""
        return self.draws + 1

    @property
    def gradients_per_step(self) -> int:
        return 1

    @property
    def max_steps(self) -> int:
        """Evaluations that an image can take."""
        return int(self.num_steps) + 1

    def init(self, key: Key, x: Image, label: Label) -> HammerState:
        start = x
        if self.random_start:
            norm = NORMS[self.norm]
            start = norm.random_point(stream(key, "attack/start"), x, self.eps)
        return HammerState(
            key=key,
            original=x,
            label=label,
            x=start,
            gradient=jnp.zeros_like(x),
            **started_to_select(x),
        )

    def step(self, state: HammerState) -> HammerState:
        keys = self.objective.gradient_keys(state.key, state.step)
        draws = self._draw(keys, state.x, state.label)
        verdict = judge_draws(draws.logits, state.label, self.criterion)
        selected = keep_best(state, state.x, verdict)
        finished = state.step >= self.num_steps
        if self.policy.replays_all:
            finished |= verdict.broken
        gradient = self._graft(keys, state.x, draws)
        moved = self._move(selected._replace(done=finished), state.step, gradient)
        return choose(state.done, state, moved)

    def _draw(self, keys: Any, x: Image, label: Label) -> Draws:
        """Purifies under each key; the gradient stops at the purified image."""
        defense, loss = self.objective.defense, self.objective.loss_of(label)

        def of_purified(purified):
            logits = defense.classifier(purified)
            return loss(logits), logits

        def one(key):
            purified = jax.lax.stop_gradient(defense.purifier(key, x))
            value, gradient = jax.value_and_grad(of_purified, has_aux=True)(purified)
            return Draws(value[1], value[0], gradient)

        return jax.lax.map(one, keys)

    def _graft(self, keys: Any, x: Image, draws: Draws) -> jax.Array:
        """The weighted gradient, back through the representative purification."""
        direction = partial(_direction, self.norm, self.eps)
        chosen = representative(draws, direction)
        aggregated = weigh(draws, direction, chosen, self.em_lambda, self.em_steps)
        key = jax.tree.map(lambda k: k[chosen], keys)
        _, pullback = jax.vjp(lambda x: self.objective.defense.purifier(key, x), x)
        return pullback(aggregated)[0]

    def _move(self, state: HammerState, step: jax.Array, gradient) -> HammerState:
        gradient, bad, zero = clean_gradient(gradient)
        share = (step + 1.0) ** -self.em_alpha
        gradient = (share * gradient + (1 - share) * state.gradient).astype(state.x.dtype)
        x = ascend(self.norm, state.x, state.original, gradient, self.step_size, self.eps)
        return state._replace(
            x=x,
            gradient=gradient,
            bad_gradients=state.bad_gradients + bad,
            zero_gradients=state.zero_gradients + zero,
        )


def representative(draws: Draws, direction: Any) -> jax.Array:
    """`()` the draw along whose own gradient all draws together would gain most."""
    changes = jax.vmap(direction)(draws.gradients)
    gains = jnp.einsum("rhwc,ihwc->ri", changes, draws.gradients)
    return jnp.argmax(jnp.sum(jax.nn.elu(draws.losses[None] + gains), 1))


def weigh(
    draws: Draws, direction: Any, chosen: jax.Array, em_lambda: Any, em_steps: int
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


def _direction(norm: str, eps: Any, gradient: jax.Array) -> jax.Array:
    """The change of length `eps` that gains most along a gradient."""
    return eps * NORMS[norm].ascent(gradient)
