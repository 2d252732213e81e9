"""DiffPure: noise to t_star, denoise back (Nie et al. 2022, arXiv:2205.07460)."""

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
    add_noise,
    make_chain,
    reverse,
    reverse_states,
)
from jaxpure.errors import check_range
from jaxpure.keys import AnyKey, Key, noise_at, part
from jaxpure.purifiers.common import Start, Trajectory, first_timestep
from jaxpure.purifiers.fit import fitting_schedule
from jaxpure.pytrees import Static, Unrecorded, derived, pytree, set_derived
from jaxpure.types import Denoiser, Image


@pytree(eq=False)
class DiffPure:
    """Purifies one image by adding noise and running the reverse chain, `rounds` times.

    Differentiable in `x` and in the denoiser's parameters. The output is not clamped, as
    in the original.

    Attributes:
      denoiser: `(x, t) -> predicted noise`, a callable pytree.
      t_star: reverse steps as DiffPure counts them, 1 to num_timesteps.
      step_rule: how a reverse step goes.
      schedule: the noise; by default what the denoiser was trained on, or `Linear()` where
        that is not known.
      rounds: how often noising and denoising are repeated, at least 1.
      start: "t_star_minus_1" noises with `alphas_cumprod[t_star - 1]` and denoises
        timesteps t_star - 1 to 0, as DiffPure does; "t_star" begins one timestep
        higher, with `alphas_cumprod[t_star]`, as Lee and Kim's and ADDT's code does.
      remat: what its gradient computes again, for memory: "step", "products" or "none"
        (`diffusion.Remat`); it changes no value.
      chain: the reverse steps.
      signal: `()` alphas_cumprod at the noising end.
    """

    denoiser: Denoiser
    t_star: Static[int] = 100
    step_rule: Static[Annotated[StepRule, STEP_RULES]] = Ddpm()
    schedule: Static[Annotated[Schedule, SCHEDULES] | None] = None
    rounds: Static[int] = 1
    start: Static[Start] = "t_star_minus_1"
    remat: Unrecorded[Remat] = "step"
    chain: Chain = derived()
    signal: Any = derived()

    def __post_init__(self):
        first = first_timestep(self.t_star, self.start)
        check_range(1, rounds=self.rounds)
        schedule = fitting_schedule(self.denoiser, self.schedule, first, self.step_rule)
        chain = make_chain(schedule, self.step_rule, first, self.remat)
        set_derived(self, chain=chain, signal=schedule.alphas_cumprod[first])

    @property
    def noise_parts(self) -> tuple[str, ...]:
        return ("forward", *(("reverse",) if self.step_rule.is_random else ()))

    @property
    def denoiser_evaluations(self) -> int:
        return self.rounds * len(self.chain)

    def __call__(self, key: AnyKey, x: Image) -> Image:
        x = 2 * x - 1
        for i in range(self.rounds):
            noise, reverse_key = self._round(key, i, x)
            x = add_noise(self.signal, x, noise)
            x = reverse(self.chain, self.denoiser, reverse_key, x)
        return (x + 1) / 2

    def trajectory(self, key: AnyKey, x: Image) -> Trajectory:
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

    def _round(self, key: AnyKey, i: int, x: jax.Array) -> tuple[jax.Array, Key]:
        """A round's forward noise, and the key of its reverse noise."""
        noise = noise_at(part(key, "forward"), i, x)
        return noise, jax.random.fold_in(part(key, "reverse"), i)
