"""DDIM purification: DiffPure's noising, then DDIM's (deterministic) reverse chain."""

from jaxpure.diffusion import Ddim, Schedule
from jaxpure.purifiers.diffpure import DiffPure
from jaxpure.types import Denoiser


def ddim(
    denoiser: Denoiser,
    schedule: Schedule | None = None,
    *,
    t_star: int = 100,
    eta: float = 0.0,
    num_steps: int = 0,
    clip: bool = False,
    start: str = "t_star_minus_1",
) -> DiffPure:
    """DiffPure by DDIM steps; at `eta` 0 only the forward noise is random.

    Args:
      denoiser: a callable pytree.
      schedule: the denoiser's; `linear()` by default.
      t_star: as for `DiffPure.create`.
      eta: share of the posterior's noise, 0 to 1.
      num_steps: steps over the t_star timesteps; 0 means all of them.
      clip: clip predicted clean images to [-1, 1].
      start: as for `DiffPure.create`.
    """
    rule = Ddim(eta=eta, num_steps=num_steps, clip=clip)
    return DiffPure.create(denoiser, schedule, t_star=t_star, step_rule=rule, start=start)
