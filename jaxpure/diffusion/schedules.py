"""Noise schedules: tables in float64 on the host, cast once where they are used.

`alphas_cumprod[t]` is the signal's share of the variance after t + 1 noising steps
(Ho et al. 2020). In float32 `1 - alphas_cumprod[0]` would be off by 2e-4 of itself.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Schedule:
    """A discrete noise schedule.

    Attributes:
      betas: `(num_timesteps,)` float64, variance added by each noising step.
    """

    betas: np.ndarray

    def __post_init__(self):
        if (
            self.betas.dtype != np.float64
            or not ((self.betas > 0) & (self.betas < 1)).all()
        ):
            raise ValueError("betas must be float64 with 0 < beta < 1")

    @property
    def num_timesteps(self) -> int:
        return len(self.betas)

    @property
    def alphas_cumprod(self) -> np.ndarray:
        return np.cumprod(1.0 - self.betas)

    def signal(self, t: np.ndarray) -> np.ndarray:
        """`alphas_cumprod[t]`, and 1 for t = -1, the clean image."""
        return np.concatenate([self.alphas_cumprod, [1.0]])[t]


def linear(
    num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 2e-2
) -> Schedule:
    """Betas in a straight line (Ho et al. 2020, section 4).

    For another number of timesteps than 1000 the ends are scaled, as in
    guided-diffusion, so that the total noise stays the same.
    """
    scale = 1000 / num_timesteps
    return Schedule(
        np.linspace(scale * beta_start, scale * beta_end, num_timesteps, dtype=np.float64)
    )


def cosine(num_timesteps: int = 1000, max_beta: float = 0.999) -> Schedule:
    """Signal that falls as a squared cosine (Nichol and Dhariwal 2021, eq. 17)."""

    def signal(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    times = [i / num_timesteps for i in range(num_timesteps + 1)]
    return Schedule(
        np.array(
            [
                min(1 - signal(end) / signal(start), max_beta)
                for start, end in zip(times, times[1:], strict=False)
            ]
        )
    )


@dataclass(frozen=True)
class ContinuousVp:
    """The continuous variance-preserving schedule (Song et al. 2021, eq. 32-33).

    `beta(time)` runs linearly over time in [0, 1]. With 1000 timesteps, time t/1000
    corresponds to the linear schedule's timestep t - 1 (its end), up to a difference of
    about 0.001 in alphas_cumprod.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def beta(self, time: np.ndarray) -> np.ndarray:
        return self.beta_min + time * (self.beta_max - self.beta_min)

    def alphas_cumprod(self, time: np.ndarray) -> np.ndarray:
        """Signal's share of the variance at `time`."""
        return np.exp(
            -0.5 * (self.beta_max - self.beta_min) * time**2 - self.beta_min * time
        )


SCHEDULES = {"linear": linear, "cosine": cosine}
