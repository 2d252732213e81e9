"""What a family of published checkpoints is: how to know it, and its table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from checkpoints_convert.rules import Layer, Shape
from jaxpure.models import Architecture


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds, the tensors still on disk.

    Attributes:
      shapes: of the model's tensors, by name, prefixes of wrappers removed.
      read: a tensor by its name.
      settings: what was stored beside them: a parsed `config.json`, or nothing.
      trained: facts of a denoiser's training, where the files say them.
    """

    shapes: Mapping[str, Shape]
    read: Callable[[str], np.ndarray]
    settings: Mapping[str, Any] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)

    def has(self, *names: str) -> bool:
        return all(name in self.shapes for name in names)

    def count(self, template: str, first: int = 0) -> int:
        """How many of `template.format(first)`, `(first + 1)`... begin a name."""
        n = first
        while any(name.startswith(template.format(n)) for name in self.shapes):
            n += 1
        return n - first


@dataclass(frozen=True)
class Family:
    """A family of checkpoints that one table converts.

    Attributes:
      name: what `--family` takes.
      about: one line for `--list`.
      recognise: whether these contents are of the family.
      architecture: the network that they are, read off names, shapes and settings.
      layers: the table for such a network.
      trained: facts of the training of a denoiser of this architecture, by the names of
        `jaxpure.models.Trained`; {} for classifiers.
    """

    name: str
    about: str
    recognise: Callable[[Contents], bool]
    architecture: Callable[[Contents], Architecture]
    layers: Callable[[Any], Sequence[Layer]]
    trained: Callable[[Any], Mapping[str, Any]] = lambda architecture: {}
