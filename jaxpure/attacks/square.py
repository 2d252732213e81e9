"""Square attack (Andriushchenko et al. 2020, arXiv:1912.00049): queries, no gradients.

Random search over squares: each query changes one square window of the best image so far
(in L2, it moves a second one's share of the ball there too) and is kept if it does
better. The windows shrink as queries are spent. It agrees with the implementation in the
auto-attack repository as AutoAttack calls it (a schedule that is not rescaled to the
number of queries), in its rate of success: the random numbers are others.

A window's size changes while the program runs, so windows are masks over the image.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure.attacks.objective import Objective
from jaxpure.attacks.pgd import check_at_least, check_ball
from jaxpure.attacks.verdict import judge_draws, started
from jaxpure.randomness import Policy, choose, stream
from jaxpure.types import Image, Key, Label, register_pytree

SQUARE_NORMS = ("linf", "l2")
# Queries after which the share of pixels in a window is halved once more.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
TINY = 1e-12


class SquareState(NamedTuple):
    """All of the attack's progress on one image; see types.AttackProgress."""

    key: Key
    original: jax.Array
    label: jax.Array
    count: jax.Array  # runs finished
    query: jax.Array  # of this run: 0 asks for the first image; -1: the clean image
    best: jax.Array  # of this run
    best_wrong: jax.Array
    best_loss: jax.Array
    highest_wrong: jax.Array  # of `adversarial`
    highest_loss: jax.Array
    adversarial: jax.Array
    step: jax.Array
    done: jax.Array
    broken_at: jax.Array
    bad_gradients: jax.Array
    zero_gradients: jax.Array


@partial(
    register_pytree,
    data_fields=["objective", "eps", "num_queries", "p_init", "num_restarts"],
    meta_fields=["norm"],
)
@dataclass(frozen=True, eq=False)
class Square:
    """Square attack with restarts. Build it with `create`.

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
      objective: what is climbed.
      eps: radius of the ball, in units of the image's range [0, 1].
      num_queries: changes that a run tries (5000 in AutoAttack).
      p_init: share of the pixels in the first windows (0.8 in AutoAttack).
      num_restarts: runs.
      norm: "linf" or "l2".
    """

    objective: Objective
    eps: Any
    num_queries: Any
    p_init: Any
    num_restarts: Any
    norm: str = "linf"

    @classmethod
    def create(
        cls,
        defense: Any,
        policy: Policy,
        *,
        eps: float,
        num_queries: int = 5000,
        norm: str = "linf",
        p_init: float = 0.8,
        loss: str = "margin",
        num_restarts: int = 1,
        eot_samples: int = 1,
    ) -> "Square":
        """The attack on a defense; its gradient rule is of no importance."""
        check_ball(norm, eps, norms=SQUARE_NORMS)
        check_at_least(0, num_queries=num_queries)
        check_at_least(1, num_restarts=num_restarts)
        if not 0 < p_init <= 1:
            raise ValueError(f"{p_init=}, expected above 0, to 1: a share of the pixels")
        objective = Objective(defense, policy, loss, "loss", eot_samples)
        return cls(objective, eps, num_queries, p_init, num_restarts, norm)

    @property
    def policy(self) -> Policy:
        return self.objective.policy

    @property
    def purifications_per_step(self) -> int:
        return self.objective.draws(self.policy.selection)

    @property
    def gradients_per_step(self) -> int:
        return 0

    @property
    def max_steps(self) -> int:
        """Queries that an image can take, the look at the clean image among them."""
        return int(self.num_restarts) * (int(self.num_queries) + 1) + 1

    def init(self, key: Key, x: Image, label: Label) -> SquareState:
        zero = jnp.zeros((), jnp.int32)
        low = jnp.full((), -jnp.inf, x.dtype)
        no = jnp.zeros((), bool)
        return SquareState(
            key=key,
            original=x,
            label=label,
            count=zero,
            query=zero - 1,
            best=x,
            best_wrong=no,
            best_loss=low,
            highest_wrong=no,
            highest_loss=low,
            **started(x),
        )

    def step(self, state: SquareState) -> SquareState:
        x = self._propose(state)
        logits = self.objective.selection_logits(state.key, state.step, x)
        after = choose(
            state.query < 0, self._begin(state, logits), self._advance(state, x, logits)
        )
        return choose(state.done, state, after._replace(step=state.step + 1))

    def _propose(self, state: SquareState) -> Image:
        """The image of the next query."""
        key = jax.random.fold_in(stream(state.key, "attack/proposal"), state.step)
        first, change = (
            (stripes, change_linf) if self.norm == "linf" else (tiles, change_l2)
        )
        size = window_size(self.p_init, state.query - 1, state.original.shape)
        # One key for either: only one of them is looked at.
        begun = first(key, state.original, self.eps)
        changed = change(jax.random.clone(key), state.original, state.best, size, self.eps)
        x = jnp.where(state.query == 0, begun, changed)
        return jnp.where(state.query < 0, state.original, x)

    def _begin(self, state: SquareState, logits: jax.Array) -> SquareState:
        """After the look at the clean image: leave it alone, or begin."""
        alone = judge_draws(logits, state.label).fooled == 1
        return state._replace(
            query=jnp.zeros_like(state.query),
            done=state.done | alone,
            broken_at=jnp.where(alone, state.step, state.broken_at),
        )

    def _advance(self, state: SquareState, x: Image, logits: jax.Array) -> SquareState:
        """After a query: keep the image if it is better; on to the next."""
        loss = self.objective.mean_loss(logits, state.label).astype(x.dtype)
        wrong = judge_draws(logits, state.label).broken
        first = state.query == 0
        better = first | is_better(wrong, loss, state.best_wrong, state.best_loss)
        best = is_better(wrong, loss, state.highest_wrong, state.highest_loss)
        broken_at = jnp.where(wrong & (state.broken_at < 0), state.step, state.broken_at)
        broken = broken_at >= 0
        ended = state.query >= self.num_queries
        done = ended & (broken | (state.count + 1 >= self.num_restarts))
        if self.policy.replays_all:
            done |= broken
        return state._replace(
            count=state.count + ended,
            query=jnp.where(ended, 0, state.query + 1),
            best=jnp.where(better, x, state.best),
            best_wrong=jnp.where(better, wrong, state.best_wrong),
            best_loss=jnp.where(better, loss, state.best_loss),
            highest_wrong=jnp.where(best, wrong, state.highest_wrong),
            highest_loss=jnp.where(best, loss, state.highest_loss),
            adversarial=jnp.where(best, x, state.adversarial),
            done=done,
            broken_at=broken_at,
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
    signs = jax.random.rademacher(key, (1, *x.shape[1:]), x.dtype)
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
    signs = jax.random.rademacher(signs, (*counts, channels), x.dtype)
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
