"""Diffusion: noise schedules, step rules, and the chain that runs them."""

from jaxpure.diffusion.chain import (
    Chain,
    Guide,
    Remat,
    Step,
    add_noise,
    make_chain,
    mix,
    reverse,
    reverse_states,
)
from jaxpure.diffusion.schedules import (
    SCHEDULES,
    ContinuousVp,
    Cosine,
    Levels,
    Linear,
    Schedule,
)
from jaxpure.diffusion.steps import STEP_RULES, Ddim, Ddpm, Ode, Sde, StepRule

__all__ = [
    "SCHEDULES",
    "STEP_RULES",
    "Chain",
    "ContinuousVp",
    "Cosine",
    "Ddim",
    "Ddpm",
    "Guide",
    "Levels",
    "Linear",
    "Ode",
    "Remat",
    "Schedule",
    "Sde",
    "Step",
    "StepRule",
    "add_noise",
    "make_chain",
    "mix",
    "reverse",
    "reverse_states",
]
