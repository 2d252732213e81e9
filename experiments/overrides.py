"""Changes of a config from the command line.

    --config.attack='apgd(num_restarts=5)'     replaces a spec
    --config.attack.num_steps=10               changes one option of it
    --config.purifier.step_rule.eta=0.5        one of a nested spec
    --config.batch_size=16                     a plain value, read as the field's type

Whole fields are set first and single options after them, whatever the order in which they
were given. Every spec that results is built once to see that it makes sense, so that an
error names the field as it was typed.
"""

import dataclasses
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from experiments import things
from experiments.arguments import Override
from experiments.config import ConfigError, by_name
from jaxpure import specs
from jaxpure.errors import UserError, unknown

# What configs held before their fields were specs, and what is written now.
MOVED = {
    "attack.name": "--config.attack=NAME",
    "attack.norm": "--config.ball, as in --config.ball='l2(0.5)'",
    "attack.eps_255": "--config.ball, as in --config.ball='linf(8/255)'",
    "attack.flow_bound": "--config.ball, as in --config.ball='flow(0.05)'",
    "attack.step_size_255": "--config.attack.step_size, as in 2/255",
    "purifier.name": "--config.purifier=NAME",
    "purifier.image_size": "--config.purifier='resized(purifier=...,image_size=256)'",
    "data.name": "--config.data=NAME",
    "data.data_dir": "--data_dir",
}


def apply(config: Any, overrides: Iterable[Override]) -> Any:
    """The config with its overrides.

    Raises:
      ConfigError: an unknown field or option, or a value that does not fit; says which, as
        it was typed.
    """
    for override in sorted(overrides, key=lambda o: len(o.path)):
        try:
            config = _changed(config, override, override.path)
        except UserError as error:
            raise ConfigError(_about(override, error)) from error
        _check_spec(config, override)
    return config


def arguments_of(name: str, config: Any) -> list[str]:
    """What a program is told to have this change of a named config; `apply` undone.

    Where data is on this machine is left out.
    """
    usual = by_name(name, type(config))
    return [f"--config={name}", *_differing("config", usual, config)]


def _differing(prefix: str, usual: Any, wanted: Any) -> Iterator[str]:
    for field in dataclasses.fields(wanted):
        a, b = getattr(usual, field.name), getattr(wanted, field.name)
        if dataclasses.is_dataclass(b):
            yield from _differing(f"{prefix}.{field.name}", a, b)
        elif a != b and field.name != "data_dir":
            yield f"--{prefix}.{field.name}={b}"


def _changed(node: Any, override: Override, path: tuple[str, ...]) -> Any:
    """A dataclass with the field at `path` set."""
    name, *rest = path
    hints = typing.get_type_hints(type(node), include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(node)}
    if name not in fields:
        done = override.path[: len(override.path) - len(path)]
        where = ".".join(["config", *done])
        raise ConfigError(unknown(f"field of {where}", name, fields))
    value, what = getattr(node, name), fields[name].metadata.get("spec")
    if dataclasses.is_dataclass(value) and rest:
        value = _changed(value, override, tuple(rest))
    elif dataclasses.is_dataclass(value):
        inner = ", ".join(f"{override.typed}.{f.name}" for f in dataclasses.fields(value))
        raise ConfigError(f"has fields of its own: {inner}")
    elif what is not None and rest:
        moved = MOVED.get(f"{name}.{'.'.join(rest)}")
        if moved and not things.has_option(what, value, rest[0]):
            raise ConfigError(f"is given by {moved} now")
        value = things.set_option(what, value, rest, override.value)
    elif what is not None:
        specs.parse(override.value)
        value = override.value
    elif rest:
        raise ConfigError(f"config.{name} has no options of its own")
    else:
        value = specs.read(override.value, hints[name], f"config.{name}")
    return dataclasses.replace(node, **{name: value})


def _check_spec(config: Any, override: Override) -> None:
    """Builds the spec that an override left, to see that it makes sense."""
    name = override.path[0]
    field = next(f for f in dataclasses.fields(config) if f.name == name)
    if "spec" not in field.metadata:
        return
    try:
        things.check(field.metadata["spec"], getattr(config, name))
    except UserError as error:
        raise ConfigError(_about(override, error)) from error


def _about(override: Override, error: Exception) -> str:
    """The error under what the user typed, unless it says so itself."""
    text, own = str(error), f"config.{'.'.join(override.path)}={override.value}"
    if text.startswith(own):
        return f"--{text}"
    return f"{override.typed}={override.value}: {text}"
