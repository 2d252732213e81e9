"""Noising and the reverse chain: one scan for every step rule.

The noise of a reverse step is addressed by its timestep, not by its place in the loop:
a chain that visits fewer timesteps meets the same noise at those it shares.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure.diffusion.schedules import Levels, Schedule
from jaxpure.diffusion.steps import StepRule
from jaxpure.errors import UserError, check_in
from jaxpure.keys import Key, noise_at
from jaxpure.pytrees import Static, Unrecorded, pytree
from jaxpure.types import Denoiser

Remat = Literal["step", "products", "none"]
"""What the gradient through a chain computes again: all of a "step" from its state, all but
the results of "products" (matrices, convolutions), or "none" of it. The less, the more
memory (benchmarks/README.md)."""


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    names = ("dot_general", "conv_general_dilated", "conv2d", "conv2d_of_upsampled")
    return primitive.name in names


@pytree(eq=False, repr=False)
class Chain:
    """The steps of a reverse process, ready to be scanned.

    Attributes:
      rule: how a step goes; static.
      noise_index: `(n,)` int32, the timestep by which each step's noise is addressed.
      labels: `(n,)` what the denoiser is told at each step.
      signal: `(n,)` the signal's share of the variance after each step, 1 after the last.
      coefficients: dict of `(n,)`, the rule's numbers.
      remat: what its gradient computes again; static.
    """

    rule: Static[StepRule]
    noise_index: Any
    labels: Any
    signal: Any
    coefficients: Any
    remat: Unrecorded[Remat] = "step"

    def __len__(self) -> int:
        return self.noise_index.shape[0]

    def __repr__(self) -> str:
        return f"Chain({self.rule}, {len(self)} steps)"


class Step(NamedTuple):
    """What a guide is told of the step that it corrects.

    Attributes:
      timestep: `()` int32, which is also what noise is addressed by.
      signal_level: `()` square root of the signal's share of the variance of `x`.
      noise_level: `()` square root of the noise's share.
      variance: `()` or `(H, W, C)` of the step's noise (`StepRule.noise_variance`).
      prediction: what the denoiser returned for `x`.
    """

    timestep: jax.Array
    signal_level: jax.Array
    noise_level: jax.Array
    variance: jax.Array
    prediction: jax.Array


Guide = Callable[[jax.Array, Step], jax.Array]
"""`(x, step) -> (H, W, C)`: what is added to the mean of a reverse step from `x`.

Guided diffusion (Dhariwal and Nichol 2021, algorithm 1) returns the step's variance times
the gradient of what it wants to grow; GDMP (Wang et al. 2022) does so with the distance to
the noised input.
"""


def make_chain(
    schedule: Schedule, rule: StepRule, start: int, remat: Remat = "step"
) -> Chain:
    """The reverse chain from timestep `start` down to 0.

    Args:
      schedule: the noise that the denoiser was trained with.
      rule: a step rule.
      start: the first timestep to be denoised, 0 to num_timesteps - 1.
      remat: what a gradient computes again.
    """
    check_in("remat", remat, get_args(Remat))
    if not 0 <= start < schedule.num_timesteps:
        raise UserError(
            f"a chain cannot start at timestep {start}; expected 0 to "
            f"{schedule.num_timesteps - 1}"
        )
    timesteps = rule.timesteps(start)
    labels, coefficients = rule.coefficients(schedule, timesteps)
    signal = schedule.signal(np.append(timesteps[1:], -1))
    return Chain(rule, timesteps.astype(np.int32), labels, signal, coefficients, remat)


def add_noise(signal: jax.Array, x: jax.Array, noise: jax.Array) -> jax.Array:
    """Noises a clean `x` to where the signal has this share of the variance.

    The noise's share is taken from the signal's in the dtype of `x`, which in float32
    costs up to 2e-6 of the result at timestep 0 and less further on; `mix` does not.
    """
    signal = jnp.asarray(signal, x.dtype)
    return jnp.sqrt(signal) * x + jnp.sqrt(1 - signal) * noise


def mix(levels: Levels, x: jax.Array, noise: jax.Array) -> jax.Array:
    """Noises a clean `x` to levels that were computed in float64 (`Schedule.levels`)."""
    signal, noise_level = (jnp.asarray(level, x.dtype) for level in levels)
    return signal * x + noise_level * noise


def reverse(
    chain: Chain, denoiser: Denoiser, key: Key, x: jax.Array, guide: Guide | None = None
) -> jax.Array:
    """Runs the chain on one image `(H, W, C)` in the diffusion's range.

    Exactly differentiable: the backward pass keeps the `n` states and recomputes each
    step from its own (or what `chain.remat` says), with the same noise, since noise is a
    function of the key and the step's timestep. (A checkpoint around the whole scan would
    save nothing.)

    Args:
      chain: the steps.
      denoiser: `(x, t) -> predicted noise`.
      key: noise of the step at timestep t is `fold_in(key, t)`'s; consumed.
      x: where to begin.
      guide: what to add to the mean of each step; a key of its own goes in its closure.
    """
    step = _step(chain, denoiser, key, guide)
    return jax.lax.scan(lambda x, i: (step(x, i), None), x, _inputs(chain, x))[0]


def reverse_states(
    chain: Chain, denoiser: Denoiser, key: Key, x: jax.Array, guide: Guide | None = None
) -> jax.Array:
    """All states of `reverse`, each after its step: `(n, H, W, C)`, the last its result."""
    step = _step(chain, denoiser, key, guide)

    def body(x, inputs):
        after = step(x, inputs)
        return after, after

    return jax.lax.scan(body, x, _inputs(chain, x))[1]


def _step(chain: Chain, denoiser: Denoiser, key: Key, guide: Guide | None):
    def step(x, inputs):
        index, label, c = inputs
        noise = noise_at(key, index, x)
        prediction = denoiser(x, label)
        after = chain.rule.step(c, x, prediction, noise)
        if guide is None:
            return after
        variance = chain.rule.noise_variance(c, x, prediction)
        levels = c["signal_level"], c["noise_level"]
        return after + guide(x, Step(index, *levels, variance, prediction))

    if chain.remat == "none":
        return step
    policy = _is_product if chain.remat == "products" else None
    return jax.checkpoint(step, prevent_cse=False, policy=policy)  # the scan prevents it


def _inputs(chain: Chain, x: jax.Array) -> Any:
    """What is scanned over: where each step's noise is, its label, its numbers."""
    return (
        jnp.asarray(chain.noise_index),
        jnp.asarray(chain.labels, x.dtype),
        jax.tree.map(lambda a: jnp.asarray(a, x.dtype), chain.coefficients),
    )
