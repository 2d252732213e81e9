"""RevPure: the reverse half alone; the image itself is taken as the noised one.

The forward half is not needed: reverse diffusion started at the adversarial image
already removes the perturbation's part (the finding this library was made to check).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxpure.diffusion import (
    Chain,
    Ddpm,
    Schedule,
    StepRule,
    linear,
    make_chain,
    reverse,
)
from jaxpure.purifiers.diffpure import first_timestep
from jaxpure.randomness import PartKeys, part
from jaxpure.types import Denoiser, Image, Key, register_pytree


@partial(
    register_pytree,
    data_fields=["denoiser", "chain", "scale"],
    meta_fields=[],
)
@dataclass(frozen=True, eq=False)
class RevPure:
    """Purifies one image by the reverse chain from t_star, without noising it first.

    Attributes:
      denoiser: `(x, t) -> predicted noise`.
      chain: the reverse steps.
      scale: `()` factor of the input in [-1, 1]; 1, or sqrt(alphas_cumprod) at the
        first timestep, which is the mean that noising would have given.
    """

    denoiser: Denoiser
    chain: Chain
    scale: Any

    @classmethod
    def create(
        cls,
        denoiser: Denoiser,
        schedule: Schedule | None = None,
        *,
        t_star: int = 100,
        step_rule: StepRule | None = None,
        scale_input: bool = False,
        start: str = "t_star_minus_1",
    ) -> "RevPure":
        """A RevPure with this denoiser; arguments as for `DiffPure.create`."""
        schedule = linear() if schedule is None else schedule
        first = first_timestep(t_star, start)
        chain = make_chain(schedule, step_rule or Ddpm(), first)
        scale = schedule.alphas_cumprod[first] ** 0.5 if scale_input else 1.0
        return cls(denoiser, chain, scale)

    @property
    def noise_parts(self) -> tuple[str, ...]:
        return ("reverse",) if self.chain.rule.is_random else ()

    @property
    def denoiser_evaluations(self) -> int:
        return len(self.chain)

    def __call__(self, key: Key | PartKeys, x: Image) -> Image:
        # Round 0 of DiffPure's noise, so that either can stand in for the other.
        reverse_key = jax.random.fold_in(part(key, "reverse"), 0)
        start = jnp.asarray(self.scale, x.dtype) * (2 * x - 1)
        return (reverse(self.chain, self.denoiser, reverse_key, start) + 1) / 2
