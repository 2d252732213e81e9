"""The registries behind a config's specs, by the name of the field's kind.

A new kind of thing in configs is a line of `REGISTRIES`. Imported when first asked for:
`--list` and `--help` need none of them.
"""

import importlib
from typing import Any

from jaxpure import specs

REGISTRIES = {
    "purifier": ("jaxpure.purifiers", "PURIFIERS"),
    "ball": ("jaxpure.attacks", "BALLS"),
    "attack": ("jaxpure.attacks", "ATTACKS"),
    "gradient": ("jaxpure.gradients", "GRADIENTS"),
    "data": ("jaxpure.data", "SOURCES"),
    "architecture": ("jaxpure.models", "ARCHITECTURES"),
    "schedule": ("jaxpure.diffusion", "SCHEDULES"),
}


def registry(what: str) -> specs.Registry:
    """The registry of a kind."""
    module, name = REGISTRIES[what]
    return getattr(importlib.import_module(module), name)


def check(what: str, text: str) -> None:
    """Builds a thing, without a denoiser and without loading anything.

    Raises:
      UserError: the spec makes no sense.
    """
    if what == "data":
        from jaxpure import data

        data.parse(text)
        return
    specs.build(registry(what), text, denoiser=None)


def set_option(what: str, text: str, path: list[str], value: str) -> str:
    """The spec with one option changed; see `specs.set_option`."""
    if what == "data" and specs.parse(text).name not in registry(what):
        return _short(specs.set_option(registry(what), _long(text), path, value))
    return specs.set_option(registry(what), text, path, value)


def has_option(what: str, text: str, name: str) -> bool:
    """Whether the thing that a spec names takes this option."""
    found = specs.parse(_long(text) if what == "data" else text)
    known = registry(what)
    return found.name in known and name in specs.options_of(known[found.name])


def _long(text: str) -> str:
    """`cifar10(split=train)` as the source that reads it: `tfds(cifar10,split=train)`."""
    spec = specs.parse(text)
    if spec.name in registry("data"):
        return text
    return str(specs.Spec("tfds", (spec.name, *spec.positional), spec.options))


def _short(text: str) -> str:
    """The other way round."""
    spec = specs.parse(text)
    options: dict[str, Any] = dict(spec.options)
    return str(specs.Spec(options.pop("name"), (), options))


def canonical(what: str, text: str) -> str:
    """A spec in one form for all spellings; without where data is on this machine."""
    if what == "data":
        from jaxpure import data

        source: Any = data.parse(text)
        if getattr(source, "data_dir", None) is not None:
            source = data.parse(source, data_dir=None)
        return specs.describe(source, registry(what))
    return specs.describe(specs.build(registry(what), text, denoiser=None), registry(what))
