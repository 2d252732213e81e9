"""When Auto-PGD shortens its step, and from where it goes on (Croce and Hein 2020,
arXiv:2003.01690, section 3.2; in L1, Croce and Hein 2021, arXiv:2103.01208, section 4).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.types import Image

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


def new_run(x: Image, eps: Any, num_steps: Any, *, sparse: bool) -> Run:
    """Before the first evaluation of a run; `sparse` in L1."""
    zero, low = jnp.zeros((), jnp.int32), jnp.full((), -jnp.inf, x.dtype)
    return Run(
        previous=x,
        step_size=jnp.asarray((1.0 if sparse else 2.0) * eps, x.dtype),
        best=x,
        best_gradient=jnp.zeros_like(x),
        best_loss=low,
        last_loss=low,
        rises=zero,
        since=zero,
        window=percent(4 if sparse else 22, num_steps),
        checked_loss=low,
        shortened=jnp.ones((), bool),
        share=jnp.full((), L1_SHARE, x.dtype),
        support=jnp.full((), x.size, x.dtype),
    )


def percent(share: int, num_steps: Any) -> jax.Array:
    """`share` hundredths of the updates, rounded down, at least 1: `()` int32."""
    return jnp.asarray(jnp.maximum(share * num_steps // 100, 1), jnp.int32)


def observe(run: Run, iteration: jax.Array, x: Image, gradient, loss) -> Run:
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


def check_progress(run: Run, rho: Any, num_steps: Any) -> tuple[Run, jax.Array]:
    """A checkpoint in Linf and L2: `(run, whether to go back to the best point)`.

    The step is halved where the loss rose too seldom (condition 1), or where neither the
    step nor the best loss has changed since the last checkpoint (condition 2).
    """
    seldom = run.rises <= rho * run.window
    stuck = ~run.shortened & (run.checked_loss >= run.best_loss)
    halve = seldom | stuck
    shorter = jnp.maximum(run.window - percent(3, num_steps), percent(6, num_steps))
    checked = run._replace(
        step_size=jnp.where(halve, run.step_size / 2, run.step_size),
        rises=jnp.zeros_like(run.rises),
        since=jnp.zeros_like(run.since),
        window=shorter,
        checked_loss=run.best_loss,
        shortened=halve,
    )
    return checked, halve


def check_support(run: Run, original: Image, eps: Any) -> tuple[Run, jax.Array]:
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
