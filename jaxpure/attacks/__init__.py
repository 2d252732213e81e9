"""Attacks: `init` and `step` for one image, one file each, and their registry.

A registry's entry is called with the defense (under its gradient rule) and the policy,
and by keyword with `norm`, `eps`, `step_size`, `num_steps` and its own options.
"""

from collections.abc import Callable
from typing import Any

from jaxpure.attacks.bpda_eot_hill import BpdaEotHill
from jaxpure.attacks.losses import LOSSES
from jaxpure.attacks.norms import NORMS
from jaxpure.attacks.objective import Objective
from jaxpure.attacks.pgd import Pgd

REGISTRY: dict[str, Callable[..., Any]] = {
    "pgd": Pgd.create,
    "bpda_eot_hill": BpdaEotHill.create,
}

__all__ = ["LOSSES", "NORMS", "REGISTRY", "BpdaEotHill", "Objective", "Pgd"]
