"""Data sets by name, each a source in a file of its own.

    digits                                    cifar10(num_examples=64)
    digits(split=train,indices=[3,7])         folder(/path/to/images,image_size=224)

A name that is no registered source is that of a TFDS set: `cifar10` is `tfds(cifar10)`.
"""

import dataclasses
import re
from typing import Any

from jaxpure import specs
from jaxpure.data.dataset import (
    DataError,
    Dataset,
    Source,
    check,
    from_arrays,
    take,
)
from jaxpure.data.digits import Digits
from jaxpure.data.folder import Folder
from jaxpure.data.tfds import Tfds, UnknownSetError, unknown_set
from jaxpure.errors import unknown

__all__ = [
    "SOURCES",
    "DataError",
    "Dataset",
    "Digits",
    "Folder",
    "Source",
    "Tfds",
    "check",
    "from_arrays",
    "load",
    "parse",
    "take",
]

SOURCES = specs.Registry(
    "data set",
    {
        "digits": Digits,
        "folder": Folder,
        "tfds": Tfds,
    },
)
"""By name. A new source is a file with a frozen dataclass that loads when called."""


def load(spec: str | specs.Spec | Source | Dataset, /, **options: Any) -> Dataset:
    """Loads the examples that a spec names, in published order, and checks them.

    Args:
      spec: a spec, a source, or a `Dataset`, which is returned as it is.
      **options: of the source, in place of those that the spec gives:
        `load("cifar10", split="train", num_examples=64)`.

    Raises:
      SpecError: the spec cannot be read, or has an option that the source has not.
      DataError: the set is unknown, not prepared, or holds what it should not.
    """
    if isinstance(spec, Dataset):
        if options:
            raise DataError(
                f"{spec.name} is loaded and takes no options ({', '.join(options)}); "
                "choose some of its examples by data.take"
            )
        dataset = spec
    else:
        source = parse(spec, **options)
        try:
            dataset = source()
        except UnknownSetError:
            name = getattr(source, "name", str(spec))
            raise unknown_set(name, (s for s in SOURCES if s != "tfds")) from None
    if not isinstance(dataset, Dataset):
        raise DataError(f"{spec} gave {type(dataset).__name__}, expected a data.Dataset")
    check(dataset)
    return dataset


def parse(spec: str | specs.Spec | Source, /, **options: Any) -> Source:
    """The source that a spec names, ready to load.

    Args:
      spec: a spec; or a source, which is returned with `options` changed.
      **options: of the source, in place of those that the spec gives.

    Raises:
      SpecError: the spec cannot be read, or has an option that the source has not.
      DataError: it is neither a spec nor a source, or its options do not fit.
    """
    if isinstance(spec, str | specs.Spec):
        return _parse_text(spec, options)
    if not callable(spec) or isinstance(spec, type):
        raise DataError(
            f"a {type(spec).__name__} is no data set; expected a spec such as "
            "'digits(split=train)', a source such as data.Digits(), or a data.Dataset, "
            "which data.from_arrays makes of arrays"
        )
    if not options:
        return spec
    if not dataclasses.is_dataclass(spec):
        raise DataError(f"{specs.describe(spec, SOURCES)} takes no options")
    fields = [field.name for field in dataclasses.fields(spec)]
    _check_known(specs.describe(spec, SOURCES), options, fields)
    changed: Any = dataclasses.replace(spec, **options)
    return changed


def _parse_text(spec: str | specs.Spec, options: dict[str, Any]) -> Source:
    spec = specs.parse(spec) if isinstance(spec, str) else spec
    if spec.name not in SOURCES:
        _check_no_path(spec.name)
        spec = specs.Spec("tfds", (spec.name, *spec.positional), spec.options)
    known = list(specs.options_of(SOURCES[spec.name]))
    _check_known(spec.name, options, known)
    # Values without a name are the first options', those given here left out.
    positional = tuple(
        value
        for i, value in enumerate(spec.positional)
        if i >= len(known) or known[i] not in options
    )
    named = {name: v for name, v in spec.options.items() if name not in options}
    return specs.build(SOURCES, specs.Spec(spec.name, positional, named), **options)


def _check_known(name: str, options: dict[str, Any], known: list[str]) -> None:
    for option in options:
        if option not in known:
            raise specs.SpecError(unknown(f"option of data set {name}", option, known))


def _check_no_path(name: str) -> None:
    if re.match(r"folder:|[/~.]", name):
        path = name.removeprefix("folder:")
        raise DataError(f"unknown data set {name!r}; a folder of images is folder({path})")
