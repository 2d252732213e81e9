"""jaxpure: how much of a purified classifier's robustness survives randomness replay.

`jp.defense`, `jp.evaluate`, `jp.compare`, `jp.load_data` and `jp.load_network` are the
front door; the modules below them are the house. Everything is imported when first used.
"""

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxpure import (
        attacks,
        data,
        diffusion,
        dissect,
        evaluation,
        gradients,
        keys,
        losses,
        models,
        policy,
        purifiers,
        specs,
        training,
        weights,
    )
    from jaxpure.api import defense, load_network
    from jaxpure.data import load as load_data
    from jaxpure.evaluation import Result, evaluate
    from jaxpure.evaluation.paired import compare
    from jaxpure.evaluation.result import load as load_result

_FRONT_DOOR = {
    "defense": ("jaxpure.api", "defense"),
    "load_network": ("jaxpure.api", "load_network"),
    "load_data": ("jaxpure.data", "load"),
    "evaluate": ("jaxpure.evaluation", "evaluate"),
    "compare": ("jaxpure.evaluation.paired", "compare"),
    "Result": ("jaxpure.evaluation", "Result"),
    "load_result": ("jaxpure.evaluation.result", "load"),
}
_MODULES = (
    "attacks",
    "data",
    "diffusion",
    "dissect",
    "evaluation",
    "gradients",
    "keys",
    "losses",
    "models",
    "policy",
    "purifiers",
    "specs",
    "training",
    "weights",
)

__all__ = [
    "Result",
    "attacks",
    "compare",
    "data",
    "defense",
    "diffusion",
    "dissect",
    "evaluate",
    "evaluation",
    "gradients",
    "keys",
    "load_data",
    "load_network",
    "load_result",
    "losses",
    "models",
    "policy",
    "purifiers",
    "specs",
    "training",
    "weights",
]

try:
    __version__ = metadata.version("jaxpure")
except metadata.PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name in _FRONT_DOOR:
        module, attribute = _FRONT_DOOR[name]
        return getattr(importlib.import_module(module), attribute)
    if name in _MODULES:
        return importlib.import_module(f"jaxpure.{name}")
    raise AttributeError(f"module 'jaxpure' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
