"""The engine: tables of layers say which tensor becomes which, and how.

A table is a sequence of `Layer`s: a pattern of module names in the source, where such a
module goes in the network, and its kind, which knows the tensors of such a module and how
torch lays them out. Translation is strict both ways: every tensor of the source is used or
ignored by name, and every parameter is filled exactly once.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpure.errors import UserError

Shape = tuple[int, ...]
Transform = Callable[[np.ndarray], np.ndarray]


class ConversionError(UserError):
    """A source that is not what it claims to be, or that no table fits."""


def keep(x: np.ndarray) -> np.ndarray:
    return x


def from_oihw(x: np.ndarray) -> np.ndarray:
    """A torch convolution `(out, in, kh, kw)` as `(kh, kw, in, out)`."""
    return x.transpose(2, 3, 1, 0)


def one_a_channel(x: np.ndarray) -> np.ndarray:
    """A torch convolution of each channel alone `(C, 1, kh, kw)` as `(kh, kw, C)`."""
    return x.transpose(2, 3, 1, 0).reshape(*x.shape[2:], -1)


def transposed(x: np.ndarray) -> np.ndarray:
    """A torch linear layer `(out, in)` as `(in, out)`."""
    return x.T


def squeezed(x: np.ndarray) -> np.ndarray:
    """A 1x1 convolution `(out, in, 1)` or `(out, in, 1, 1)` as a matrix `(in, out)`."""
    return x.reshape(x.shape[:2]).T


def patches(x: np.ndarray) -> np.ndarray:
    """A convolution over disjoint patches as a matrix `(kh * kw * in, out)`."""
    return x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])


@dataclass(frozen=True)
class Tensor:
    """Where a tensor of a module goes.

    Attributes:
      collection: "params" or "stats".
      leaf: its name there; "" where the module's own path is the parameter's.
      transform: from torch's layout to ours.
    """

    collection: str
    leaf: str
    transform: Transform = keep


IGNORED = Tensor("", "")

_BIAS = {"bias": Tensor("params", "bias")}
_NORM = {"weight": Tensor("params", "scale"), **_BIAS}

KINDS: dict[str, dict[str, Tensor]] = {
    "conv": {"weight": Tensor("params", "kernel", from_oihw), **_BIAS},
    "depthwise": {"weight": Tensor("params", "", one_a_channel)},
    "dense": {"weight": Tensor("params", "kernel", transposed), **_BIAS},
    "pointwise": {"weight": Tensor("params", "kernel", squeezed), **_BIAS},
    "patches": {"weight": Tensor("params", "kernel", patches), **_BIAS},
    "nin": {"W": Tensor("params", "kernel"), "b": Tensor("params", "bias")},
    "norm": _NORM,
    "batch_norm": {
        **_NORM,
        "running_mean": Tensor("stats", "mean"),
        "running_var": Tensor("stats", "var"),
        "num_batches_tracked": IGNORED,
    },
    "table": {"weight": Tensor("params", "")},
    "array": {"": Tensor("params", "")},
    "ignored": {"": IGNORED},
}
"""What a kind of module holds: its tensors' last names, and where each goes.

"pointwise" is a 1x1 convolution and "patches" one of disjoint patches, both a `Dense`
here; "nin" is score_sde's, whose `W` is `(in, out)` already. "array" and "ignored" name
a tensor itself, not a module.
"""


@dataclass(frozen=True)
class Layer:
    """One row of a table.

    Attributes:
      kind: one of `KINDS`.
      source: regular expression that a module's whole name in the source matches.
      target: the module's path in the network; `\\1` and so on are the groups.
    """

    kind: str
    source: str
    target: str = ""


@dataclass(frozen=True)
class Assignment:
    """A parameter of the network and the tensor that fills it."""

    target: str
    source: str
    transform: Transform


def assign(
    layers: Sequence[Layer], sources: Mapping[str, Shape], targets: Mapping[str, Shape]
) -> list[Assignment]:
    """Pairs every parameter with the one tensor that fills it.

    Args:
      layers: the table of a family.
      sources: shapes of the source's tensors, by name.
      targets: shapes of the network's parameters, by dotted path.

    Raises:
      ConversionError: lists what is left over on both sides, what is filled twice, and
        what has another shape.
    """
    filled: dict[str, Assignment] = {}
    problems, unused = [], []
    for name, shape in sources.items():
        found = _look_up(layers, name)
        if found is None:
            unused.append(name)
            continue
        target, transform = found
        if not target:
            continue
        if target not in targets:
            unused.append(name)
            continue
        if target in filled:
            problems.append(f"{name} and {filled[target].source} both fill {target}")
        got = _shape_after(transform, shape)
        if got != targets[target]:
            problems.append(f"{name} {shape} gives {got}, {target} is {targets[target]}")
        filled[target] = Assignment(target, name, transform)
    empty = [name for name in targets if name not in filled]
    problems += _left_over("tensors that nothing uses", unused, empty)
    problems += _left_over("parameters that nothing fills", empty, unused)
    if problems:
        raise ConversionError("; ".join(problems))
    return list(filled.values())


def fill(
    assignments: Sequence[Assignment], read: Callable[[str], np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Parameters one after another, float32 and contiguous, so that memory stays small."""
    for a in assignments:
        value = a.transform(read(a.source))
        yield a.target, np.asarray(value, np.float32, order="C")


def _look_up(layers: Sequence[Layer], name: str) -> tuple[str, Transform] | None:
    """Target and transform of a tensor; `("", keep)` if ignored, None if unknown."""
    module, _, tail = name.rpartition(".")
    for layer in layers:
        for last, tensor in KINDS[layer.kind].items():
            if last and last != tail:
                continue
            match = re.fullmatch(layer.source, module if last else name)
            if match is None:
                continue
            if tensor is IGNORED:
                return "", keep
            path = [tensor.collection, match.expand(layer.target), tensor.leaf]
            return ".".join(part for part in path if part), tensor.transform
    return None


def _shape_after(transform: Transform, shape: Shape) -> Shape | None:
    """The shape that a transform makes of `shape`; None where it does not fit at all."""
    try:
        return transform(np.broadcast_to(np.float32(0), shape)).shape
    except ValueError:
        return None


def _left_over(what: str, names: list[str], others: list[str], shown: int = 5) -> list[str]:
    if not names:
        return []
    listed: list[Any] = []
    for name in names[:shown]:
        close = difflib.get_close_matches(name, others, n=1, cutoff=0.5)
        listed.append(f"{name} (near {close[0]})" if close else name)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return [f"{len(names)} {what}: {', '.join(listed)}{more}"]
