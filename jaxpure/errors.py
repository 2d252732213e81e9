"""Errors that a user can mend, and the words for unknown names.

Programs print a `UserError` in one line and stop; every other exception is a defect and
keeps its traceback.
"""

import difflib
import sys
from collections.abc import Iterable


class UserError(ValueError):
    """Something asked for does not exist, does not fit, or is damaged.

    The message is one sentence: the thing, what was expected, and the way out.
    """


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for an unknown name: it lists the known ones and the closest match."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {what} {name!r}; known: {', '.join(known) or 'none'}.{hint}"


def check_in(what: str, value: str, known: Iterable[str]) -> None:
    """Raises UserError for a choice that is none of the known ones."""
    known = list(known)
    if value not in known:
        raise UserError(unknown(what, value, known))


def check_range(
    least: float = 0.0,
    most: float = float("inf"),
    /,
    *,
    above: bool = False,
    **options: float,
) -> None:
    """Raises UserError for the first option that is not a finite number of the range.

    Args:
      least: the smallest value that is allowed, or with `above` the largest that is not.
      most: the largest value that is allowed.
      above: the value must be larger than `least`.
      **options: values by name.
    """
    for name, value in options.items():
        if _is_traced(value):
            continue  # checked where it was a number
        low = value > least if above else value >= least
        if not (low and value <= most and value < float("inf")):
            low_text = f"above {least:g}" if above else f"at least {least:g}"
            high_text = "" if most == float("inf") else f" and at most {most:g}"
            raise UserError(
                f"{name}={value!r}, expected a finite number {low_text}{high_text}"
            )


def _is_traced(value: object) -> bool:
    """Whether it is one of JAX's tracers; where JAX was never imported, nothing is."""
    core = sys.modules.get("jax.core")
    return core is not None and isinstance(value, core.Tracer)
