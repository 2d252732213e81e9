"""Gradients that are masked: along which no attack does as well as queries do.

An attack that sees less and finds more, under the same noise, in the same ball and on the
same examples, shows that what the others followed leads astray.
"""

from collections.abc import Hashable, Iterable
from typing import NamedTuple

from jaxpure.evaluation.statistics import Estimate

WITHOUT_GRADIENT = ("square",)


class Attempt(NamedTuple):
    """One evaluation, as far as this question goes.

    Attributes:
      attack: its name.
      gradient: the rule that it followed; of no meaning for an attack by queries.
      policy: which noise it knew.
      robust: what it left.
      setting: all else that must agree for two attempts to be compared: data, defense,
        ball, seed.
    """

    attack: str
    gradient: str
    policy: str
    robust: Estimate
    setting: Hashable

    @property
    def follows(self) -> str:
        """The gradient rule, or "none"."""
        return "none" if self.attack in WITHOUT_GRADIENT else self.gradient


def masked(attempts: Iterable[Attempt]) -> list[tuple[Attempt, Attempt]]:
    """Pairs of an attack by queries, and the best along a gradient that it beats.

    An attack beats another where their intervals are apart. Transfer attacks follow no
    gradient of the defense, and show nothing here.
    """
    attempts = list(attempts)
    found = []
    for blind in (a for a in attempts if a.follows == "none"):
        strongest: dict[str, Attempt] = {}
        for other in attempts:
            same = (other.policy, other.setting) == (blind.policy, blind.setting)
            if other.follows == "none" or other.follows.startswith("transfer") or not same:
                continue
            best = strongest.setdefault(other.follows, other)
            if other.robust.value < best.robust.value:
                strongest[other.follows] = other
        found += [
            (blind, best)
            for best in strongest.values()
            if blind.robust.high < best.robust.low
        ]
    return found


def describe(blind: Attempt, best: Attempt) -> str:
    """One sentence on a masked gradient."""
    return (
        f"Under {blind.policy}, {blind.attack} without gradients leaves less than any "
        f"attack along the {best.gradient} gradient (intervals apart): that gradient is "
        "masked."
    )
