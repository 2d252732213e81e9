"""Attacks: `init` and `step` for one image, one file each, and their registry.

A registry's entry is called with the defense (under its gradient rule) and the policy,
and by keyword with `norm`, `eps`, `step_size`, `num_steps` and its own options, those of
them that it takes. It may give a `Sequence` of attacks.
"""

from collections.abc import Callable
from typing import Any

from jaxpure.attacks.apgd import Apgd
from jaxpure.attacks.autoattack import Sequence, advice, autoattack, stages_of
from jaxpure.attacks.bpda_eot_hill import BpdaEotHill
from jaxpure.attacks.diffattack import diffattack
from jaxpure.attacks.diffhammer import DiffHammer
from jaxpure.attacks.fab import Fab
from jaxpure.attacks.losses import LOSSES
from jaxpure.attacks.norms import NORMS
from jaxpure.attacks.objective import Objective
from jaxpure.attacks.pgd import Pgd
from jaxpure.attacks.square import Square
from jaxpure.attacks.stadv import Stadv

REGISTRY: dict[str, Callable[..., Any]] = {
    "pgd": Pgd.create,
    "bpda_eot_hill": BpdaEotHill.create,
    "apgd": Apgd.create,
    "fab": Fab.create,
    "square": Square.create,
    "autoattack": autoattack,
    "diffattack": diffattack,
    "diffhammer": DiffHammer.create,
    "stadv": Stadv.create,
}

__all__ = [
    "LOSSES",
    "NORMS",
    "REGISTRY",
    "Apgd",
    "BpdaEotHill",
    "DiffHammer",
    "Fab",
    "Objective",
    "Pgd",
    "Sequence",
    "Square",
    "Stadv",
    "advice",
    "autoattack",
    "diffattack",
    "stages_of",
]
