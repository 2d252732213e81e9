"""Whether a purifier asks of its denoiser only what that was trained on.

A denoiser may declare `trained`, a `models.Trained`, as a loaded `Network` does; of a plain
function nothing is known, and everything is accepted.
"""

from typing import Any

from absl import logging

from jaxpure import specs
from jaxpure.diffusion import SCHEDULES, Ddpm, Linear, Ode, Schedule, Sde, StepRule
from jaxpure.errors import UserError
from jaxpure.models import Trained
from jaxpure.types import Denoiser


def fitting_schedule(
    denoiser: Denoiser,
    schedule: Schedule | None,
    first: int,
    step_rule: StepRule | None,
) -> Schedule:
    """The schedule to purify with: the one asked for, else the denoiser's, else linear.

    Args:
      denoiser: who is to be asked.
      schedule: what the user asks for; None leaves it to the denoiser.
      first: the first timestep that it will be asked for, the largest.
      step_rule: how steps will go; None for a purifier that makes none.

    Raises:
      UserError: the denoiser was not trained on this schedule, or not on timesteps so
        large, or in continuous time and is not told so, or it wants a class.
    """
    _check_unconditional(denoiser)
    trained: Trained = getattr(denoiser, "trained", None) or Trained()
    if trained.is_continuous:
        chosen = _continuous_limit(schedule, step_rule)
    elif schedule is None:
        chosen = _schedule(trained) or Linear()
    elif trained.schedule in (None, schedule):
        chosen = schedule
    else:
        raise UserError(
            f"schedule={_text(schedule)}, but the denoiser was trained on "
            f"{_text(trained.schedule)}: leave schedule out, or choose another denoiser"
        )
    known = chosen.num_timesteps
    if trained.timesteps is not None:
        known = min(known, trained.timesteps)
    if first >= known:
        whose = "the denoiser was trained on" if trained.timesteps else "there are"
        raise UserError(
            f"purification would start at timestep {first}, but {whose} timesteps below "
            f"{known} alone: choose a smaller t_star, or another denoiser"
        )
    _tell_differences(trained, step_rule)
    return chosen


def _schedule(trained: Trained) -> Schedule | None:
    """The discrete schedule that the denoiser was trained on, where it is known."""
    return None if isinstance(trained.schedule, str) else trained.schedule


def _continuous_limit(schedule: Schedule | None, step_rule: StepRule | None) -> Schedule:
    told_continuous = isinstance(step_rule, Sde | Ode) and step_rule.labels == "continuous"
    if not told_continuous:
        raise UserError(
            "the denoiser was trained in continuous time: use a purifier with "
            "step_rule=sde(labels=continuous), or ode(labels=continuous)"
        )
    if schedule not in (None, Linear()):
        raise UserError(
            f"schedule={_text(schedule)}, but the denoiser was trained on the continuous "
            "limit of linear: leave schedule out"
        )
    return Linear()


def _check_unconditional(denoiser: Denoiser) -> None:
    architecture = getattr(denoiser, "architecture", None)
    if getattr(architecture, "role", "denoiser") != "denoiser":
        raise UserError(f"{denoiser!r} is a classifier, expected a denoiser")
    if getattr(architecture, "num_classes", 0):
        raise UserError(
            "the denoiser is class-conditional: purification has no class to tell it; "
            "choose an unconditional denoiser"
        )


def _tell_differences(trained: Trained, step_rule: StepRule | None) -> None:
    """Says where DDPM steps are not those that the denoiser was published with."""
    if not isinstance(step_rule, Ddpm):
        return
    for name in ("variance", "clip"):
        own, taken = getattr(trained, name), getattr(step_rule, name)
        if own not in (None, taken):
            logging.warning(
                "the denoiser comes with %s=%s, the step rule ddpm has %s: not the sampler "
                "that it was published with",
                name,
                specs.write(own),
                specs.write(taken),
            )


def _text(schedule: Any) -> str:
    return specs.describe(schedule, SCHEDULES)
