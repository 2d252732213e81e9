"""One-shot denoising: noise to t_star, one call of the denoiser (Carlini et al. 2023)."""

from typing import Annotated, ClassVar

import jax.numpy as jnp

from jaxpure.diffusion import SCHEDULES, Levels, Schedule, mix
from jaxpure.diffusion.steps import predicted_clean
from jaxpure.keys import AnyKey, noise_at, part
from jaxpure.purifiers.common import Start, first_timestep
from jaxpure.purifiers.fit import fitting_schedule
from jaxpure.pytrees import Static, derived, pytree, set_derived
from jaxpure.types import Denoiser, Image


@pytree(eq=False)
class OneShot:
    """Purifies one image by the clean image that a single prediction implies.

    Attributes:
      denoiser: `(x, t) -> predicted noise`, a callable pytree.
      t_star: as for `DiffPure`.
      schedule: as for `DiffPure`.
      clip: clip the result to the range of images.
      start: as for `DiffPure`.
      levels: `()` each, signal and noise where the noising ends.
      label: `()` the timestep there, which the denoiser is told.
    """

    denoiser: Denoiser
    t_star: Static[int] = 100
    schedule: Static[Annotated[Schedule, SCHEDULES] | None] = None
    clip: Static[bool] = True
    start: Static[Start] = "t_star_minus_1"
    levels: Levels = derived()
    label: float = derived()

    noise_parts: ClassVar[tuple[str, ...]] = ("forward",)
    denoiser_evaluations: ClassVar[int] = 1

    def __post_init__(self):
        first = first_timestep(self.t_star, self.start)
        schedule = fitting_schedule(self.denoiser, self.schedule, first, None)
        set_derived(self, levels=schedule.levels(first), label=float(first))

    def __call__(self, key: AnyKey, x: Image) -> Image:
        noise = noise_at(part(key, "forward"), 0, x)
        noised = mix(self.levels, 2 * x - 1, noise)
        predicted = self.denoiser(noised, jnp.asarray(self.label, x.dtype))
        signal, noise_level = (jnp.asarray(level, x.dtype) for level in self.levels)
        levels = {"signal_level": signal, "noise_level": noise_level}
        predicted_noise = predicted[..., : x.shape[-1]]
        return (predicted_clean(levels, noised, predicted_noise, self.clip) + 1) / 2
