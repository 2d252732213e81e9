"""RevPure: the reverse half alone; the image itself is taken as the noised one.

The forward half is not needed: reverse diffusion started at the adversarial image
already removes the perturbation's part (the finding this library was made to check).
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from jaxpure.diffusion import (
    SCHEDULES,
    STEP_RULES,
    Chain,
    Ddpm,
    Remat,
    Schedule,
    StepRule,
    make_chain,
    reverse,
)
from jaxpure.keys import AnyKey, part
from jaxpure.purifiers.common import Start, first_timestep
from jaxpure.purifiers.fit import fitting_schedule
from jaxpure.pytrees import Static, Unrecorded, derived, pytree, set_derived
from jaxpure.types import Denoiser, Image


@pytree(eq=False)
class RevPure:
    """Purifies one image by the reverse chain from t_star, without noising it first.

    Attributes:
      denoiser: `(x, t) -> predicted noise`, a callable pytree.
      t_star: as for `DiffPure`.
      step_rule: how a reverse step goes.
      schedule: as for `DiffPure`.
      scale_input: multiply the input in [-1, 1] by sqrt(alphas_cumprod) at the first
        timestep, which is the mean that noising would have given.
      start: as for `DiffPure`.
      remat: as for `DiffPure`.
      chain: the reverse steps.
      scale: `()` what the input is multiplied by.
    """

    denoiser: Denoiser
    t_star: Static[int] = 100
    step_rule: Static[Annotated[StepRule, STEP_RULES]] = Ddpm()
    schedule: Static[Annotated[Schedule, SCHEDULES] | None] = None
    scale_input: Static[bool] = False
    start: Static[Start] = "t_star_minus_1"
    remat: Unrecorded[Remat] = "step"
    chain: Chain = derived()
    scale: Any = derived()

    def __post_init__(self):
        first = first_timestep(self.t_star, self.start)
        schedule = fitting_schedule(self.denoiser, self.schedule, first, self.step_rule)
        chain = make_chain(schedule, self.step_rule, first, self.remat)
        scale = schedule.alphas_cumprod[first] ** 0.5 if self.scale_input else 1.0
        set_derived(self, chain=chain, scale=scale)

    @property
    def noise_parts(self) -> tuple[str, ...]:
        return ("reverse",) if self.step_rule.is_random else ()

    @property
    def denoiser_evaluations(self) -> int:
        return len(self.chain)

    def __call__(self, key: AnyKey, x: Image) -> Image:
        # Round 0 of DiffPure's noise, so that either can stand in for the other.
        reverse_key = jax.random.fold_in(part(key, "reverse"), 0)
        start = jnp.asarray(self.scale, x.dtype) * (2 * x - 1)
        return (reverse(self.chain, self.denoiser, reverse_key, start) + 1) / 2
