"""Weights on disk: safetensors beside a JSON card, never a pickle.

A network is stored as flat names (`params.down.0.blocks.1.conv1.kernel`) with its
architecture in the file's own header, so one file is enough to rebuild it. The card
beside it (`NAME.json`) tells people where it comes from.
"""

import dataclasses
import difflib
import json
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import load as load_bytes
from safetensors.numpy import save as save_bytes

from jaxpure import models

FORMAT = "jaxpure-network-1"


class CheckpointError(ValueError):
    """A weights file is missing, damaged, or not what it should be."""


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves of a pytree by dotted path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="."): x for p, x in leaves}


def save_tree(path: epath.PathLike, tree: Any, metadata: dict[str, str]) -> None:
    """Writes a pytree of arrays as safetensors, atomically: all of it or nothing."""
    # safetensors writes wrong bytes for arrays that are not contiguous.
    arrays = {k: np.asarray(x, order="C") for k, x in flatten(tree).items()}
    write_atomically(path, save_bytes(arrays, metadata))


def load_tree(path: epath.PathLike, like: Any) -> Any:
    """Reads a pytree with the structure, shapes and (on return) dtypes of `like`.

    Raises:
      CheckpointError: the file is unreadable, or names or shapes differ; the message
        lists every difference.
    """
    return _fill(like, _read(path)[0], path)


def write_atomically(path: epath.PathLike, content: bytes) -> None:
    """Writes a file that no reader can see half-written."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.part"
    temporary.write_bytes(content)
    temporary.replace(path)


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
      card: what a user should know: data, seed, steps, accuracy, licence, ...
      dtype: of the stored parameters; "float16" halves the file. `load` returns
        float32.
    """
    path = epath.Path(path)
    kinds = {cls: name for name, cls in models.REGISTRY.items()}
    metadata = {
        "format": FORMAT,
        "architecture": kinds[type(network.config)],
        "config": json.dumps(dataclasses.asdict(network.config)),  # pyright: ignore
    }
    stored = jax.tree.map(lambda x: np.asarray(x, dtype), network.params)
    save_tree(path, stored, metadata)
    details = {
        **card,
        "architecture": metadata["architecture"],
        "architecture_config": json.loads(metadata["config"]),
        "parameters": models.num_params(network),
        "stored_dtype": dtype,
    }
    write_atomically(
        path.with_suffix(".json"), (json.dumps(details, indent=2) + "\n").encode()
    )


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
    kind = metadata["architecture"]
    if kind not in models.REGISTRY:
        raise CheckpointError(
            f"{path} holds architecture {kind!r}; known: {', '.join(models.REGISTRY)}"
        )
    values = json.loads(metadata["config"])
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    like = models.abstract(models.REGISTRY[kind](**values))
    return models.Network(like.config, _fill(like.params, tensors, path))


def find(name_or_path: epath.PathLike) -> epath.Path:
    """The file that a bundled name or a path means."""
    path = epath.Path(name_or_path)
    if path.suffix == ".safetensors":
        if path.exists():
            return path
        raise CheckpointError(f"weights file {path} does not exist")
    names = bundled()
    if str(name_or_path) in names:
        return names[str(name_or_path)]
    close = difflib.get_close_matches(str(name_or_path), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise CheckpointError(
        f"no weights named {str(name_or_path)!r}. Bundled: {', '.join(names) or 'none'}; "
        f"or give the path of a .safetensors file.{hint}"
    )


def bundled() -> dict[str, epath.Path]:
    """The weights that come with jaxpure, by name."""
    folder = epath.Path(str(resources.files("jaxpure") / "weights"))
    return {p.stem: p for p in sorted(folder.glob("*.safetensors"))}


def _read(path: epath.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    content = epath.Path(path).read_bytes()
    try:
        tensors = load_bytes(content)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}); it may be cut short "
            "or another format"
        ) from error
    header_length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_length])
    return tensors, header.get("__metadata__", {})


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
