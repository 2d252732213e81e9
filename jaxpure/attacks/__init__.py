"""Attacks: hyper-parameters with `init` and `step` for one image, one file each.

What an attack climbs (`Objective`) and what it may do (a ball) are handed to it, so that it
reads like its paper's algorithm. `ATTACKS` names them for specs; `run` runs one.
"""

from jaxpure.attacks.apgd import Apgd
from jaxpure.attacks.autoattack import AutoAttack
from jaxpure.attacks.balls import BALLS, L1, L2, Ball, Linf, NormBall
from jaxpure.attacks.bpda_eot_hill import BpdaEotHill
from jaxpure.attacks.cascade import Composite, Stage, cascade, undefended
from jaxpure.attacks.diffattack import DiffAttack
from jaxpure.attacks.diffhammer import DiffHammer
from jaxpure.attacks.fab import Fab
from jaxpure.attacks.flow import Flow
from jaxpure.attacks.pgd import Pgd
from jaxpure.attacks.progress import Attack, Budget, Example, Progress, init_progress
from jaxpure.attacks.run import Found, run, search
from jaxpure.attacks.square import Square
from jaxpure.attacks.stadv import Stadv
from jaxpure.specs import Registry

ATTACKS = Registry(
    "attack",
    {
        "pgd": Pgd,
        "apgd": Apgd,
        "fab": Fab,
        "square": Square,
        "autoattack": AutoAttack,
        "diffattack": DiffAttack,
        "diffhammer": DiffHammer,
        "stadv": Stadv,
        "bpda_eot_hill": BpdaEotHill,
    },
)

__all__ = [
    "ATTACKS",
    "BALLS",
    "Apgd",
    "Attack",
    "AutoAttack",
    "Ball",
    "BpdaEotHill",
    "Budget",
    "Composite",
    "DiffAttack",
    "DiffHammer",
    "Example",
    "Fab",
    "Flow",
    "Found",
    "L1",
    "L2",
    "Linf",
    "NormBall",
    "Pgd",
    "Progress",
    "Square",
    "Stadv",
    "Stage",
    "cascade",
    "init_progress",
    "run",
    "search",
    "undefended",
]
