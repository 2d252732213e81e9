"""DDIM purification: DiffPure's noising, then DDIM's (deterministic) reverse chain."""

from typing import Annotated

from jaxpure.diffusion import SCHEDULES, Ddim, Remat, Schedule
from jaxpure.purifiers.common import Start
from jaxpure.purifiers.diffpure import DiffPure
from jaxpure.types import Denoiser


def ddim(
    denoiser: Denoiser,
    t_star: int = 100,
    eta: float = 0.0,
    num_steps: int = 0,
    clip: bool = False,
    rederive_noise: bool = False,
    schedule: Annotated[Schedule, SCHEDULES] | None = None,
    rounds: int = 1,
    start: Start = "t_star_minus_1",
    remat: Remat = "step",
) -> DiffPure:
    """DiffPure by DDIM steps; at `eta` 0 only the forward noise is random.

    Args:
      denoiser: a callable pytree.
      t_star: as for `DiffPure`.
      eta: share of the posterior's noise, 0 to 1.
      num_steps: steps over the t_star timesteps; 0 means all of them.
      clip: clip predicted clean images to [-1, 1].
      rederive_noise: as for `diffusion.Ddim`.
      schedule: as for `DiffPure`.
      rounds: as for `DiffPure`.
      start: as for `DiffPure`.
      remat: as for `DiffPure`.
    """
    rule = Ddim(eta, num_steps, clip, rederive_noise)
    return DiffPure(denoiser, t_star, rule, schedule, rounds, start, remat)
