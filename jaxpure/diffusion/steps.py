"""Step rules: how one reverse step goes, and what numbers it needs.

A rule is two pure functions. `coefficients` makes, in float64 on the host, the arrays
that the chain scans over, one entry a step. `step` is deterministic: the noise comes in
as an argument, so the same step can be replayed, tested and differentiated.

`x` is `(H, W, C)` in the diffusion's range, [-1, 1] plus noise. A denoiser's output
with `2 C` channels holds the predicted noise first and the variance's value second.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure.diffusion.schedules import ContinuousVp, Linear, Schedule
from jaxpure.errors import UserError, check_in, check_range
from jaxpure.specs import Registry

Variance = Literal["fixed_large", "fixed_small", "learned_range"]
VARIANCES: tuple[str, ...] = get_args(Variance)
Labels = Literal["ceil", "floor", "continuous"]


class StepRule(Protocol):
    """A way of going from one noise level to the next lower one."""

    @property
    def is_random(self) -> bool:
        """Whether `step` uses its noise."""
        ...

    def timesteps(self, start: int) -> np.ndarray:
        """Timesteps of a chain that begins at `start`, descending: `(n,)` int."""
        ...

    def coefficients(
        self, schedule: Schedule, timesteps: np.ndarray
    ) -> tuple[np.ndarray, Any]:
        """What the denoiser is told `(n,)`, and a dict of `(n,)` float64 for `step`.

        The dict has at least "signal_level" and "noise_level", square roots of their
        shares of the variance before the step, which a guide may want to know.
        """
        ...

    def step(
        self, c: Any, x: jax.Array, prediction: jax.Array, noise: jax.Array
    ) -> jax.Array:
        """One step, with the coefficients `c` of this step alone: its mean and noise."""
        ...

    def noise_variance(self, c: Any, x: jax.Array, prediction: jax.Array) -> jax.Array:
        """Variance `()` or `(H, W, C)` of a step's noise, as if the last step had some."""
        ...


def predicted_clean(
    c: Any, x: jax.Array, predicted_noise: jax.Array, clip: bool
) -> jax.Array:
    """The clean image that a predicted noise implies (Ho et al. 2020, eq. 15)."""
    x0 = (x - c["noise_level"] * predicted_noise) / c["signal_level"]
    return jnp.clip(x0, -1, 1) if clip else x0


@dataclass(frozen=True)
class Ddpm:
    """Ancestral sampling (Ho et al. 2020, algorithm 2).

    Attributes:
      variance: "fixed_large" (beta), "fixed_small" (the posterior's), or
        "learned_range" (Nichol and Dhariwal 2021, eq. 15: interpolated between the two
        in the logarithm, by the denoiser's second half).
      clip: clip the predicted clean image to [-1, 1]. DiffPure's CIFAR-10 chain does
        not; pesser's, diffusers' and guided-diffusion's do. Gradients outside are zero.
    """

    variance: Variance = "fixed_large"
    clip: bool = False

    def __post_init__(self):
        check_in("variance", self.variance, VARIANCES)

    @property
    def is_random(self) -> bool:
        return True

    def timesteps(self, start: int) -> np.ndarray:
        return np.arange(start, -1, -1)

    def coefficients(self, schedule: Schedule, timesteps: np.ndarray):
        signal, lower = _levels(schedule, timesteps)
        beta = 1 - signal / lower
        posterior = beta * (1 - lower) / (1 - signal)
        # At the last step the posterior's variance is zero and its noise is masked; the
        # logarithm takes the value of the step before it, as in guided-diffusion.
        floor = posterior[-2] if len(posterior) > 1 else beta[-1]
        small = np.where(posterior > 0, posterior, floor)
        return timesteps.astype(np.float64), {
            "signal_level": np.sqrt(signal),
            "noise_level": np.sqrt(1 - signal),
            "clean_weight": np.sqrt(lower) * beta / (1 - signal),
            "x_weight": np.sqrt(signal / lower) * (1 - lower) / (1 - signal),
            "log_large": np.log(beta),
            "log_small": np.log(small),
            "draws": (lower < 1).astype(np.float64),
        }

    def step(self, c, x, prediction, noise):
        predicted_noise, learned = self._split(prediction, x)
        x0 = predicted_clean(c, x, predicted_noise, self.clip)
        mean = c["clean_weight"] * x0 + c["x_weight"] * x
        return mean + c["draws"] * jnp.exp(0.5 * self.log_variance(c, learned)) * noise

    def noise_variance(self, c, x, prediction):
        return jnp.exp(self.log_variance(c, self._split(prediction, x)[1]))

    def _split(self, prediction: jax.Array, x: jax.Array):
        wants_variance = self.variance == "learned_range"
        return _split_prediction(prediction, x, wants_variance=wants_variance)

    def log_variance(self, c: Any, learned: jax.Array | None) -> jax.Array:
        if learned is None:
            return c["log_large" if self.variance == "fixed_large" else "log_small"]
        share = (learned + 1) / 2
        return share * c["log_large"] + (1 - share) * c["log_small"]


@dataclass(frozen=True)
class Ddim:
    """Implicit sampling (Song, Meng and Ermon 2021, eq. 12).

    Attributes:
      eta: 0 is deterministic, 1 has the posterior's variance.
      num_steps: steps of the chain, evenly spread over its timesteps; 0 means all.
      clip: clip the predicted clean image to [-1, 1].
      rederive_noise: after clipping, use the noise that the clipped image implies
        (guided-diffusion) and not the predicted one (diffusers' default).
    """

    eta: float = 0.0
    num_steps: int = 0
    clip: bool = False
    rederive_noise: bool = False

    @property
    def is_random(self) -> bool:
        return self.eta > 0

    def __post_init__(self):
        check_range(0, 1, eta=self.eta)
        check_range(0, num_steps=self.num_steps)

    def timesteps(self, start: int) -> np.ndarray:
        every = np.arange(start, -1, -1)
        if not self.num_steps:
            return every
        if not 1 <= self.num_steps <= len(every):
            raise UserError(
                f"num_steps={self.num_steps}, expected 1 to {len(every)}, the timesteps "
                "of the chain"
            )
        # The first timestep is always `start`; the gaps differ by one at most.
        chosen = np.linspace(0, len(every), self.num_steps, endpoint=False)
        return every[chosen.astype(int)]

    def coefficients(self, schedule: Schedule, timesteps: np.ndarray):
        signal, lower = _levels(schedule, timesteps)
        sigma = self.eta * np.sqrt((1 - lower) / (1 - signal)) * np.sqrt(1 - signal / lower)
        return timesteps.astype(np.float64), {
            "signal_level": np.sqrt(signal),
            "noise_level": np.sqrt(1 - signal),
            "clean_weight": np.sqrt(lower),
            "noise_weight": np.sqrt(np.maximum(1 - lower - sigma**2, 0)),
            "sigma": sigma,
        }

    def step(self, c, x, prediction, noise):
        predicted_noise, _ = _split_prediction(prediction, x)
        x0 = predicted_clean(c, x, predicted_noise, self.clip)
        if self.rederive_noise:
            predicted_noise = (x - c["signal_level"] * x0) / c["noise_level"]
        mean = c["clean_weight"] * x0 + c["noise_weight"] * predicted_noise
        return mean + c["sigma"] * noise

    def noise_variance(self, c, x, prediction):
        del x, prediction
        return jnp.square(c["sigma"])


@dataclass(frozen=True)
class Sde:
    """Reverse VP-SDE by Euler-Maruyama (Song et al. 2021, as DiffPure runs it).

    Steps of 1/1000 from time (start + 1)/1000, the last one shorter by `ends_at`.

    Attributes:
      labels: what the denoiser is told at time s. "ceil": 1000 s, counting down to 1.
        "floor": 1000 s - 1, counting down to 0. "continuous": 999 s, as score_sde's
        networks were trained. For a guided-diffusion network DiffPure takes the whole
        part of 1000 times a rounded time: in float64 that is "floor"; in float32 it is
        "ceil" from t_star 100, but from 75 it counts 74, 74, 73, ..., which is neither.
      ends_at: the last time (DiffPure: 1e-5).
    """

    labels: Labels = "floor"
    ends_at: float = 1e-5

    def __post_init__(self):
        check_in("labels", self.labels, get_args(Labels))
        check_range(0, 1e-3, ends_at=self.ends_at)

    @property
    def is_random(self) -> bool:
        return True

    def timesteps(self, start: int) -> np.ndarray:
        return np.arange(start, -1, -1)

    def coefficients(self, schedule: Schedule, timesteps: np.ndarray):
        _check_linear(schedule, "sde")
        labels, c = _continuous_grid(timesteps, self.labels, self.ends_at)
        return labels, c | {"diffusion": np.sqrt(c["beta"] * c["length"])}

    def step(self, c, x, prediction, noise):
        predicted_noise, _ = _split_prediction(prediction, x)
        score = -predicted_noise / c["noise_level"]
        drift = 0.5 * c["beta"] * x + c["beta"] * score
        return x + drift * c["length"] + c["diffusion"] * noise

    def noise_variance(self, c, x, prediction):
        del x, prediction
        return jnp.square(c["diffusion"])


@dataclass(frozen=True)
class Ode:
    """Probability-flow ODE by Euler (Song et al. 2021, eq. 13), on the SDE's grid.

    Attributes:
      labels: as for `Sde`.
      ends_at: the last time (DiffPure: 1e-5).
    """

    labels: Labels = "floor"
    ends_at: float = 1e-5

    def __post_init__(self):
        check_in("labels", self.labels, get_args(Labels))
        check_range(0, 1e-3, ends_at=self.ends_at)

    @property
    def is_random(self) -> bool:
        return False

    def timesteps(self, start: int) -> np.ndarray:
        return np.arange(start, -1, -1)

    def coefficients(self, schedule: Schedule, timesteps: np.ndarray):
        _check_linear(schedule, "ode")
        return _continuous_grid(timesteps, self.labels, self.ends_at)

    def step(self, c, x, prediction, noise):
        del noise
        predicted_noise, _ = _split_prediction(prediction, x)
        score = -predicted_noise / c["noise_level"]
        return x + 0.5 * c["beta"] * (x + score) * c["length"]

    def noise_variance(self, c, x, prediction):
        del x, prediction
        return jnp.zeros_like(c["beta"])


STEP_RULES = Registry("step rule", {"ddpm": Ddpm, "ddim": Ddim, "sde": Sde, "ode": Ode})


def _levels(schedule: Schedule, timesteps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signal's share of the variance at each step and at the next lower one."""
    below = np.append(timesteps[1:], -1)
    return schedule.signal(timesteps), schedule.signal(below)


def _split_prediction(
    prediction: jax.Array, x: jax.Array, *, wants_variance: bool = False
) -> tuple[jax.Array, jax.Array | None]:
    channels = x.shape[-1]
    if prediction.shape[-1] not in (channels, 2 * channels):
        raise UserError(
            f"the denoiser returned {prediction.shape[-1]} channels for an image of "
            f"{channels}; expected {channels}, or {2 * channels} with learned variance"
        )
    if not wants_variance:
        return prediction[..., :channels], None
    if prediction.shape[-1] == channels:
        raise UserError(
            "variance='learned_range' needs a denoiser with twice the image's channels; "
            "this one predicts the noise alone: use fixed_large or fixed_small"
        )
    return prediction[..., :channels], prediction[..., channels:]


def _check_linear(schedule: Schedule, name: str) -> None:
    """The equation speaks of the linear schedule's limit, whatever it is handed."""
    if schedule != Linear():
        raise UserError(
            f"step rule {name} runs the continuous limit of the schedule linear, not "
            f"{schedule}: use ddpm or ddim"
        )


def _continuous_grid(timesteps: np.ndarray, labels: str, ends_at: float):
    """Times counted in whole thousandths, so that no rounding moves a step."""
    counts = timesteps + 1.0
    times = counts / 1000
    ends = np.append(times[1:], ends_at)
    vp = ContinuousVp()
    told = {"ceil": counts, "floor": counts - 1, "continuous": 999 * times}[labels]
    signal = vp.alphas_cumprod(times)
    return told, {
        "beta": vp.beta(times),
        "length": times - ends,
        "signal_level": np.sqrt(signal),
        "noise_level": np.sqrt(1 - signal),
    }
