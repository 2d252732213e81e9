"""BPDA+EOT with the protocol of Hill, Mitchell and Zhu 2021 (arXiv:2005.13525).

The attack evaluates while it optimises: at each of `num_steps + 1` evaluations, an image
whose mean logits over `eot_samples` draws are wrong is tried on `verify_samples` fresh
draws, and is broken for good when their mean logits are wrong too. DiffPure's port of
it, in [0, 1] and without a random start, is what this file agrees with; give it a BPDA
defense. One departure: in L2 the port divides by the distance plus 1e-10, and this
projects exactly.

Verification takes its draws `eot_samples` at a time, one call of `step` each, so every
step costs the same and verified images do not hold up their neighbours.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.attacks.balls import NormBall, ascend, check_ball
from jaxpure.attacks.pgd import NORMS, Pgd
from jaxpure.attacks.progress import Budget, Example, Progress, init_progress
from jaxpure.attacks.verdict import judge_draws
from jaxpure.errors import check_range
from jaxpure.keys import Key
from jaxpure.objective import Evaluation, Objective
from jaxpure.policy import Policy, attack_keys
from jaxpure.pytrees import Static, choose, pytree
from jaxpure.types import Image, Label


class HillState(NamedTuple):
    """All of the attack's progress on one image.

    Attributes:
      example: what is attacked.
      x: `(H, W, C)` the iterate.
      gradient: `(H, W, C)` at `x`, waiting for the verification to end.
      verified: `()` int32, draws of the verification so far; -1 while there is none.
      logits: `(classes,)` their sum.
      progress: what every attack keeps; verifications are no evaluations.
    """

    example: Example
    x: Image
    gradient: jax.Array
    verified: jax.Array
    logits: jax.Array
    progress: Progress


@pytree
class BpdaEotHill:
    """Evaluate-while-optimising BPDA+EOT on the cross-entropy of mean logits.

    Attributes:
      step_size: length of a step (2/255 in the paper).
      num_steps: updates (50 in the paper).
      eot_samples: draws of an evaluation (15 in the paper).
      verify_samples: defense draws of a verification (150 in the paper), taken under the
        policy's selection keys; 0 trusts the attack's own draws.
    """

    step_size: float = 2 / 255
    num_steps: int = 50
    eot_samples: Static[int] = 15
    verify_samples: Static[int] = 150

    def __post_init__(self):
        check_range(0, above=True, step_size=self.step_size)
        check_range(1, num_steps=self.num_steps)
        check_range(0, verify_samples=self.verify_samples)

    def objective(self, defense: Any, policy: Policy) -> Objective:
        return Objective(defense, policy, "cross_entropy", "logits", self.eot_samples)

    def budget(self, objective: Objective) -> Budget:
        chunks = -(-self.verify_samples // self.eot_samples)
        calls = (self.num_steps + 1) * (1 + chunks)
        return Budget(calls, self.eot_samples, 0, self.eot_samples)

    def undefended(self) -> Pgd:
        return Pgd(step_size=self.step_size, num_steps=self.num_steps)

    def init(
        self, objective: Objective, ball: NormBall, key: Key, x: Image, label: Label
    ) -> HillState:
        check_ball("bpda_eot_hill", ball, NORMS)
        classes = jax.eval_shape(objective.defense, key, x).shape
        return HillState(
            example=Example(key, x, label),
            x=x,
            gradient=jnp.zeros_like(x),
            verified=jnp.full((), -1, jnp.int32),
            logits=jnp.zeros(classes, x.dtype),
            progress=init_progress(x),
        )

    def step(self, objective: Objective, ball: NormBall, state: HillState) -> HillState:
        key, draws = state.example.key, self.eot_samples
        step, policy = state.progress.evaluations, objective.policy
        verifying = state.verified >= 0
        first = jnp.maximum(state.verified, 0)
        attack = attack_keys(policy, "gradient", key, step, draws)
        verify = attack_keys(policy, "selection", key, step, draws, first)
        keys = choose(verifying, verify, attack)
        seen = objective.gradient(keys, state.x, state.example.label)
        return choose(
            verifying,
            self._verified(ball, state, seen.logits),
            self._attacked(ball, state, seen),
        )

    def _attacked(self, ball: NormBall, state: HillState, seen: Evaluation) -> HillState:
        """After an evaluation: verify what looks broken, move what does not."""
        verdict = judge_draws(seen.logits, state.example.label, "mean_logits")
        state = state._replace(
            gradient=seen.gradient, progress=state.progress.watch(verdict).count(seen)
        )
        looks_broken = _is_wrong(jnp.sum(seen.logits, 0), state.example.label)
        if self.verify_samples == 0:
            return self._settle(ball, state, looks_broken)
        begun = state._replace(
            verified=jnp.zeros_like(state.verified), logits=jnp.zeros_like(state.logits)
        )
        return choose(looks_broken, begun, self._move(ball, state))

    def _verified(self, ball: NormBall, state: HillState, logits: jax.Array) -> HillState:
        """After some more draws of a verification; at its end, break or move."""
        drawn = state.verified + jnp.arange(len(logits))
        counted = (drawn < self.verify_samples)[:, None]
        total = state.logits + jnp.sum(jnp.where(counted, logits, 0), 0)
        verified = state.verified + len(logits)
        going = state._replace(logits=total, verified=verified)
        ended = self._settle(
            ball,
            going._replace(verified=jnp.full_like(verified, -1)),
            _is_wrong(total, state.example.label),
        )
        return choose(verified >= self.verify_samples, ended, going)

    def _settle(self, ball: NormBall, state: HillState, broken: jax.Array) -> HillState:
        """Broken for good at this image, or on to the next."""
        progress = state.progress._replace(
            adversarial=state.x,
            broken_at=state.progress.evaluations,
            evaluations=state.progress.evaluations + 1,
            done=jnp.ones_like(state.progress.done),
        )
        end = state._replace(progress=progress)
        return choose(broken, end, self._move(ball, state))

    def _move(self, ball: NormBall, state: HillState) -> HillState:
        progress = state.progress
        x = ascend(ball, state.x, state.example.image, state.gradient, self.step_size)
        last = progress.evaluations >= self.num_steps
        return state._replace(
            x=jnp.where(last, state.x, x),
            progress=progress._replace(
                adversarial=jnp.where(last, state.x, progress.adversarial),
                evaluations=progress.evaluations + 1,
                done=progress.done | last,
            ),
        )


def _is_wrong(logits: jax.Array, label: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(logits)) & (jnp.argmax(logits) != label)
