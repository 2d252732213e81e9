"""Purifiers: `(key, x) -> x`, one file a method, and the registry that names them.

A registry's entry is called with `denoiser`, `schedule`, `step_rule` where it takes
them, and with its own options by keyword. `Resized` runs any of them at another size.
"""

from collections.abc import Callable
from typing import Any

from jaxpure.purifiers.ddim import ddim
from jaxpure.purifiers.diffpure import DiffPure
from jaxpure.purifiers.identity import Identity
from jaxpure.purifiers.one_shot import OneShot
from jaxpure.purifiers.resized import Resized
from jaxpure.purifiers.revpure import RevPure

REGISTRY: dict[str, Callable[..., Any]] = {
    "diffpure": DiffPure.create,
    "revpure": RevPure.create,
    "ddim": ddim,
    "one_shot": OneShot.create,
    "identity": Identity,
}

__all__ = ["REGISTRY", "DiffPure", "Identity", "OneShot", "Resized", "RevPure", "ddim"]
