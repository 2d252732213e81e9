"""DiffPure: noise to t_star, denoise back (Nie et al. 2022, arXiv:2205.07460)."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.diffusion import (
    Chain,
    Ddpm,
    Schedule,
    StepRule,
    add_noise,
    linear,
    make_chain,
    reverse,
    reverse_states,
)
from jaxpure.randomness import PartKeys, noise_at, part
from jaxpure.types import Denoiser, Image, Key, register_pytree

STARTS = ("t_star_minus_1", "t_star")


class Trajectory(NamedTuple):
    """A purification with what it passed through, in the diffusion's range [-1, 1].

    Attributes:
      purified: `(H, W, C)` its result, in [0, 1].
      noised: `(n, H, W, C)` what noising, under the round's own noise, makes of the image
        at each level that the reverse chain reaches.
      denoised: `(n, H, W, C)` what the reverse chain makes of it there.
    """

    purified: Image
    noised: jax.Array
    denoised: jax.Array


@partial(
    register_pytree,
    data_fields=["denoiser", "chain", "signal"],
    meta_fields=["rounds"],
)
@dataclass(frozen=True, eq=False)
class DiffPure:
    """Purifies one image by adding noise and running the reverse chain, `rounds` times.

    Differentiable in `x` and in the denoiser's parameters. The output is not clamped, as
    in the original. Build it with `create`.

    Attributes:
      denoiser: `(x, t) -> predicted noise`.
      chain: the reverse steps.
      signal: `()` alphas_cumprod at the noising end.
      rounds: how often noising and denoising are repeated.
    """

    denoiser: Denoiser
    chain: Chain
    signal: Any
    rounds: int = 1

    @classmethod
    def create(
        cls,
        denoiser: Denoiser,
        schedule: Schedule | None = None,
        *,
        t_star: int = 100,
        step_rule: StepRule | None = None,
        rounds: int = 1,
        start: str = "t_star_minus_1",
    ) -> "DiffPure":
        """A DiffPure with this denoiser.

        Args:
          denoiser: a callable pytree.
          schedule: the denoiser's; `linear()` by default.
          t_star: reverse steps as DiffPure counts them, 1 to num_timesteps.
          step_rule: `Ddpm()` by default.
          rounds: repetitions, at least 1.
          start: "t_star_minus_1" noises with `alphas_cumprod[t_star - 1]` and denoises
            timesteps t_star - 1 to 0, as DiffPure does; "t_star" begins one timestep
            higher, with `alphas_cumprod[t_star]`, as Lee and Kim's and ADDT's code does.
        """
        schedule = linear() if schedule is None else schedule
        first = first_timestep(t_star, start)
        if rounds < 1:
            raise ValueError(f"{rounds=}, expected at least 1")
        chain = make_chain(schedule, step_rule or Ddpm(), first)
        return cls(denoiser, chain, schedule.alphas_cumprod[first], rounds)

    @property
    def noise_parts(self) -> tuple[str, ...]:
        return ("forward", *(("reverse",) if self.chain.rule.is_random else ()))

    @property
    def denoiser_evaluations(self) -> int:
        return self.rounds * len(self.chain)

    def __call__(self, key: Key | PartKeys, x: Image) -> Image:
        x = 2 * x - 1
        for i in range(self.rounds):
            noise, reverse_key = self._round(key, i, x)
            x = add_noise(self.signal, x, noise)
            x = reverse(self.chain, self.denoiser, reverse_key, x)
        return (x + 1) / 2

    def trajectory(self, key: Key | PartKeys, x: Image) -> Trajectory:
        """The same purification, and the states of every round, one after another."""
        x, noised, denoised = 2 * x - 1, [], []
        for i in range(self.rounds):
            noise, reverse_key = self._round(key, i, x)
            levels = jax.vmap(add_noise, (0, None, None))
            noised.append(levels(jnp.asarray(self.chain.signal), x, noise))
            x = add_noise(self.signal, x, noise)
            denoised.append(reverse_states(self.chain, self.denoiser, reverse_key, x))
            x = denoised[-1][-1]
        states = jnp.concatenate(noised), jnp.concatenate(denoised)
        return Trajectory((x + 1) / 2, *states)

    def _round(self, key: Key | PartKeys, i: int, x: jax.Array) -> tuple[jax.Array, Key]:
        """A round's forward noise, and the key of its reverse noise."""
        noise = noise_at(part(key, "forward"), i, x)
        return noise, jax.random.fold_in(part(key, "reverse"), i)


def first_timestep(t_star: int, start: str) -> int:
    """The first timestep that is denoised, which is also where the noising ends."""
    if start not in STARTS:
        raise ValueError(f"{start=}, expected one of {', '.join(STARTS)}")
    if t_star < 1:
        raise ValueError(f"{t_star=}, expected at least 1")
    return t_star - 1 if start == "t_star_minus_1" else t_star
