"""Opens what people download, without running any code that is in it.

safetensors without torch; torch's own formats through `torch.load(weights_only=True)`,
memory-mapped. The tensors stay on disk until they are read one by one. Whatever is not a
checkpoint is told apart by its first bytes and refused in a sentence.
"""

import argparse
import contextlib
import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert.family import Contents
from checkpoints_convert.rules import ConversionError
from jaxpure.diffusion.steps import VARIANCES

# Where a model's tensors are in a training checkpoint; averaged weights come first.
CONTAINERS = (
    "ema",
    "model_ema",
    "state_dict_ema",
    "model_state_dict",
    "state_dict",
    "model",
    "net",
    "params",
)
WAY_OUT = (
    "where you trust it, save its tensors alone, torch.save(model.state_dict(), ...), and "
    "convert that"
)
BUFFERS = ("sigmas", "num_batches_tracked", "running_mean", "running_var")
WEIGHT_FILES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)


@dataclass(frozen=True)
class Digest:
    """Size and hashes of a file."""

    size: int
    sha256: str
    md5: str


def digest(path: Path) -> Digest:
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            sha256.update(block)
            md5.update(block)
    return Digest(path.stat().st_size, sha256.hexdigest(), md5.hexdigest())


def weights_file(path: Path) -> Path:
    """The file with the tensors: the path itself, or the known one in a folder.

    Raises:
      ConversionError: there is none.
    """
    if path.is_dir():
        for folder in (path, path / "unet"):
            for name in WEIGHT_FILES:
                if (folder / name).is_file():
                    return folder / name
        raise ConversionError(
            f"folder {path} has none of {', '.join(WEIGHT_FILES)}, nor has a folder unet "
            "in it"
        )
    if not path.is_file():
        raise ConversionError(f"{path} does not exist")
    return path


def open_contents(path: Path) -> Contents:
    """What a file or a folder holds.

    Raises:
      ConversionError: it is not a checkpoint of tensors; the message says what it is.
    """
    file = weights_file(path)
    tensors = _open_tensors(file)
    if not tensors:
        raise ConversionError(f"{file} holds no tensors")
    settings, trained = {}, {}
    if path.is_dir():
        settings = _json(file.parent / "config.json")
        trained = _scheduler(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return Contents(shapes, lambda name: tensors[name].read(), settings, trained)


@dataclass(frozen=True)
class _Stored:
    """A tensor on disk, of either format."""

    shape: tuple[int, ...]
    fetch: Any

    def read(self) -> np.ndarray:
        return self.fetch()


def _open_tensors(path: Path) -> dict[str, _Stored]:
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise ConversionError(f"{path} is empty")
    if head.lstrip()[:1] == b"<":
        raise ConversionError(
            f"{path} is a web page, not weights: the download was answered by a page (a "
            "confirmation or an error); fetch it again in a browser"
        )
    if head.startswith(b"version https://git-lfs"):
        raise ConversionError(
            f"{path} is a git-lfs pointer, not weights: run 'git lfs pull' where it is"
        )
    if head[8:9] == b"{":
        return _without_wrappers(_open_safetensors(path), path)
    if head[:2] != b"PK" and head[:1] not in (b"\x80", b"("):
        raise ConversionError(
            f"{path} is neither safetensors nor a torch checkpoint (it begins with "
            f"{head[:8]!r})"
        )
    if path.suffix == ".safetensors":  # by which torch would choose its reader
        raise ConversionError(
            f"{path} is named as safetensors and is none (it begins with {head[:8]!r}); a "
            "torch checkpoint ends in .pt or .pth"
        )
    if _is_torchscript(path):
        raise ConversionError(
            f"{path} is a TorchScript archive, code beside weights, and jaxpure runs no "
            f"code of files: refused; {WAY_OUT}"
        )
    return _without_wrappers(_model_of(_torch_load(path), path), path)


def _open_safetensors(path: Path) -> dict[str, _Stored]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ConversionError(
            f"{path} is damaged or cut short: safetensors says {error}"
        ) from error

    def stored(name: str) -> _Stored:
        described = file.get_slice(name)
        if described.get_dtype() == "BF16":  # numpy has no such type; flax's reader does
            return _Stored(tuple(described.get_shape()), lambda: _bfloat16(path, name))
        return _Stored(tuple(described.get_shape()), lambda: file.get_tensor(name))

    return {name: stored(name) for name in file.keys()}  # noqa: SIM118


def _bfloat16(path: Path, name: str) -> np.ndarray:
    from safetensors import safe_open

    with safe_open(path, framework="flax") as file:
        return np.asarray(file.get_tensor(name), np.float32)


def _is_torchscript(path: Path) -> bool:
    """Whether it is a zip with TorchScript's constants or its folder of code.

    All is in one folder, which torch names after the file: it may be called code too.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False  # damaged: for torch to say
    return any(name == "constants.pkl" or name.startswith("code/") for name in names)


def _torch_load(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ConversionError(
            f"{path} is a torch checkpoint: pip install 'jaxpure[convert]' to read it"
        ) from error
    with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of old formats, new protocols
        try:
            with contextlib.suppress(RuntimeError):  # of a format older than the zip's
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return torch.load(path, map_location="cpu", weights_only=True)
        except (
            pickle.UnpicklingError,
            RuntimeError,
            EOFError,
            OSError,
            ValueError,
        ) as error:
            raise ConversionError(_why_not_loaded(path, error)) from error


def _harmless() -> list[Any]:
    """Types that training checkpoints keep beside the weights and that run nothing."""
    from numpy._core.multiarray import scalar

    numbers = [type(np.dtype(name)) for name in ("f4", "f8", "i4", "i8", "bool")]
    return [
        argparse.Namespace,
        np.dtype,
        *numbers,
        scalar,
        (scalar, "numpy.core.multiarray.scalar"),
    ]


def _why_not_loaded(path: Path, error: Exception) -> str:
    """Says it without torch's advice, which is to load such files without its safety."""
    text = str(error).strip()
    _, found, rest = text.partition("GLOBAL ")
    if found:
        return (
            f"{path} holds pickled Python objects ({rest.split(' ')[0]}), which can run "
            f"any code when they are loaded: refused; {WAY_OUT}"
        )
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in text:
        return (
            f"{path} is not a readable torch checkpoint: it is damaged, or pickled in a "
            f"way that could run code, and jaxpure runs no code of files; {WAY_OUT}"
        )
    first = text.partition("\n")[0]
    return f"{path} is damaged or cut short: torch says {first!r}"


def _model_of(loaded: Any, path: Path) -> dict[str, _Stored]:
    """The model's tensors in what torch loaded."""
    if not isinstance(loaded, Mapping):
        raise ConversionError(f"{path} holds a {type(loaded).__name__}, not a state_dict")
    ema = loaded.get("ema")
    if isinstance(ema, Mapping) and "shadow_params" in ema:
        return _named_shadow(loaded, ema["shadow_params"], path)
    for key in CONTAINERS:
        if isinstance(loaded.get(key), Mapping) and _tensors(loaded[key]):
            return _tensors(loaded[key])
    if found := _tensors(loaded):
        return found
    keys = ", ".join(map(str, list(loaded)[:8]))
    if "param_groups" in loaded or any("optim" in str(key) for key in loaded):
        raise ConversionError(
            f"{path} holds an optimizer's state and no model (its keys: {keys}); the "
            "model is in another file of the same training"
        )
    raise ConversionError(f"{path} holds no tensors of a model; its keys: {keys}")


def _tensors(values: Mapping[Any, Any]) -> dict[str, _Stored]:
    import torch

    return {
        str(name): _Stored(tuple(value.shape), lambda value=value: _to_numpy(value))
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }


def _to_numpy(tensor: Any) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _named_shadow(loaded: Mapping[str, Any], shadow: Any, path: Path) -> dict[str, _Stored]:
    """Averaged weights that are a list, in the order of the model's parameters."""
    model = loaded.get("model")
    named = _tensors(model) if isinstance(model, Mapping) else {}
    names = [name for name in named if name.rsplit(".", 1)[-1] not in BUFFERS]
    values = list(_tensors(dict(enumerate(shadow))).values())
    fits = len(values) == len(names) and all(
        named[name].shape == value.shape for name, value in zip(names, values, strict=True)
    )
    if not fits:
        raise ConversionError(
            f"{path}: the {len(values)} averaged tensors (ema.shadow_params) do not match "
            f"the {len(names)} parameters of its model one by one"
        )
    return dict(zip(names, values, strict=True))


def _without_wrappers(tensors: dict[str, _Stored], path: Path) -> dict[str, _Stored]:
    """Names without the prefixes of DataParallel, Sequential and the like."""
    stripped = {}
    for name, tensor in tensors.items():
        short = name.removeprefix("module.")
        if short in stripped:
            raise ConversionError(f"{path} holds {short} with and without 'module.'")
        stripped[short] = tensor
    for prefix in ("0.", "model.", "net."):
        if stripped and all(name.startswith(prefix) for name in stripped):
            stripped = {name.removeprefix(prefix): x for name, x in stripped.items()}
    return stripped


def _scheduler(folder: Path) -> dict[str, Any]:
    """Schedule and variance that a folder's scheduler_config.json names, or nothing."""
    for place in (folder, folder / "scheduler"):
        if (place / "scheduler_config.json").is_file():
            return _describe_scheduler(place)
    return {}


def _describe_scheduler(folder: Path) -> dict[str, Any]:
    try:
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    except ImportError as error:
        raise ConversionError(
            f"{folder}: pip install 'jaxpure[convert]' to read its scheduler"
        ) from error
    config: Any = DDPMScheduler.load_config(folder)
    scheduler: Any = DDPMScheduler.from_config(config)
    config = scheduler.config  # with the defaults filled in
    names = {"linear": "linear", "squaredcos_cap_v2": "cosine"}
    kind = names.get(config["beta_schedule"])
    if kind is None or config["prediction_type"] != "epsilon":
        raise ConversionError(
            f"{folder}: beta_schedule {config['beta_schedule']!r} with prediction_type "
            f"{config['prediction_type']!r} is not supported; known: "
            f"{', '.join(names)} with epsilon"
        )
    steps = config["num_train_timesteps"]
    ends = (config["beta_start"] * steps / 1000, config["beta_end"] * steps / 1000)
    options = [] if steps == 1000 else [f"num_timesteps={steps}"]
    if kind == "linear" and not np.allclose(ends, (1e-4, 2e-2)):
        options += [f"beta_start={ends[0]:g}", f"beta_end={ends[1]:g}"]
    variance = config["variance_type"].removesuffix("_log")  # the same numbers
    known = {"variance": variance} if variance in VARIANCES else {}
    return {
        "schedule": kind + (f"({','.join(options)})" if options else ""),
        "clip": config["clip_sample"],
        "timesteps": steps,
        **known,
    }


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ConversionError(f"{path} is not JSON: {error}") from error
