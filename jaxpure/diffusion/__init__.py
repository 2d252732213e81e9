"""Diffusion: noise schedules, step rules, and the chain that runs them."""

from jaxpure.diffusion.chain import (
    Chain,
    add_noise,
    make_chain,
    reverse,
    reverse_states,
)
from jaxpure.diffusion.schedules import (
    SCHEDULES,
    ContinuousVp,
    Schedule,
    cosine,
    linear,
)
from jaxpure.diffusion.steps import RULES, Ddim, Ddpm, Ode, Sde, StepRule

__all__ = [
    "RULES",
    "SCHEDULES",
    "Chain",
    "ContinuousVp",
    "Ddim",
    "Ddpm",
    "Ode",
    "Schedule",
    "Sde",
    "StepRule",
    "add_noise",
    "cosine",
    "linear",
    "make_chain",
    "reverse",
    "reverse_states",
]
