"""Weights on disk: safetensors that say what they are, never a pickle.

A network is stored as flat names (`params.down.0.blocks.1.conv1.kernel`) with its
architecture and what it was trained on in the file's own header, so one file is enough.
The card beside it (`NAME.json`) tells people where it comes from; nothing depends on it.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as load_bytes

from jaxpure import models, specs
from jaxpure.diffusion.steps import Variance
from jaxpure.errors import UserError, unknown
from jaxpure.files import appears_whole, sha256, storage_errors, write_atomically
from jaxpure.models.network import ComputeDtype, check_compute_dtype
from jaxpure.models.trained import Trained

FORMAT, OLD_FORMAT = "jaxpure-network-2", "jaxpure-network-1"
RANDOM = "random:"
PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".tar", ".npz", ".msgpack")
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


class WeightsError(UserError):
    """A weights file is missing, damaged, or not what it should be."""


def load(
    name_or_path: epath.PathLike, compute_dtype: ComputeDtype = "float32"
) -> models.Network:
    """Loads a network.

    Args:
      name_or_path: the name of a bundled one; the path of a `.safetensors` file; or
        `random:ARCHITECTURE(option=value)`, freshly initialised, to see what a run would
        cost before its weights are at hand.
      compute_dtype: of the network's activations, "float32" or "bfloat16".

    Raises:
      WeightsError: no such name or file, or not a jaxpure network.
    """
    check_compute_dtype(compute_dtype)
    if str(name_or_path).startswith(RANDOM):
        network = _random(str(name_or_path))
    else:
        network = _load_file(find(name_or_path))
    return network.replace(compute_dtype=compute_dtype)


def save(
    path: epath.PathLike,
    network: models.Network,
    card: Mapping[str, Any],
    dtype: str = "float32",
) -> dict[str, Any]:
    """Stores a network, with what it was trained on, and its card.

    Args:
      path: ends in `.safetensors`; the card's is the same with the suffix `.json`.
      network: what to store.
      card: what a user should know: data, seed, steps, accuracy, licence, ...
      dtype: of the stored parameters; "float16" halves the file. `load` returns
        float32.

    Returns:
      The card as it was written.
    """
    arrays = flatten(network.params)
    shapes = {name: x.shape for name, x in arrays.items()}
    values = ((name, np.asarray(x)) for name, x in arrays.items())
    what = network.architecture, network.trained
    return save_streamed(path, *what, shapes, values, card, dtype)


def save_streamed(
    path: epath.PathLike,
    architecture: models.Architecture,
    trained: Trained | None,
    shapes: Mapping[str, tuple[int, ...]],
    values: Iterable[tuple[str, np.ndarray]],
    card: Mapping[str, Any],
    dtype: str = "float32",
) -> dict[str, Any]:
    """`save` of parameters that come one after another, and never all are in memory.

    Args:
      path: ends in `.safetensors`.
      architecture: of the network.
      trained: what it was trained on, if it is a denoiser and that is known.
      shapes: of the parameters, by dotted path, in the order of `values`.
      values: names and arrays.
      card: as `save`'s.
      dtype: as `save`'s.

    Returns:
      The card as it was written.
    """
    path = epath.Path(path)
    described = _describe(architecture)
    facts = None if trained is None else trained.to_json()
    metadata = {"format": FORMAT, "architecture": described, "trained": json.dumps(facts)}
    stored = {name: (shape, np.dtype(dtype)) for name, shape in shapes.items()}
    _write(path, stored, values, metadata)
    counted = [math.prod(shape) for n, shape in shapes.items() if n.startswith("params.")]
    written = {
        **card,
        "architecture": described,
        **({} if facts is None else {"trained": facts}),
        "parameters": sum(counted),
        "stored_dtype": dtype,
        "sha256": sha256(path),
    }
    content = (json.dumps(written, indent=2) + "\n").encode()
    write_atomically(path.with_suffix(".json"), content)
    return written


def card(name_or_path: epath.PathLike) -> dict[str, Any]:
    """The card beside a network; empty where there is none.

    Raises:
      WeightsError: there is one that cannot be read.
    """
    if str(name_or_path).startswith(RANDOM):
        return {}
    path = find(name_or_path).with_suffix(".json")
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"the card {path} is damaged ({type(error).__name__}): restore it, or remove it"
        ) from error
    if not isinstance(found, dict):
        raise WeightsError(
            f"the card {path} holds {type(found).__name__}, expected an object"
        )
    return found


def digest(name_or_path: epath.PathLike) -> str:
    """SHA-256 of a network's content, for a file at a path may be replaced."""
    if str(name_or_path).startswith(RANDOM):
        return hashlib.sha256(str(name_or_path).encode()).hexdigest()
    return sha256(find(name_or_path))


def find(name_or_path: epath.PathLike) -> epath.Path:
    """The file that a bundled name or a path means.

    The file name of a bundled network (`digits_denoiser.safetensors`) means that network,
    where no such file is there: commands on cards name files.
    """
    path, names = epath.Path(name_or_path), bundled()
    if path.suffix in PICKLES:
        raise WeightsError(
            f"{path} is of another framework: convert it first, python -m "
            f"checkpoints_convert {path} {path.stem}.safetensors"
        )
    if path.suffix == ".safetensors":
        if path.exists():
            return path
        if path.name == str(name_or_path) and path.stem in names:
            return names[path.stem]
        there = [p.name for p in path.parent.glob("*.safetensors")]
        raise WeightsError(
            f"weights file {path} does not exist: train it (python -m experiments.train) "
            "or convert it (python -m checkpoints_convert) first. "
            + unknown("file", path.name, [*there, *names])
        )
    if str(name_or_path) in names:
        return names[str(name_or_path)]
    raise WeightsError(
        unknown("weights", str(name_or_path), names)
        + " Or give the path of a .safetensors file"
    )


def bundled() -> dict[str, epath.Path]:
    """The weights that come with jaxpure, by name."""
    folder = epath.Path(str(resources.files("jaxpure") / "pretrained"))
    return {p.stem: p for p in sorted(folder.glob("*.safetensors"))}


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
      WeightsError: the file is unreadable, or names or shapes differ; the message
        lists every difference.
    """
    return _fill(like, _read(path)[0], path)


def metadata(path: epath.PathLike) -> dict[str, str]:
    """What a safetensors file says of itself.

    Raises:
      WeightsError: the file is unreadable.
    """
    return _read(path)[1]


def _random(name: str) -> models.Network:
    spec = name.removeprefix(RANDOM)
    try:
        architecture = specs.build(models.ARCHITECTURES, spec)
        return models.create(architecture, jax.random.key(0))
    except ValueError as error:  # its first line names the option; the rest is JAX's
        raise WeightsError(f"{name}: {str(error).splitlines()[0]}") from error


def _load_file(path: epath.Path) -> models.Network:
    tensors, metadata = _read(path)
    try:
        if metadata.get("format") == FORMAT:
            architecture = specs.build(models.ARCHITECTURES, metadata["architecture"])
            facts = json.loads(metadata["trained"])
        elif metadata.get("format") == OLD_FORMAT:
            architecture = _old_architecture(metadata)
            facts = _old_facts(card(path))
        else:
            raise WeightsError(
                f"{path} is a safetensors file but not a jaxpure network (its header says "
                f"format={metadata.get('format')!r}, expected {FORMAT!r}): if its tensors "
                "are of a known family, convert it by python -m checkpoints_convert"
            )
        trained = None if facts is None else Trained.from_json(facts)
        like = models.abstract(architecture)
    except WeightsError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{path} has a header that this version does not know ({error}); convert or "
            "train it again"
        ) from error
    return models.Network(architecture, _fill(like.params, tensors, path), trained)


def _old_architecture(metadata: Mapping[str, str]) -> models.Architecture:
    """Of a version-1 file: the registry's name and the fields as JSON."""
    values = json.loads(metadata["config"])
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return models.ARCHITECTURES.constructor(metadata["architecture"])(**values)


def _old_facts(card: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a version-1 card says of a denoiser's training, in today's words."""
    facts = card.get("diffusion")
    if facts is None:
        return None
    variance = str(facts.get("variance")).removesuffix("_log")  # diffusers' other names
    known = {"variance": variance} if variance in get_args(Variance) else {}
    return {k: v for k, v in facts.items() if k != "variance"} | known


def _describe(architecture: models.Architecture) -> str:
    """Its spec with every option, so that a default which changes does not change it."""
    kind = type(architecture)
    if kind not in models.ARCHITECTURES.names:
        raise WeightsError(
            f"{architecture} is no architecture of the registry "
            f"({', '.join(models.ARCHITECTURES)}): no file could name it"
        )
    options = {
        option.name: specs.write(getattr(architecture, option.name), option.type)
        for option in specs.options_of(kind).values()
        if option.name != "compute_dtype"  # whoever loads it chooses
    }
    return str(specs.Spec(models.ARCHITECTURES.names[kind], (), options))


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
    with appears_whole(path) as file:
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
        with storage_errors(path):
            content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        tensors = load_bytes(content)
        return tensors, json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except SafetensorError as error:
        raise WeightsError(
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
        raise WeightsError(f"{path} does not fit: " + "; ".join(problems))
    values = [jnp.asarray(tensors[k], target.dtype) for k, target in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), values)
