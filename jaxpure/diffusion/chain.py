"""Noising and the reverse chain: one scan for every step rule.

The noise of a reverse step is addressed by its timestep, not by its place in the loop:
a chain that visits fewer timesteps meets the same noise at those it shares.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure.diffusion.schedules import Schedule
from jaxpure.diffusion.steps import StepRule
from jaxpure.randomness import noise_at
from jaxpure.types import Denoiser, Key, register_pytree


@partial(
    register_pytree,
    data_fields=["noise_index", "labels", "signal", "coefficients"],
    meta_fields=["rule"],
)
@dataclass(frozen=True, eq=False)
class Chain:
    """The steps of a reverse process, ready to be scanned.

    Attributes:
      rule: how a step goes; static.
      noise_index: `(n,)` int32, the timestep by which each step's noise is addressed.
      labels: `(n,)` what the denoiser is told at each step.
      signal: `(n,)` the signal's share of the variance after each step, 1 after the last.
      coefficients: pytree of `(n,)`, the rule's numbers.
    """

    rule: StepRule
    noise_index: Any
    labels: Any
    signal: Any
    coefficients: Any

    def __len__(self) -> int:
        return self.noise_index.shape[0]

    def __repr__(self) -> str:
        return f"Chain({self.rule}, {len(self)} steps)"


def make_chain(schedule: Schedule, rule: StepRule, start: int) -> Chain:
    """The reverse chain from timestep `start` down to 0.

    Args:
      schedule: the noise that the denoiser was trained with.
      rule: a step rule.
      start: the first timestep to be denoised, 0 to num_timesteps - 1.
    """
    if not 0 <= start < schedule.num_timesteps:
        raise ValueError(
            f"a chain cannot start at timestep {start}; expected 0 to "
            f"{schedule.num_timesteps - 1}"
        )
    timesteps = rule.timesteps(start)
    labels, coefficients = rule.coefficients(schedule, timesteps)
    signal = schedule.signal(np.append(timesteps[1:], -1))
    return Chain(rule, timesteps.astype(np.int32), labels, signal, coefficients)


def add_noise(signal: jax.Array, x: jax.Array, noise: jax.Array) -> jax.Array:
    """Noises a clean `x` to where the signal has this share of the variance."""
    signal = jnp.asarray(signal, x.dtype)
    return jnp.sqrt(signal) * x + jnp.sqrt(1 - signal) * noise


def reverse(chain: Chain, denoiser: Denoiser, key: Key, x: jax.Array) -> jax.Array:
    """Runs the chain on one image `(H, W, C)` in the diffusion's range.

    Exactly differentiable: the backward pass keeps the `n` states and recomputes each
    step from its own, with the same noise, since noise is a function of the key and the
    step's timestep. (A checkpoint around the whole scan would save nothing.)

    Args:
      chain: the steps.
      denoiser: `(x, t) -> predicted noise`.
      key: noise of the step at timestep t is `fold_in(key, t)`'s; consumed.
      x: where to begin.
    """
    step = _checkpointed_step(chain, denoiser, key)
    return jax.lax.scan(lambda x, i: (step(x, i), None), x, _inputs(chain, x))[0]


def reverse_states(chain: Chain, denoiser: Denoiser, key: Key, x: jax.Array) -> jax.Array:
    """All states of `reverse`, each after its step: `(n, H, W, C)`, the last its result."""
    step = _checkpointed_step(chain, denoiser, key)

    def body(x, inputs):
        after = step(x, inputs)
        return after, after

    return jax.lax.scan(body, x, _inputs(chain, x))[1]


def _checkpointed_step(chain: Chain, denoiser: Denoiser, key: Key):
    @partial(jax.checkpoint, prevent_cse=False)  # scan already prevents it
    def step(x, inputs):
        index, label, c = inputs
        noise = noise_at(key, index, x)
        return chain.rule.step(c, x, denoiser(x, label), noise)

    return step


def _inputs(chain: Chain, x: jax.Array) -> Any:
    """What is scanned over: where each step's noise is, its label, its numbers."""
    return (
        jnp.asarray(chain.noise_index),
        jnp.asarray(chain.labels, x.dtype),
        jax.tree.map(lambda a: jnp.asarray(a, x.dtype), chain.coefficients),
    )
