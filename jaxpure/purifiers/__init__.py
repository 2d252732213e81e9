"""Purifiers: `(key, x) -> x`, one file a method, and the registry that names them.

The denoiser is what no spec can say: `specs.build(PURIFIERS, "diffpure(t_star=50)",
denoiser=network)` hands it on, to a nested purifier too.
"""

from jaxpure.purifiers.common import Trajectory, first_timestep
from jaxpure.purifiers.ddim import ddim
from jaxpure.purifiers.diffpure import DiffPure
from jaxpure.purifiers.identity import Identity
from jaxpure.purifiers.one_shot import OneShot
from jaxpure.purifiers.resized import Resized
from jaxpure.purifiers.revpure import RevPure
from jaxpure.specs import Registry

PURIFIERS = Registry(
    "purifier",
    {
        "diffpure": DiffPure,
        "revpure": RevPure,
        "ddim": ddim,
        "one_shot": OneShot,
        "resized": Resized,
        "identity": Identity,
    },
)

__all__ = [
    "PURIFIERS",
    "DiffPure",
    "Identity",
    "OneShot",
    "Resized",
    "RevPure",
    "Trajectory",
    "ddim",
    "first_timestep",
]
