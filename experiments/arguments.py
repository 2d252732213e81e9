"""The command line: options as data, each given once, every mistake told in one line.

    --name=value  --name value  --switch  --config=NAME  --config.field.option=value

What is known of a program's options is a tuple of `Flag`; what stands after `--config.` is
left to `experiments.overrides`, which knows the config's fields.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class ArgumentError(ValueError):
    """A command line cannot be read; says which argument, and what was expected."""


class Flag(NamedTuple):
    """An option of a program.

    Attributes:
      name: without its dashes.
      help: one line.
      kind: of its value: str, int or float; bool for a switch that takes none.
      default: where it is not given.
      least: the smallest number that makes sense.
      most: the largest.
      alone: its value where the option is given without one; None where it needs one.
    """

    name: str
    help: str
    kind: type = str
    default: Any = None
    least: float | None = None
    most: float | None = None
    alone: Any = None


class Override(NamedTuple):
    """`--config.attack.num_steps=10` is the path ("attack", "num_steps") and "10"."""

    path: tuple[str, ...]
    value: str

    @property
    def typed(self) -> str:
        """As the user typed it, for messages."""
        return f"--config.{'.'.join(self.path)}"


@dataclass(frozen=True)
class Arguments:
    """A command line taken apart.

    Attributes:
      flags: values by name, defaults filled in.
      config: the name given to --config, or None.
      overrides: in the order in which they were given.
      rest: what is no option: folders, for the programs that take them.
    """

    flags: Mapping[str, Any]
    config: str | None = None
    overrides: tuple[Override, ...] = ()
    rest: tuple[str, ...] = field(default=())

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["flags"][name]
        except KeyError:
            raise AttributeError(name) from None


SEED_LIMIT = 2**32
HELP = Flag("help", "shows this", bool, False)


def parse(
    argv: Sequence[str],
    flags: Iterable[Flag],
    *,
    takes_config: bool = False,
    takes_rest: bool = False,
) -> Arguments:
    """Takes a command line apart.

    Args:
      argv: without the program's name.
      flags: what it knows.
      takes_config: whether it knows `--config` too.
      takes_rest: whether it takes arguments that are no options.

    Raises:
      ArgumentError: an unknown option, one that is given twice, one without its value or
        with one of the wrong type, or an argument that is no option.
    """
    known = {flag.name: flag for flag in (*flags, HELP)}
    given: dict[str, Any] = {}
    overrides: list[Override] = []
    rest: list[str] = []
    arguments = list(argv)
    while arguments:
        argument = arguments.pop(0)
        if argument == "--":
            rest += arguments
            break
        name, equals, value = argument.partition("=")
        if not name.startswith("-") or name == "-":
            rest.append(argument)
            continue
        name = name.removeprefix("-").removeprefix("-")
        name = "help" if name == "h" else name
        is_config = takes_config and (name == "config" or name.startswith("config."))
        if name not in known and not is_config:
            names = [f"--{n}" for n in (*known, *(["config"] if takes_config else []))]
            raise ArgumentError(_unknown(f"--{name}", names))
        if not is_config and known[name].kind is bool:
            value = _switch(name, value if equals else "true")
        elif not equals and not is_config and known[name].alone is not None:
            value = known[name].alone
        elif not equals:
            if not arguments or arguments[0].startswith("--"):
                raise ArgumentError(f"--{name} needs a value, as in --{name}=VALUE")
            value = arguments.pop(0)
        if name.startswith("config."):
            overrides.append(_override(name, str(value), overrides))
            continue
        if name in given:
            raise ArgumentError(
                f"--{name} is given twice, {given[name]} and {value}: once is enough"
            )
        given[name] = value if is_config else _value(known[name], value)
    if rest and not takes_rest:
        raise ArgumentError(
            f"unexpected argument {rest[0]!r}; settings are --config.FIELD=VALUE"
            if takes_config
            else f"unexpected argument {rest[0]!r}"
        )
    config = given.pop("config", None)
    values = {name: given.get(name, flag.default) for name, flag in known.items()}
    return Arguments(values, config, tuple(overrides), tuple(rest))


def usage(flags: Iterable[Flag]) -> str:
    """A line for each option."""
    rows = []
    for flag in (*flags, HELP):
        value = {str: "=TEXT", int: "=N", float: "=X", bool: ""}[flag.kind]
        value = value if flag.alone is None else f"[{value}]"
        rows.append((f"--{flag.name}{value}", flag.help))
    width = max(len(option) for option, _ in rows)
    return "\n".join(f"  {option:{width}}  {text}" for option, text in rows)


def _override(name: str, value: str, before: list[Override]) -> Override:
    path = tuple(name.split(".")[1:])
    override = Override(path, value.strip())
    if "" in path:
        raise ArgumentError(f"--{name}: expected --config.FIELD=VALUE")
    if not override.value:
        raise ArgumentError(f"{override.typed} is empty: expected {override.typed}=VALUE")
    for other in before:
        if other.path == path:
            raise ArgumentError(
                f"{override.typed} is given twice, {other.value} and {override.value}: "
                "once is enough"
            )
    return override


def _switch(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise ArgumentError(f"--{name}={value}, expected --{name}, --{name}=true or =false")
    return value.lower() == "true"


def _value(flag: Flag, value: Any) -> Any:
    if flag.kind is bool:
        return value
    if flag.kind in (int, float):
        return read_number(f"--{flag.name}", value, flag)
    if not value.strip():
        raise ArgumentError(f"--{flag.name} is empty: expected --{flag.name}=VALUE")
    return value


def read_number(name: str, text: str, flag: Flag) -> int | float:
    """A number of a flag's kind and range.

    Raises:
      ArgumentError: it is none, or outside.
    """
    what = "a whole number" if flag.kind is int else "a number"
    shown = text if len(text) < 80 else f"{text[:80]}..."
    try:
        number = flag.kind(text)
    except ValueError:
        raise ArgumentError(f"{name}={shown}, expected {what}") from None
    least, most = flag.least, flag.most
    low, high = least is not None and number < least, most is not None and number > most
    if low or high or number != number:
        text_range = f"{least} to {most}" if most is not None else f"at least {least}"
        raise ArgumentError(f"{name}={shown}, expected {what}, {text_range}")
    return number


def _unknown(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"unknown option {name}; known: {', '.join(known)}.{hint}"
