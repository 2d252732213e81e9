"""Weights on disk: safetensors beside a JSON card, never a pickle.

A network is stored as flat names (`params.down.0.blocks.1.conv1.kernel`) with its
architecture in the file's own header, so one file is enough to rebuild it. The card
beside it (`NAME.json`) tells people where it comes from.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as load_bytes

from jaxpure import models

FORMAT = "jaxpure-network-1"
_DTYPE_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "uint32": "U32",
    "uint8": "U8",
    "bool": "BOOL",
}


class CheckpointError(ValueError):
    """A weights file is missing, damaged, or not what it should be."""


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves of a pytree by dotted path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="."): x for p, x in leaves}


def save_tree(path: epath.PathLike, tree: Any, metadata: dict[str, str]) -> None:
    """Writes a pytree of arrays as safetensors, atomically: all of it or nothing."""
    arrays = {name: np.asarray(x) for name, x in flatten(tree).items()}
    described = {name: (x.shape, x.dtype) for name, x in arrays.items()}
    _write(path, described, arrays.items(), metadata)


def load_tree(path: epath.PathLike, like: Any) -> Any:
    """Reads a pytree with the structure, shapes and (on return) dtypes of `like`.

    Raises:
      CheckpointError: the file is unreadable, or names or shapes differ; the message
        lists every difference.
    """
    return _fill(like, _read(path)[0], path)


def write_atomically(path: epath.PathLike, content: bytes) -> None:
    """Writes a file that no reader can see half-written."""
    with _appears_whole(path) as file:
        file.write(content)


def save(
    path: epath.PathLike,
    network: models.Network,
    card: dict[str, Any],
    dtype: str = "float32",
) -> None:
    """Stores a network and its card (`path` with the suffix `.json`).

    Args:
      path: ends in `.safetensors`.
      network: what to store.
      card: what a user should know: data, seed, steps, accuracy, licence, ... For a
        denoiser, `card["diffusion"]` says what it was trained for: "schedule" as a config
        spells it, "timesteps" (it knows those below), "variance".
      dtype: of the stored parameters; "float16" halves the file. `load` returns
        float32.
    """
    arrays = flatten(network.params)
    shapes = {name: x.shape for name, x in arrays.items()}
    values = ((name, np.asarray(x)) for name, x in arrays.items())
    save_streamed(path, network.config, shapes, values, card, dtype)


def save_streamed(
    path: epath.PathLike,
    config: models.Architecture,
    shapes: Mapping[str, tuple[int, ...]],
    values: Iterable[tuple[str, np.ndarray]],
    card: dict[str, Any],
    dtype: str = "float32",
) -> dict[str, Any]:
    """`save` of parameters that come one after another, and never all are in memory.

    Args:
      path: ends in `.safetensors`.
      config: the architecture.
      shapes: of the parameters, by dotted path, in the order of `values`.
      values: names and arrays.
      card: as `save`'s.
      dtype: as `save`'s.

    Returns:
      The card as it was written.
    """
    kinds = {cls: name for name, cls in models.REGISTRY.items()}
    path, kind = epath.Path(path), kinds[type(config)]
    described = dataclasses.asdict(config)
    metadata = {"format": FORMAT, "architecture": kind, "config": json.dumps(described)}
    stored = {name: (shape, np.dtype(dtype)) for name, shape in shapes.items()}
    _write(path, stored, values, metadata)
    trained = [math.prod(shape) for n, shape in shapes.items() if n.startswith("params.")]
    written = {
        **card,
        "architecture": kind,
        "architecture_config": described,
        "parameters": sum(trained),
        "stored_dtype": dtype,
        "sha256": sha256(path),
    }
    content = (json.dumps(written, indent=2) + "\n").encode()
    write_atomically(path.with_suffix(".json"), content)
    return written


def card(name_or_path: epath.PathLike) -> dict[str, Any]:
    """The card beside a network; empty where there is none."""
    path = find(name_or_path).with_suffix(".json")
    return json.loads(path.read_text()) if path.exists() else {}


def sha256(path: epath.PathLike) -> str:
    digest = hashlib.sha256()
    with epath.Path(path).open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def load(name_or_path: epath.PathLike) -> models.Network:
    """Loads a network by the name of a bundled one or by the path of a file.

    Raises:
      CheckpointError: no such name or file, or not a jaxpure network.
    """
    path = find(name_or_path)
    tensors, metadata = _read(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a safetensors file but not a jaxpure network (its header says "
            f"format={metadata.get('format')!r}, expected {FORMAT!r})"
        )
    kind = metadata.get("architecture")
    if kind not in models.REGISTRY:
        raise CheckpointError(
            f"{path} holds architecture {kind!r}; known: {', '.join(models.REGISTRY)}"
        )
    try:
        values = json.loads(metadata["config"])
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        like = models.abstract(models.REGISTRY[kind](**values))
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} has a header that this version does not know ({error}); convert or "
            "train it again"
        ) from error
    return models.Network(like.config, _fill(like.params, tensors, path))


def find(name_or_path: epath.PathLike) -> epath.Path:
    """The file that a bundled name or a path means."""
    path, names = epath.Path(name_or_path), bundled()
    if path.suffix == ".safetensors":
        if path.exists():
            return path
        there = {p.name: p for p in path.parent.glob("*.safetensors")}
        close = difflib.get_close_matches(path.name, [*there, *_files(names)], n=1)
        hint = f" Did you mean {there.get(close[0], close[0][:-12])}?" if close else ""
        raise CheckpointError(
            f"weights file {path} does not exist: train it (python -m experiments.train) "
            "or convert it (python -m checkpoints_convert) first. Bundled, by name alone: "
            f"{', '.join(names)}.{hint}"
        )
    if str(name_or_path) in names:
        return names[str(name_or_path)]
    close = difflib.get_close_matches(str(name_or_path), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise CheckpointError(
        f"no weights named {str(name_or_path)!r}. Bundled: {', '.join(names) or 'none'}; "
        f"or give the path of a .safetensors file.{hint}"
    )


def _files(names: Iterable[str]) -> list[str]:
    return [f"{name}.safetensors" for name in names]


def bundled() -> dict[str, epath.Path]:
    """The weights that come with jaxpure, by name."""
    folder = epath.Path(str(resources.files("jaxpure") / "weights"))
    return {p.stem: p for p in sorted(folder.glob("*.safetensors"))}


@contextlib.contextmanager
def _appears_whole(path: epath.PathLike) -> Iterator[Any]:
    """A file to write to, which takes its name once all is written, and else is removed."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.part"
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write(
    path: epath.PathLike,
    described: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    values: Iterable[tuple[str, np.ndarray]],
    metadata: dict[str, str],
) -> None:
    """Writes safetensors array by array.

    The library's own writer wants all arrays at once and copies them; it also writes wrong
    bytes for arrays that are not contiguous. The format is eight bytes of the header's
    length, the header as JSON, and the arrays.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (shape, dtype) in described.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _DTYPE_NAMES[dtype.name],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # arrays begin at a multiple of eight bytes
    with _appears_whole(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (expected, (shape, dtype)), (name, value) in zip(
            described.items(), values, strict=True
        ):
            if name != expected or value.shape != tuple(shape):
                raise ValueError(f"got {name} {value.shape}, expected {expected} {shape}")
            file.write(np.asarray(value, dtype, order="C").tobytes())


def _read(path: epath.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    path = epath.Path(path)
    try:
        if os.path.isfile(path):  # on this machine: mapped, not copied
            with safe_open(path, framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, file.metadata() or {}
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        tensors = load_bytes(content)
        return tensors, json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}); it may be cut short "
            "or another format"
        ) from error


def _fill(like: Any, tensors: dict[str, np.ndarray], path: epath.PathLike) -> Any:
    wanted = flatten(like)
    problems = [f"missing {name}" for name in wanted if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in wanted]
    problems += [
        f"{name} has shape {tensors[name].shape}, expected {target.shape}"
        for name, target in wanted.items()
        if name in tensors and tensors[name].shape != target.shape
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit: " + "; ".join(problems))
    values = [jnp.asarray(tensors[k], target.dtype) for k, target in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), values)
