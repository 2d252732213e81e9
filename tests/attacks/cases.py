"""One case for every registered attack, ball and loss: what the properties are checked on.

An attack, ball or loss that is registered and has no case here fails the suite.
"""

from typing import Any, NamedTuple

from jaxpure.attacks import (
    ATTACKS,
    BALLS,
    L1,
    L2,
    Apgd,
    AutoAttack,
    BpdaEotHill,
    DiffAttack,
    DiffHammer,
    Fab,
    Flow,
    Linf,
    Pgd,
    Square,
    Stadv,
)
from jaxpure.losses import LOSSES

from . import toys


class Case(NamedTuple):
    """An attack and what to run it on.

    Attributes:
      attack: with a small budget.
      stages: the attacks that it runs, with small budgets too: of a composite each, which
        it has no options to shorten, of another the attack itself.
      balls: names of all balls that it takes.
      needs: "gradient" where it goes by gradients, "queries" where it does not.
    """

    attack: Any
    balls: tuple[str, ...]
    stages: tuple[Any, ...] = ()
    needs: str = "gradient"

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.stages or (self.attack,)


NORMS = ("linf", "l2", "l1")
_APGD = Apgd(num_steps=4, eot_samples=2)
_FAB = Fab(num_steps=3, num_targets=2, eot_samples=2)
_SQUARE = Square(num_queries=12, eot_samples=2)
_DIFFATTACK = DiffAttack(num_steps=4, eot_samples=2)

CASES: dict[str, Case] = {
    "pgd": Case(Pgd(step_size=0.05, num_steps=3, eot_samples=2), NORMS),
    "apgd": Case(_APGD, NORMS),
    "fab": Case(_FAB, NORMS),
    "square": Case(_SQUARE, ("linf", "l2"), needs="queries"),
    "autoattack": Case(
        AutoAttack(num_targets=2),
        ("linf", "l2"),
        (Apgd(num_steps=4, loss="targeted_dlr", num_targets=2), _FAB, _SQUARE),
    ),
    "diffattack": Case(
        _DIFFATTACK, NORMS, tuple(each for _, each in _DIFFATTACK.attacks()[:1])
    ),
    "diffhammer": Case(DiffHammer(step_size=0.05, num_steps=3, eot_samples=2), NORMS),
    "stadv": Case(Stadv(num_steps=3, eot_samples=2), ("flow",)),
    "bpda_eot_hill": Case(
        BpdaEotHill(step_size=0.05, num_steps=3, eot_samples=2, verify_samples=3), NORMS
    ),
}
assert set(CASES) == set(ATTACKS), "every registered attack needs a case"

BALL_CASES: dict[str, Any] = {
    name: ball(toys.EPS[name])
    for name, ball in {"linf": Linf, "l2": L2, "l1": L1, "flow": Flow}.items()
}
assert set(BALL_CASES) == set(BALLS), "every registered ball needs a case"

LOSS_CASES: dict[str, int] = {  # classes that it needs at least
    "cross_entropy": 2,
    "margin": 2,
    "dlr": 3,
    "targeted_margin": 2,
    "targeted_dlr": 4,
}
assert set(LOSS_CASES) == set(LOSSES), "every registered loss needs a case"
