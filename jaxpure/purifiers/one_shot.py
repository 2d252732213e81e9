"""One-shot denoising: noise to t_star, one call of the denoiser (Carlini et al. 2023)."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxpure.diffusion import Schedule, add_noise, linear
from jaxpure.diffusion.steps import predicted_clean
from jaxpure.purifiers.diffpure import first_timestep
from jaxpure.randomness import PartKeys, noise_at, part
from jaxpure.types import Denoiser, Image, Key, register_pytree


@partial(
    register_pytree,
    data_fields=["denoiser", "signal", "label"],
    meta_fields=["clip"],
)
@dataclass(frozen=True, eq=False)
class OneShot:
    """Purifies one image by the clean image that a single prediction implies.

    Attributes:
      denoiser: `(x, t) -> predicted noise`.
      signal: `()` alphas_cumprod at the timestep.
      label: `()` the timestep.
      clip: clip the result to the range of images.
    """

    denoiser: Denoiser
    signal: Any
    label: Any
    clip: bool = True

    noise_parts: ClassVar[tuple[str, ...]] = ("forward",)

    @classmethod
    def create(
        cls,
        denoiser: Denoiser,
        schedule: Schedule | None = None,
        *,
        t_star: int = 100,
        clip: bool = True,
        start: str = "t_star_minus_1",
    ) -> "OneShot":
        """A one-shot purifier; arguments as for `DiffPure.create`."""
        schedule = linear() if schedule is None else schedule
        first = first_timestep(t_star, start)
        if first >= schedule.num_timesteps:
            raise ValueError(f"{t_star=}, expected at most {schedule.num_timesteps}")
        return cls(denoiser, schedule.alphas_cumprod[first], float(first), clip)

    @property
    def denoiser_evaluations(self) -> int:
        return 1

    def __call__(self, key: Key | PartKeys, x: Image) -> Image:
        noise = noise_at(part(key, "forward"), 0, x)
        noised = add_noise(self.signal, 2 * x - 1, noise)
        predicted = self.denoiser(noised, jnp.asarray(self.label, x.dtype))
        signal = jnp.asarray(self.signal, x.dtype)
        levels = {"signal_level": jnp.sqrt(signal), "noise_level": jnp.sqrt(1 - signal)}
        predicted_noise = predicted[..., : x.shape[-1]]
        return (predicted_clean(levels, noised, predicted_noise, self.clip) + 1) / 2
