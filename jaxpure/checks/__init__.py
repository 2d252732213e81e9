"""Checks of what an evaluation rests on."""

from jaxpure.checks.gradients import GradientCheck, Segment, check_gradient

__all__ = ["GradientCheck", "Segment", "check_gradient"]
