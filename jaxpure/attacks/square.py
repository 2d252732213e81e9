"""Square attack (Andriushchenko et al. 2020, arXiv:1912.00049): queries, no gradients.

Random search over squares: each query changes one square window of the best image so far
(in L2, it moves a second one's share of the ball there too) and is kept if it does
better. The windows shrink as queries are spent. It agrees with the implementation in the
auto-attack repository as AutoAttack calls it (a schedule that is not rescaled to the
number of queries), in its rate of success: the random numbers are others.

A window's size changes while the program runs, so windows are masks over the image.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure.attacks.balls import NormBall, check_ball
from jaxpure.attacks.progress import Budget, Example, Progress, init_progress
from jaxpure.attacks.verdict import Verdict, judge_draws
from jaxpure.errors import check_range
from jaxpure.keys import Key, drawn, stream
from jaxpure.losses import loss_named
from jaxpure.objective import Objective
from jaxpure.policy import Policy
from jaxpure.pytrees import Static, choose, pytree
from jaxpure.types import Image, Label

NORMS = ("linf", "l2")
# Queries after which the share of pixels in a window is halved once more.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
TINY = 1e-12


class SquareState(NamedTuple):
    """All of the attack's progress on one image.

    Attributes:
      example: what is attacked.
      count: `()` int32, runs finished.
      query: `()` int32, of this run: 0 asks for the first image; -1: the clean image.
      best: `(H, W, C)` of this run.
      best_wrong: `()` bool, whether it is misclassified.
      best_loss: `()` its.
      highest_wrong: `()` bool, of `progress.adversarial`, the best of all runs.
      highest_loss: `()` likewise.
      progress: what every attack keeps.
    """

    example: Example
    count: jax.Array
    query: jax.Array
    best: Image
    best_wrong: jax.Array
    best_loss: jax.Array
    highest_wrong: jax.Array
    highest_loss: jax.Array
    progress: Progress


@pytree
class Square:
    """Square attack with restarts; the gradient rule of its defense is of no importance.

    A run asks for a first image (stripes in Linf, tiles in L2) and then for `num_queries`
    others. An image is better than another if it is misclassified and the other is not,
    or if they are alike in that and its loss is higher, under the policy's selection
    keys; before anything is misclassified that is the reference's rule. The result is the
    best image of all runs. A run after one that broke the image is not made, and where
    the attack sees exactly what will judge it (all replayed), it ends at the first
    misclassification; else it goes on to the end of the run.

    An image that is misclassified to begin with, in all draws of the first look, is left
    alone.

    Attributes:
      num_queries: changes that a run tries (5000 in AutoAttack).
      eot_samples: draws of a query.
      p_init: share of the pixels in the first windows (0.8 in AutoAttack).
      loss: what is climbed: a name of `losses.LOSSES`, or a function.
      num_restarts: runs.
    """

    num_queries: int = 5000
    eot_samples: Static[int] = 1
    p_init: float = 0.8
    loss: Static[str] = "margin"
    num_restarts: int = 1

    def __post_init__(self):
        check_range(1, num_queries=self.num_queries, num_restarts=self.num_restarts)
        check_range(0, 1, above=True, p_init=self.p_init)
        loss_named(self.loss)

    def objective(self, defense: Any, policy: Policy) -> Objective:
        return Objective(defense, policy, self.loss, eot_samples=self.eot_samples)

    def budget(self, objective: Objective) -> Budget:
        calls = self.num_restarts * (self.num_queries + 1) + 1
        return Budget(calls, 0, objective.selection_draws, objective.selection_draws)

    def init(
        self, objective: Objective, ball: NormBall, key: Key, x: Image, label: Label
    ) -> SquareState:
        del objective
        check_ball("square", ball, NORMS)
        zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        low = jnp.full((), -jnp.inf, x.dtype)
        return SquareState(
            example=Example(key, x, label),
            count=zero,
            query=zero - 1,
            best=x,
            best_wrong=no,
            best_loss=low,
            highest_wrong=no,
            highest_loss=low,
            progress=init_progress(x),
        )

    def step(self, objective: Objective, ball: NormBall, state: SquareState) -> SquareState:
        example, evaluations = state.example, state.progress.evaluations
        x = self._propose(ball, state)
        logits = objective.selection_logits(example.key, evaluations, x)
        verdict = judge_draws(logits, example.label)
        loss = objective.mean_loss(logits, example.label).astype(x.dtype)
        after = choose(
            state.query < 0,
            _begin(state, verdict),
            self._advance(objective, state, x, loss, verdict),
        )
        progress = after.progress.watch(verdict)._replace(evaluations=evaluations + 1)
        return after._replace(progress=progress)

    def _propose(self, ball: NormBall, state: SquareState) -> Image:
        """The image of the next query."""
        original, step = state.example.image, state.progress.evaluations
        key = jax.random.fold_in(stream(state.example.key, "attack/proposal"), step)
        first, change = (
            (stripes, change_linf) if ball.name == "linf" else (tiles, change_l2)
        )
        size = window_size(self.p_init, state.query - 1, original.shape)
        # One key for either: only one of them is looked at.
        begun = first(key, original, ball.eps)
        changed = change(jax.random.clone(key), original, state.best, size, ball.eps)
        x = jnp.where(state.query == 0, begun, changed)
        return jnp.where(state.query < 0, original, x)

    def _advance(
        self,
        objective: Objective,
        state: SquareState,
        x: Image,
        loss: jax.Array,
        verdict: Verdict,
    ) -> SquareState:
        """After a query: keep the image if it is better; on to the next."""
        progress, wrong = state.progress, verdict.broken
        first = state.query == 0
        better = first | is_better(wrong, loss, state.best_wrong, state.best_loss)
        best = is_better(wrong, loss, state.highest_wrong, state.highest_loss)
        progress = progress._replace(
            adversarial=jnp.where(best, x, progress.adversarial),
            broken_at=progress.first_broken(wrong),
        )
        ended = state.query >= self.num_queries
        done = ended & (progress.broken | (state.count + 1 >= self.num_restarts))
        if objective.policy.replays_all:
            done |= progress.broken
        return state._replace(
            count=state.count + ended,
            query=jnp.where(ended, 0, state.query + 1),
            best=jnp.where(better, x, state.best),
            best_wrong=jnp.where(better, wrong, state.best_wrong),
            best_loss=jnp.where(better, loss, state.best_loss),
            highest_wrong=jnp.where(best, wrong, state.highest_wrong),
            highest_loss=jnp.where(best, loss, state.highest_loss),
            progress=progress._replace(done=done),
        )


def _begin(state: SquareState, verdict: Verdict) -> SquareState:
    """After the look at the clean image: leave it alone, or begin."""
    alone, progress = verdict.fooled == 1, state.progress
    return state._replace(
        query=jnp.zeros_like(state.query),
        progress=progress._replace(
            done=progress.done | alone,
            broken_at=jnp.where(alone, progress.evaluations, progress.broken_at),
        ),
    )


def is_better(wrong, loss, other_wrong, other_loss) -> jax.Array:
    """Misclassified where the other is not, or alike in that and of higher loss."""
    return (wrong & ~other_wrong) | ((wrong == other_wrong) & (loss > other_loss))


def window_size(p_init, query, shape: tuple[int, ...]) -> jax.Array:
    """Side of the window of a query, counted from 0: `()` int32, 1 to the image's."""
    halvings = jnp.sum(query > jnp.asarray(HALVINGS))
    area = p_init / 2**halvings * (shape[0] * shape[1])
    return jnp.clip(jnp.round(jnp.sqrt(area)), 1, min(shape[:2])).astype(jnp.int32)


def window(key: Key, size, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The first row and column of a window at random.

    As in the reference it is never the last possible one, unless that is the first too.
    """
    room = jnp.maximum(jnp.asarray(shape[:2]) - size, 1)
    row, column = jax.random.randint(key, (2,), 0, room)
    return row, column


def inside(row, column, size, shape: tuple[int, ...]) -> jax.Array:
    """`(H, W, 1)` bool, the pixels of a window."""
    rows = jnp.arange(shape[0])[:, None, None] - row
    columns = jnp.arange(shape[1])[None, :, None] - column
    return (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)


def stripes(key: Key, x: Image, eps) -> Image:
    """Vertical stripes, one pixel wide, on the ball's corners."""
    signs = drawn(jax.random.rademacher, key, (1, *x.shape[1:]), x.dtype)
    return jnp.clip(x + eps * signs, 0, 1)


def change_linf(key: Key, original: Image, best: Image, size, eps) -> Image:
    """One window, every channel of it to one side of the ball."""
    where, signs = jax.random.split(key)
    mask = inside(*window(where, size, best.shape), size, best.shape)
    signs = jax.random.rademacher(signs, (1, 1, best.shape[2]), best.dtype)
    # The reference adds 2 eps and cuts, which is the ball's side whatever was there.
    return jnp.where(mask, jnp.clip(original + eps * signs, 0, 1), best)


def tiles(key: Key, x: Image, eps) -> Image:
    """A grid of five by five bumps or more, each of one sign per channel, on the sphere.

    The bumps at the image's edge are cut where the grid does not fit.
    """
    height, width, channels = x.shape
    side = max(height // 5, 1)
    margin = max((height - 5 * side) // 2, 0)
    counts = height // side, width // side
    turns, signs = jax.random.split(key)
    turned = jax.random.bernoulli(turns, 0.5, counts)
    signs = drawn(jax.random.rademacher, signs, (*counts, channels), x.dtype)
    place = jnp.arange(side)
    bumps = two_bumps(place[:, None], place[None, :], side, side).astype(x.dtype)
    bumps = jnp.where(turned[..., None, None], bumps.T, bumps)
    grid = jnp.einsum("rcij,rck->ricjk", bumps, signs)
    grid = grid.reshape(counts[0] * side, counts[1] * side, channels)
    grid = grid[: height - margin, : width - margin]
    rows, columns = (slice(margin, margin + length) for length in grid.shape[:2])
    delta = jnp.zeros_like(x).at[rows, columns].set(grid)
    return jnp.clip(x + eps * _unit(delta), 0, 1)


def change_l2(key: Key, original: Image, best: Image, size, eps) -> Image:
    """Two bumps added in one window, and all change taken from another."""
    height, width, channels = best.shape
    first, second, turn, signs = jax.random.split(key, 4)
    size = jnp.maximum(size, 3)
    size = jnp.minimum(size + 1 - size % 2, min(height, width))
    row, column = window(first, size, best.shape)
    here = inside(row, column, size, best.shape)
    there = inside(*window(second, size, best.shape), size, best.shape)

    i, j = jnp.arange(height)[:, None] - row, jnp.arange(width)[None, :] - column
    most = min(height, width)
    bump = jnp.where(
        jax.random.bernoulli(turn),
        two_bumps(j, i, size, most),
        two_bumps(i, j, size, most),
    )
    signs = jax.random.rademacher(signs, (1, 1, channels), best.dtype)
    delta = best - original
    added = _unit(
        bump[..., None].astype(best.dtype) * signs + _unit(delta * here, (0, 1)), (0, 1)
    )
    # Each channel gets its share of what the ball has left, and what both windows held.
    left = jnp.maximum(eps**2 - jnp.sum(delta**2), 0) / channels
    held = jnp.sum((delta * (here | there)) ** 2, (0, 1), keepdims=True)
    delta = jnp.where(here, added * jnp.sqrt(left + held), jnp.where(there, 0, delta))
    return jnp.clip(original + eps * _unit(delta), 0, 1)


def two_bumps(i, j, size, most: int) -> jax.Array:
    """A bump up and a bump down, halves of a window, of unit L2 norm together.

    A bump is highest in the middle and falls in square rings (paper, section 3.3).

    Args:
      i, j: rows and columns from the window's first, that broadcast together: the upper
        half are rows below `size // 2`. Outside of the window all is 0.
      size: the window's side.
      most: the largest that it may be.
    """
    heights = np.cumsum(1 / np.arange(1, most + 2) ** 2)
    heights = jnp.asarray(np.concatenate([[0.0], heights]))
    half = size // 2
    upper = i < half
    rows = jnp.where(upper, half, size - half)
    ring = jnp.maximum(
        jnp.abs(jnp.where(upper, i, i - half) - rows // 2), jnp.abs(j - size // 2)
    )
    within = (i >= 0) & (i < size) & (j >= 0) & (j < size)
    bump = jnp.where(within, heights[half + 1] - heights[jnp.minimum(ring, most)], 0)
    return _unit(_unit(jnp.where(upper, bump, 0)) - _unit(jnp.where(upper, 0, bump)))


def _unit(delta: jax.Array, axes: tuple[int, ...] | None = None) -> jax.Array:
    length = jnp.sqrt(jnp.sum(delta**2, axes, keepdims=True))
    return delta / (length + TINY)
