"""Noise schedules: tables in float64 on the host, cast once where they are used.

`alphas_cumprod[t]` is the signal's share of the variance after t + 1 noising steps
(Ho et al. 2020). In float32 `1 - alphas_cumprod[0]` would be off by 2e-4 of itself.
"""

import abc
import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxpure.errors import UserError, check_range
from jaxpure.specs import Registry


class Levels(NamedTuple):
    """How much of a noised image is signal, and how much is noise.

    Attributes:
      signal: square root of the signal's share of the variance.
      noise: square root of the noise's share, each rounded once from float64.
    """

    signal: float
    noise: float


class Schedule(abc.ABC):
    """A discrete noise schedule: hashable options, from which its tables follow.

    A new one is a frozen dataclass with a `num_timesteps` that says what its `make_betas`
    are; equal options make equal schedules.
    """

    num_timesteps: int

    @abc.abstractmethod
    def make_betas(self) -> np.ndarray:
        """`(num_timesteps,)` float64, variance added by each noising step, in (0, 1)."""

    @property
    def betas(self) -> np.ndarray:
        """`make_betas()`, made once."""
        return _tables(self)[0]

    @property
    def alphas_cumprod(self) -> np.ndarray:
        """`(num_timesteps,)` float64, the signal's share of the variance."""
        return _tables(self)[1]

    def signal(self, t: np.ndarray) -> np.ndarray:
        """`alphas_cumprod[t]`, and 1 for t = -1, the clean image."""
        return np.concatenate([self.alphas_cumprod, [1.0]])[t]

    def levels(self, t: int) -> Levels:
        """Signal and noise of an image noised to timestep t, 0 to num_timesteps - 1."""
        share = float(self.alphas_cumprod[t])
        return Levels(math.sqrt(share), math.sqrt(1 - share))


@functools.lru_cache(maxsize=32)
def _tables(schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    betas = schedule.make_betas()
    if betas.dtype != np.float64 or not ((betas > 0) & (betas < 1)).all():
        raise UserError(f"{schedule}: betas must be float64 with 0 < beta < 1")
    cumulative = np.cumprod(1.0 - betas)
    betas.flags.writeable = cumulative.flags.writeable = False  # they are shared
    return betas, cumulative


@dataclass(frozen=True)
class Linear(Schedule):
    """Betas in a straight line (Ho et al. 2020, section 4).

    For another number of timesteps than 1000 the ends are scaled, as in
    guided-diffusion, so that the total noise stays the same.

    Attributes:
      num_timesteps: length of the schedule.
      beta_start: the first beta of 1000.
      beta_end: the last beta of 1000.
    """

    num_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 2e-2

    def __post_init__(self):
        check_range(1, num_timesteps=self.num_timesteps)
        most = self.num_timesteps / 1000
        ends = {"beta_start": self.beta_start, "beta_end": self.beta_end}
        check_range(0, most, above=True, **ends)

    def make_betas(self) -> np.ndarray:
        scale = 1000 / self.num_timesteps
        ends = scale * self.beta_start, scale * self.beta_end
        return np.linspace(*ends, self.num_timesteps, dtype=np.float64)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Signal that falls as a squared cosine (Nichol and Dhariwal 2021, eq. 17).

    Attributes:
      num_timesteps: length of the schedule.
      max_beta: betas are cut off there, below 1.
    """

    num_timesteps: int = 1000
    max_beta: float = 0.999

    def __post_init__(self):
        check_range(1, num_timesteps=self.num_timesteps)
        check_range(0, 0.999999, above=True, max_beta=self.max_beta)

    def make_betas(self) -> np.ndarray:
        def signal(time: float) -> float:
            return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

        times = [i / self.num_timesteps for i in range(self.num_timesteps + 1)]
        return np.array(
            [
                min(1 - signal(end) / signal(start), self.max_beta)
                for start, end in zip(times, times[1:], strict=False)
            ]
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


SCHEDULES = Registry("schedule", {"linear": Linear, "cosine": Cosine})
