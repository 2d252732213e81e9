"""Attacks in turn: each goes on with the images that the ones before it left standing.

Every evaluation runs a cascade; one attack is a cascade of one.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxpure.attacks.progress import Attack, Budget
from jaxpure.objective import Objective
from jaxpure.policy import Policy


@runtime_checkable
class Composite(Protocol):
    """An attack that is others in turn, and has no step of its own."""

    def attacks(self) -> tuple[tuple[str, Attack], ...]:
        """Their names, for records and reports, and the attacks."""
        ...


class Stage(NamedTuple):
    """One attack of a cascade.

    Attributes:
      name: of the attack, in records and reports.
      attack: the hyper-parameters.
      objective: what it climbs.
    """

    name: str
    attack: Attack
    objective: Objective

    @property
    def budget(self) -> Budget:
        return self.attack.budget(self.objective)


def cascade(attack: Any, name: str, defense: Any, policy: Policy) -> tuple[Stage, ...]:
    """The stages of an attack on a defense that is already under a gradient rule.

    Args:
      attack: an `Attack`, or a `Composite` of several.
      name: of a single attack.
      defense: `(key, x) -> logits`.
      policy: which keys.
    """
    found = attack.attacks() if isinstance(attack, Composite) else ((name, attack),)
    return tuple(Stage(n, each, each.objective(defense, policy)) for n, each in found)


def undefended(attack: Any) -> Any:
    """The attack to run on the undefended classifier.

    An attack that needs a purifier is replaced by its base attack (DiffAttack by APGD),
    and one that judges by many draws judges by the one there is.
    """
    return attack.undefended() if hasattr(attack, "undefended") else attack
