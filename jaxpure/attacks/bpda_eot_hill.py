"""BPDA+EOT with the protocol of Hill, Mitchell and Zhu 2021 (arXiv:2005.13525).

The attack evaluates while it optimises: at each of `num_steps + 1` evaluations, an image
whose mean logits over `eot_samples` draws are wrong is tried on `verify_samples` fresh
draws, and is broken for good when their mean logits are wrong too. DiffPure's port of
it, in [0, 1] and without a random start, is what this file agrees with; give it a BPDA
defense.

Verification takes its draws `eot_samples` at a time, one call of `step` each, so every
step costs the same and verified images do not hold up their neighbours.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.attacks.objective import Objective
from jaxpure.attacks.pgd import ascend, check_ball, clean_gradient
from jaxpure.attacks.verdict import started
from jaxpure.randomness import Policy, attack_keys, choose
from jaxpure.types import Image, Key, Label, register_pytree


class HillState(NamedTuple):
    """All of the attack's progress on one image; see types.AttackProgress."""

    key: Key
    original: jax.Array
    label: jax.Array
    x: jax.Array
    gradient: jax.Array  # at x, waiting for the verification to end
    verified: jax.Array  # draws of the verification so far; -1 while there is none
    logits: jax.Array  # their sum
    adversarial: jax.Array
    step: jax.Array  # evaluations, verifications not counted
    done: jax.Array
    broken_at: jax.Array
    bad_gradients: jax.Array
    zero_gradients: jax.Array


@partial(
    register_pytree,
    data_fields=["objective", "eps", "step_size", "num_steps"],
    meta_fields=["norm", "verify_samples"],
)
@dataclass(frozen=True, eq=False)
class BpdaEotHill:
    """Evaluate-while-optimising BPDA+EOT. Build it with `create`.

    Attributes:
      objective: cross-entropy of the mean logits.
      eps: radius of the ball, in units of the image's range [0, 1].
      step_size: length of a step (2/255 in the paper).
      num_steps: updates (50 in the paper).
      norm: "linf", "l2" or "l1".
      verify_samples: defense draws of a verification (150 in the paper), taken under the
        policy's selection keys; 0 trusts the attack's own draws.
    """

    objective: Objective
    eps: Any
    step_size: Any
    num_steps: Any
    norm: str = "linf"
    verify_samples: int = 150

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
        eot_samples: int = 15,
        verify_samples: int = 150,
    ) -> "BpdaEotHill":
        """The attack on a defense that is already under BPDA."""
        check_ball(norm, eps, step_size, num_steps)
        objective = Objective(defense, policy, "cross_entropy", "logits", eot_samples)
        return cls(objective, eps, step_size, num_steps, norm, verify_samples)

    @property
    def policy(self) -> Policy:
        return self.objective.policy

    @property
    def purifications_per_step(self) -> int:
        return self.objective.eot_samples

    @property
    def max_steps(self) -> int:
        """Calls of `step` that an image can take, every evaluation verified."""
        chunks = -(-self.verify_samples // self.objective.eot_samples)
        return (int(self.num_steps) + 1) * (1 + chunks)

    def init(self, key: Key, x: Image, label: Label) -> HillState:
        zero = jnp.zeros((), jnp.int32)
        classes = jax.eval_shape(self.objective.defense, key, x).shape
        return HillState(
            key=key,
            original=x,
            label=label,
            x=x,
            gradient=jnp.zeros_like(x),
            verified=zero - 1,
            logits=jnp.zeros(classes, x.dtype),
            **started(x),
        )

    def step(self, state: HillState) -> HillState:
        draws = self.objective.eot_samples
        verifying = state.verified >= 0
        first = jnp.maximum(state.verified, 0)
        attack = attack_keys(self.policy, "gradient", state.key, state.step, draws)
        verify = attack_keys(self.policy, "selection", state.key, state.step, draws, first)
        keys = choose(verifying, verify, attack)
        gradient, logits = self.objective.gradient(keys, state.x, state.label)
        moved = choose(
            verifying,
            self._verified(state, logits),
            self._attacked(state, gradient, logits),
        )
        return choose(state.done, state, moved)

    def _attacked(self, state: HillState, gradient, logits) -> HillState:
        """After an evaluation: verify what looks broken, move what does not."""
        gradient, bad, zero = clean_gradient(gradient)
        state = state._replace(
            gradient=gradient,
            bad_gradients=state.bad_gradients + bad,
            zero_gradients=state.zero_gradients + zero,
        )
        looks_broken = self._is_wrong(jnp.sum(logits, 0), state.label)
        if self.verify_samples == 0:
            return self._settle(state, looks_broken)
        begun = state._replace(
            verified=jnp.zeros_like(state.verified), logits=jnp.zeros_like(state.logits)
        )
        return choose(looks_broken, begun, self._move(state))

    def _verified(self, state: HillState, logits) -> HillState:
        """After some more draws of a verification; at its end, break or move."""
        drawn = state.verified + jnp.arange(len(logits))
        counted = (drawn < self.verify_samples)[:, None]
        total = state.logits + jnp.sum(jnp.where(counted, logits, 0), 0)
        verified = state.verified + len(logits)
        going = state._replace(logits=total, verified=verified)
        ended = self._settle(
            going._replace(verified=jnp.full_like(verified, -1)),
            self._is_wrong(total, state.label),
        )
        return choose(verified >= self.verify_samples, ended, going)

    def _settle(self, state: HillState, broken: jax.Array) -> HillState:
        """Broken for good at this image, or on to the next."""
        end = state._replace(
            adversarial=state.x,
            broken_at=state.step,
            step=state.step + 1,
            done=jnp.ones_like(state.done),
        )
        return choose(broken, end, self._move(state))

    def _move(self, state: HillState) -> HillState:
        x = ascend(
            self.norm, state.x, state.original, state.gradient, self.step_size, self.eps
        )
        last = state.step >= self.num_steps
        return state._replace(
            x=jnp.where(last, state.x, x),
            adversarial=jnp.where(last, state.x, state.adversarial),
            step=state.step + 1,
            done=state.done | last,
        )

    def _is_wrong(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        return jnp.all(jnp.isfinite(logits)) & (jnp.argmax(logits) != label)
