"""StAdv: spatially transformed adversarial examples (Xiao et al. 2018, arXiv:1801.02612).

No pixel is given a new value; each is fetched from a little way off, by bilinear
interpolation (eq. 1). The flow that says from where is what is optimised: the attack climbs
the loss less `tau` times the flow's roughness (eqs. 2 and 4), so that neighbours move
together.

Xiao et al. minimise without a bound, by L-BFGS. Purification is judged under a bounded flow
(Laidlaw, Singla and Feizi 2021; Nie et al. 2022, Table 4): no component is longer than
`flow_bound` in units of half the image's side, 0.05 there, which at 32 pixels is 0.8 of a
pixel. Then signed steps in the flow, as PGD takes them in the image, are what this does.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure.attacks.objective import Objective
from jaxpure.attacks.pgd import check_at_least, clean_gradient
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

REACH = 2.5  # steps of the whole search, in bounds: as far as there and back


class StadvState(NamedTuple):
    """All of the attack's progress on one image; see types.AttackProgress."""

    key: Key
    original: jax.Array
    label: jax.Array
    flow: jax.Array  # (H, W, 2) rows and columns, in pixels; the next step evaluates it
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
    data_fields=["objective", "flow_bound", "num_steps", "tau"],
    meta_fields=["random_start", "criterion"],
)
@dataclass(frozen=True, eq=False)
class Stadv:
    """StAdv under a bound on the flow. Build it with `create`.

    An image is evaluated `num_steps + 1` times and moved `num_steps` times; the result is
    the best iterate by the criterion. Where the attack sees exactly what will judge it
    (all replayed), it stops at the first misclassification.

    Attributes:
      objective: what is climbed.
      flow_bound: longest component of the flow, in units of half the image's side.
      num_steps: updates.
      tau: weight of the flow's roughness (0.05 in the paper).
      random_start: begin at a random flow instead of at none.
      criterion: when an iterate counts as broken; see `verdict.judge_draws`.
    """

    objective: Objective
    flow_bound: Any
    num_steps: Any
    tau: Any
    random_start: bool = True
    criterion: str = "most"

    norm: ClassVar[str] = "flow"

    @classmethod
    def create(
        cls,
        defense: Any,
        policy: Policy,
        *,
        flow_bound: float = 0.05,
        num_steps: int = 100,
        loss: str = "margin",
        average: str = "loss",
        eot_samples: int = 1,
        tau: float = 0.05,
        random_start: bool = True,
        criterion: str = "most",
    ) -> "Stadv":
        """StAdv on a defense that is already under a gradient rule.

        Raises:
          ValueError: an option out of its range.
        """
        check_at_least(0, num_steps=num_steps, tau=tau)
        check_criterion(criterion)
        if not 0 <= flow_bound <= 2:
            raise ValueError(f"{flow_bound=}, expected 0 to 2: an image's side is 2")
        objective = Objective(defense, policy, loss, average, eot_samples)
        return cls(objective, flow_bound, num_steps, tau, random_start, criterion)

    @property
    def eps(self) -> Any:
        return self.flow_bound

    @property
    def policy(self) -> Policy:
        return self.objective.policy

    @property
    def draws(self) -> int:
        """Draws that differ behind every verdict on an iterate."""
        return self.objective.draws(self.policy.selection)

    @property
    def purifications_per_step(self) -> int:
        return self.objective.purifications_per_look

    @property
    def gradients_per_step(self) -> int:
        return self.objective.draws(self.policy.gradient)

    @property
    def max_steps(self) -> int:
        """Evaluations that an image can take."""
        return int(self.num_steps) + 1

    def init(self, key: Key, x: Image, label: Label) -> StadvState:
        shape = (*x.shape[:2], 2)
        flow = jnp.zeros(shape, x.dtype)
        if self.random_start:
            start = stream(key, "attack/start")
            flow = jax.random.uniform(start, shape, x.dtype, -1, 1)
            flow = flow * pixels(self.flow_bound, x.shape).astype(x.dtype)
        return StadvState(
            key=key,
            original=x,
            label=label,
            flow=flow,
            **started_to_select(x),
        )

    def step(self, state: StadvState) -> StadvState:
        x, pullback = jax.vjp(lambda flow: warp(state.original, flow), state.flow)
        look = self.objective.look(state.key, state.step, x, state.label)
        verdict = judge_draws(look.logits, state.label, self.criterion)
        selected = keep_best(state, x, verdict)
        finished = state.step >= self.num_steps
        if self.policy.replays_all:
            finished |= verdict.broken
        gradient, bad, zero = clean_gradient(pullback(look.gradient)[0])
        climbed = gradient - self.tau * jax.grad(roughness)(state.flow)
        bound = pixels(self.flow_bound, state.original.shape).astype(x.dtype)
        length = REACH * bound / jnp.maximum(self.num_steps, 1)
        moved = selected._replace(
            flow=jnp.clip(state.flow + length * jnp.sign(climbed), -bound, bound),
            done=finished,
            bad_gradients=state.bad_gradients + bad,
            zero_gradients=state.zero_gradients + zero,
        )
        return choose(state.done, state, moved)


def pixels(flow_bound: Any, shape: tuple[int, ...]) -> jax.Array:
    """A bound in units of half the image's side as pixels: `(1, 1, 2)`, for a flow."""
    return flow_bound * jnp.asarray(shape[:2])[None, None] / 2


def warp(x: Image, flow: jax.Array) -> Image:
    """The image whose pixels are fetched from where the flow points (paper, eq. 1).

    Bilinear between the four pixels around; beyond the edge, the edge's own pixels.

    Args:
      x: `(H, W, C)`.
      flow: `(H, W, 2)` rows and columns, in pixels.
    """
    height, width = x.shape[:2]
    flow = jnp.asarray(flow, x.dtype)
    here = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    limit = jnp.asarray([height - 1, width - 1])[None, None]
    # The way between two pixels is the flow's own: as part of a place among hundreds of
    # pixels it would be rounded.
    whole = jnp.floor(flow)
    low = jnp.stack(here, -1) + whole.astype(jnp.int32)
    low, high = jnp.clip(low, 0, limit), jnp.clip(low + 1, 0, limit)
    down, right = jnp.split(flow - whole, 2, -1)

    def row(i):
        return (1 - right) * x[i, low[..., 1]] + right * x[i, high[..., 1]]

    return (1 - down) * row(low[..., 0]) + down * row(high[..., 0])


def roughness(flow: jax.Array) -> jax.Array:
    """Distances of each pixel's flow from its four neighbours', summed (paper, eq. 4)."""
    total = jnp.zeros((), flow.dtype)
    for axis in (0, 1):
        squared = jnp.sum(jnp.square(jnp.diff(flow, axis=axis)), -1)
        total += 2 * jnp.sum(jnp.sqrt(squared + 1e-10))  # each pair is met from both ends
    return total


def excess(x: np.ndarray, original: np.ndarray, flow_bound: float) -> np.ndarray:
    """How far images are, at least, from any that a flow within the bound can make: `(n,)`.

    A channel of a pixel can take every value between the least and the largest that the
    interpolation reaches within the bound, and no other: the interpolation is bilinear
    between pixels, so these are met at whole pixels and at the bound's corners. Each
    channel is looked at by itself: with one it is the distance, with more a lower bound.
    """
    shape = original.shape[1:3]
    reach = [_offsets(flow_bound * side / 2) for side in shape]
    low, high = np.full(original.shape, np.inf), np.full(original.shape, -np.inf)
    for down in reach[0]:
        for right in reach[1]:
            fetched = _fetch(_fetch(original.astype(np.float64), down, 1), right, 2)
            low, high = np.minimum(low, fetched), np.maximum(high, fetched)
    outside = np.maximum(low - x, x - high)
    return np.maximum(outside.reshape(len(x), -1).max(1), 0)


def _offsets(bound: float) -> np.ndarray:
    whole = np.arange(-np.floor(bound), np.floor(bound) + 1)
    return np.unique(np.concatenate([[-bound], whole, [bound]]))


def _fetch(images: np.ndarray, offset: float, axis: int) -> np.ndarray:
    """Images moved along an axis by linear interpolation, edges repeated."""
    side = images.shape[axis]
    place = np.clip(np.arange(side) + offset, 0, side - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, side - 1)
    shape = [1] * images.ndim
    shape[axis] = side
    rest = (place - low).reshape(shape)
    return (1 - rest) * np.take(images, low, axis) + rest * np.take(images, high, axis)
