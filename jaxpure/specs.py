"""Specs: the text form of things with a name and options.

    pgd(step_size=8.5/255,num_steps=20)
    diffpure(t_star=50,step_rule=ddim(eta=0.5,num_steps=10))
    linf(8/255)

A `Registry` names the constructors of one kind. The constructor's signature is the only
definition of its options: their names, types, defaults and order. `build` reads a spec by
it, and `spec_of` writes one that builds an equal thing. An option that is itself a
registered thing says so in its annotation, `Annotated[StepRule, STEP_RULES]`.

    spec   = name [ "(" [ option { "," option } ] ")" ]
    option = [ name "=" ] value        those without a name come first, in order
    value  = number | number "/" number | true | false | none | word | 'text' | spec
             | "[" value { "," value } "]"
"""

import inspect
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from jaxpure.errors import UserError, unknown

OPEN, CLOSE = "([", ")]"
MOST_NESTED = 32  # brackets in brackets: far more than any thing has


class SpecError(UserError):
    """A spec cannot be read, or names what does not exist; says where."""


class Spec(NamedTuple):
    """A spec taken apart, its values still text.

    Attributes:
      name: of the thing.
      positional: values without a name.
      options: values by name.
    """

    name: str
    positional: tuple[str, ...] = ()
    options: Mapping[str, str] = {}

    def __str__(self) -> str:
        values = [*self.positional, *(f"{k}={v}" for k, v in self.options.items())]
        return f"{self.name}({','.join(values)})" if values else self.name


class Registry(Mapping[str, Callable[..., Any]]):
    """Constructors of one kind by name, in the order in which they are to be listed.

    Args:
      what: the kind, as messages call it ("attack").
      entries: constructors by name: dataclasses, or functions whose keyword arguments are
        their options.
    """

    def __init__(self, what: str, entries: Mapping[str, Callable[..., Any]]):
        self.what = what
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __hash__(self) -> int:
        return id(self)  # an annotation may hold one

    @cached_property
    def names(self) -> dict[Any, str]:
        """Names by constructor."""
        return {constructor: name for name, constructor in self._entries.items()}

    def constructor(self, name: str) -> Callable[..., Any]:
        """The constructor of this name.

        Raises:
          SpecError: there is none; lists the known ones and the closest.
        """
        if name not in self._entries:
            raise SpecError(unknown(self.what, name, self._entries))
        return self._entries[name]

    def check(self) -> None:
        """Raises TypeError for an option without a type."""
        for name, constructor in self._entries.items():
            for option in options_of(constructor).values():
                _check_readable(option.type, f"{self.what} {name}: {option.name}")


class Option(NamedTuple):
    """An option of a constructor, as its signature has it.

    Attributes:
      name: of the parameter.
      type: its annotation.
      default: or `inspect.Parameter.empty` where it must be given.
    """

    name: str
    type: Any
    default: Any

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


def parse(text: str) -> Spec:
    """Takes a spec apart.

    Raises:
      SpecError: the text is not a spec; says at which character and what was expected.
    """
    text = text.strip()
    _check_brackets(text)
    name, bracket, rest = text.partition("(")
    name = name.strip()
    if not name:
        raise SpecError(f"{text!r}: expected a name, as in name(option=value)")
    if not bracket:
        return Spec(name)
    body, rest = _up_to_closing(rest)
    if rest.strip():
        raise SpecError(f"{text!r}: {rest.strip()!r} after the closing bracket")
    positional, options = [], {}
    for piece in _split(body, text):
        key, equals, value = _split_assignment(piece)
        if not equals:
            if options:
                raise SpecError(
                    f"{text!r}: {piece!r} follows named options; expected option=value"
                )
            positional.append(piece)
        elif not value:
            raise SpecError(f"{text!r}: option {key!r} has no value; expected {key}=value")
        elif key in options:
            raise SpecError(f"{text!r}: option {key!r} is given twice")
        else:
            options[key] = value
    return Spec(name, tuple(positional), options)


def options_of(constructor: Callable[..., Any]) -> dict[str, Option]:
    """The options of a constructor by name, in the order of its signature."""
    function = constructor.__init__ if isinstance(constructor, type) else constructor
    hints = typing.get_type_hints(function, include_extras=True)
    return {
        name: Option(name, hints.get(name, inspect.Parameter.empty), parameter.default)
        for name, parameter in inspect.signature(constructor).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def build(registry: Registry, spec: Any, /, **given: Any) -> Any:
    """Makes the thing that a spec names; an object that is no text is returned as it is.

    Args:
      registry: of its kind.
      spec: text, or a `Spec`.
      **given: arguments for the constructor that no spec can say (a denoiser). They are
        passed on where it takes them, also to nested things.

    Raises:
      SpecError: an unknown name or option, a value of the wrong type, a required option
        that is missing, or options that the constructor refuses.
    """
    if not isinstance(spec, str | Spec):
        return spec
    spec = parse(spec) if isinstance(spec, str) else spec
    constructor = registry.constructor(spec.name)
    options = options_of(constructor)
    what = f"{registry.what} {spec.name}"
    open_options = [name for name in options if name not in given]
    if len(spec.positional) > len(open_options):
        raise SpecError(
            f"{what}: {len(spec.positional)} values without a name, but it takes "
            f"{', '.join(open_options) or 'no options'}"
        )
    values = dict(zip(open_options, spec.positional, strict=False))
    for name, value in spec.options.items():
        if name not in open_options:
            raise SpecError(unknown(f"option of {what}", name, open_options))
        if name in values:
            raise SpecError(f"{what}: option {name!r} is given twice, {values[name]} first")
        values[name] = value
    missing = [n for n in open_options if options[n].required and n not in values]
    if missing:
        raise SpecError(
            f"{what} needs {', '.join(missing)}, as in "
            f"{spec.name}({','.join(f'{n}=...' for n in missing)})"
        )
    arguments = {
        name: read(value, options[name].type, f"{what}: {name}", **given)
        for name, value in values.items()
    }
    passed = {name: value for name, value in given.items() if name in options}
    try:
        return constructor(**passed, **arguments)
    except SpecError:
        raise
    except ValueError as error:  # the library's own words name the option
        raise SpecError(f"{what}: {error}") from error


def read(text: str, kind: Any, where: str, **given: Any) -> Any:
    """Reads a value as a type: a number, a choice, a nested spec, a list of them.

    Args:
      text: as it stands in the spec.
      kind: a type annotation.
      where: what the value is of, for messages.
      **given: as for `build`.

    Raises:
      SpecError: the text is no value of that type.
    """
    text = text.strip()
    kind, registry = _unwrap(kind)
    if registry is not None:
        return build(registry, _unquoted(text), **given)
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _read_union(text, typing.get_args(kind), where, **given)
    if origin is typing.Literal:
        choices = [str(choice) for choice in typing.get_args(kind)]
        if _unquoted(text) not in choices:
            raise SpecError(f"{where}: {unknown('value', _unquoted(text), choices)}")
        return _unquoted(text)
    if origin is tuple or kind is tuple:
        if not (text.startswith("[") and text.endswith("]")):
            raise SpecError(f"{where}={text}, expected a list, as in [1,2]")
        (element, *_) = typing.get_args(kind) or (str,)
        return tuple(read(t, element, where, **given) for t in _split(text[1:-1], text))
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise SpecError(f"{where}={text}, expected true or false")
        return text.lower() == "true"
    if kind is int:
        return _read_int(text, where)
    if kind in (float, Any):
        return _read_float(text, where)
    if kind is str:
        return _unquoted(text)
    raise SpecError(f"{where}={text}: only Python can give this option, no text can")


def spec_of(thing: Any, registry: Registry) -> str:
    """The spec that builds an equal thing; options at their default are left out.

    Raises:
      TypeError: the thing is not of the registry, or has an option that no text can give.
    """
    if type(thing) not in registry.names:
        raise TypeError(
            f"{thing!r} is no {registry.what} of the registry ({', '.join(registry)})"
        )
    options = []
    for option in options_of(type(thing)).values():
        value = getattr(thing, option.name)
        kind, nested = _unwrap(option.type)
        if not _can_be_read(kind) and nested is None:
            continue
        if option.required or not _same(value, option.default):
            options.append(f"{option.name}={write(value, option.type)}")
    name = registry.names[type(thing)]
    return f"{name}({','.join(options)})" if options else name


def describe(thing: Any, registry: Registry) -> str:
    """`spec_of` where there is one, else what the thing says of itself."""
    try:
        return spec_of(thing, registry)
    except TypeError:
        return getattr(thing, "__name__", None) or repr(thing)


def write(value: Any, kind: Any = Any) -> str:
    """A value as `read` reads it back, whatever its precision."""
    kind, registry = _unwrap(kind)
    if value is None:
        return "none"
    if registry is not None and not isinstance(value, str):
        return spec_of(value, registry)
    for option in typing.get_args(kind) if _is_union(kind) else ():
        nested = _unwrap(option)[1]
        if nested is not None and type(value) in nested.names:
            return spec_of(value, nested)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        (element, *_) = typing.get_args(kind) or (Any,)
        return f"[{','.join(write(v, element) for v in value)}]"
    if isinstance(value, float):
        return _write_float(value)
    if isinstance(value, str):
        return _quoted(value)
    if callable(value):
        raise TypeError(f"{value!r} has no text form")
    return str(value)


def set_option(registry: Registry, text: str, path: list[str], value: str) -> str:
    """The spec with one option changed, a nested one by its path.

    `set_option(PURIFIERS, "diffpure(t_star=50)", ["step_rule", "clip"], "true")` is
    `"diffpure(t_star=50,step_rule=ddpm(clip=true))"`: where the spec does not say what the
    nested thing is, it is the option's default.

    Raises:
      SpecError: an unknown name or option, or a path into an option that has no options.
    """
    spec = parse(text)
    constructor = registry.constructor(spec.name)
    options = options_of(constructor)
    what = f"{registry.what} {spec.name}"
    named = dict(zip(options, spec.positional, strict=False)) | dict(spec.options)
    first, *rest = path
    if first not in options:
        raise SpecError(unknown(f"option of {what}", first, options))
    if rest:
        nested = _nested_registry(options[first].type)
        if nested is None:
            raise SpecError(f"{what}: option {first!r} has no options of its own")
        if first not in named and options[first].default in (None, inspect.Parameter.empty):
            raise SpecError(f"{what}: give {first} first, as in {first}=NAME")
        inner = named.get(first) or spec_of(options[first].default, nested)
        value = set_option(nested, inner, rest, value)
    return str(Spec(spec.name, (), {**named, first: value}))


def _nested_registry(kind: Any) -> Registry | None:
    """The registry that an option's values are of, if any."""
    kind, registry = _unwrap(kind)
    if registry is None and _is_union(kind):
        found = (_nested_registry(k) for k in typing.get_args(kind))
        return next((r for r in found if r is not None), None)
    return registry


def _unwrap(kind: Any) -> tuple[Any, Registry | None]:
    """An annotation without `Annotated`, and the registry that it carried."""
    if typing.get_origin(kind) is typing.Annotated:
        inner, *extras = typing.get_args(kind)
        for extra in extras:
            if isinstance(extra, Registry):
                return inner, extra
            if inspect.isfunction(extra):  # of a registry that holds this very class
                return inner, extra()
        return inner, None
    return kind, None


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _can_be_read(kind: Any) -> bool:
    kind, registry = _unwrap(kind)
    if registry is not None or kind in (bool, int, float, str, tuple, type(None)):
        return True
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return True
    if origin is tuple or _is_union(kind):
        return any(_can_be_read(k) for k in typing.get_args(kind) if k is not Ellipsis)
    return False


def _check_readable(kind: Any, where: str) -> None:
    if kind is inspect.Parameter.empty:
        raise TypeError(f"{where} has no type: annotate it")


def _read_union(text: str, kinds: tuple[Any, ...], where: str, **given: Any) -> Any:
    if type(None) in kinds and text.lower() == "none":
        return None
    readable = [k for k in kinds if k is not type(None) and _can_be_read(k)]
    errors = []
    for kind in readable:
        try:
            return read(text, kind, where, **given)
        except SpecError as error:
            errors.append(error)
    if not errors:
        raise SpecError(f"{where}={text}: only Python can give this option, no text can")
    raise errors[0]


def _read_float(text: str, where: str) -> float:
    numerator, slash, denominator = text.partition("/")
    try:
        value = float(numerator) / (float(denominator) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        raise SpecError(f"{where}={text}, expected a number, as in 0.5 or 8/255") from None
    if not math.isfinite(value):
        raise SpecError(f"{where}={text}, expected a finite number")
    return value


def _read_int(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise SpecError(f"{where}={text}, expected a whole number") from None


def _write_float(value: float) -> str:
    """In its fewest digits, or as a fraction of 255 where that is shorter and exact."""
    fraction = f"{value * 255:.6g}"
    if len(repr(value)) > len(fraction) + 4 and float(fraction) / 255 == value:
        return f"{fraction}/255"
    return repr(float(value))


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+./:~*@ ")


def _quoted(text: str) -> str:
    """As it is where it reads as a word, else in quotes."""
    if text and set(text) <= PLAIN and text.lower() != "none" and text == text.strip():
        return text
    return "'" + text.replace("'", "''") + "'"


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    return text


def _letters(text: str) -> Iterator[tuple[int, str, bool]]:
    """`(position, letter, whether it is inside quotes)`."""
    inside = False
    for i, letter in enumerate(text):
        if letter == "'":
            inside = not inside
        yield i, letter, inside or letter == "'"


def _check_brackets(text: str) -> None:
    """Raises SpecError for brackets or quotes that do not pair."""
    opened: list[tuple[str, int]] = []
    quoted = False
    for i, letter, quoted in _letters(text):
        if quoted:
            continue
        if letter in OPEN:
            opened.append((letter, i))
            if len(opened) > MOST_NESTED:
                raise SpecError(
                    f"{text[:60]!r}...: more than {MOST_NESTED} brackets in one another"
                )
        elif letter in CLOSE:
            if not opened or OPEN.index(opened[-1][0]) != CLOSE.index(letter):
                raise SpecError(
                    f"{text!r}: {letter!r} at character {i + 1} closes nothing that is open"
                )
            opened.pop()
    if text.count("'") % 2:
        raise SpecError(
            f"{text!r}: the quote at character {text.rindex(chr(39)) + 1} is open"
        )
    if opened:
        letter, i = opened[-1]
        raise SpecError(
            f"{text!r}: {letter!r} at character {i + 1} is not closed; expected "
            f"{CLOSE[OPEN.index(letter)]!r}"
        )


def _up_to_closing(text: str) -> tuple[str, str]:
    """The text up to the bracket that closes it, and what follows that."""
    depth = 0
    for i, letter, quoted in _letters(text):
        if quoted:
            continue
        if letter == ")" and depth == 0:
            return text[:i], text[i + 1 :]
        depth += (letter in OPEN) - (letter in CLOSE)
    raise AssertionError("brackets were checked")


def _split(body: str, text: str) -> list[str]:
    """The parts of a list between commas outside of brackets and quotes."""
    if not body.strip():
        return []
    pieces, depth, start = [], 0, 0
    for i, letter, quoted in [*_letters(body), (len(body), ",", False)]:
        if quoted:
            continue
        depth += (letter in OPEN) - (letter in CLOSE)
        if letter == "," and depth == 0:
            pieces.append(body[start:i].strip())
            start = i + 1
    if "" in pieces:
        raise SpecError(f"{text!r}: nothing between two commas; expected option=value")
    return pieces


def _split_assignment(piece: str) -> tuple[str, str, str]:
    """`name`, `=` and value where the piece begins with an assignment, else no `=`."""
    name, equals, value = piece.partition("=")
    if equals and name.strip().isidentifier():
        return name.strip(), "=", value.strip()
    if equals and not any(bracket in name for bracket in OPEN + "'"):
        raise SpecError(f"{piece!r}: {name.strip()!r} cannot be an option's name")
    return "", "", piece
