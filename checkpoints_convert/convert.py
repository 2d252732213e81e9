"""From a source to a jaxpure network on disk: resolve, check, recognise, translate."""

import ast
import dataclasses
import datetime
import difflib
import importlib.metadata
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from checkpoints_convert import published, rules, sources
from checkpoints_convert.families import FAMILIES
from checkpoints_convert.family import Contents, Family
from checkpoints_convert.rules import ConversionError
from jaxpure import checkpoints, models

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def convert(
    source: str,
    out: str | os.PathLike[str],
    family: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Converts a published checkpoint and returns the card of what was written.

    Memory stays at about one tensor beyond what the operating system maps of the source.

    Args:
      source: a path, a hub id ("google/ddpm-cifar10-32", with or without "hf:"), or a
        URL of published.py.
      out: path that ends in `.safetensors`; its card goes beside it.
      family: name of a family; None means to know it by the tensors' names.
      settings: architecture fields that the names cannot tell, as text.

    Raises:
      ConversionError: the source is not what it claims to be, or no table fits. Nothing
        is left behind.
    """
    if Path(out).suffix != ".safetensors":
        raise ConversionError(f"OUT is {out}, expected a name that ends in .safetensors")
    path, entry = locate(source)
    digest = sources.digest(sources.weights_file(path))
    entry = _verified(sources.weights_file(path), digest, entry)
    contents = sources.open_contents(path)
    chosen = _family(contents, family or (entry.family if entry else None))
    config = _architecture(chosen, contents, settings or {})
    like = models.abstract(config)
    targets = {name: x.shape for name, x in checkpoints.flatten(like.params).items()}
    try:
        assigned = rules.assign(chosen.layers(config), contents.shapes, targets)
    except ConversionError as error:
        raise ConversionError(f"{source} does not fit {chosen.name}: {error}") from error
    card = {
        "family": chosen.name,
        "source": source,
        "source_file": sources.weights_file(path).name,
        "source_bytes": digest.size,
        "source_sha256": digest.sha256,
        "published_as": entry.name if entry else None,
        "licence": entry.licence if entry else "not known: see where the file came from",
        "converted": datetime.date.today().isoformat(),
        "jaxpure": importlib.metadata.version("jaxpure"),
        "input": _input(config),
    }
    diffusion = {**chosen.diffusion, **contents.diffusion}
    if diffusion:
        card["diffusion"] = diffusion
    values = rules.fill(assigned, contents.read)
    named = {a.target: targets[a.target] for a in assigned}
    return checkpoints.save_streamed(out, config, named, values, card)


def check(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Recomputes a network's hash against its card and runs one forward pass.

    Raises:
      CheckpointError: the file is not the one that the card describes, or its output is
        not finite.
    """
    import jax
    import jax.numpy as jnp

    card = checkpoints.card(path)
    found = sources.digest(Path(checkpoints.find(path)))
    if "sha256" not in card:
        raise checkpoints.CheckpointError(f"{path} has no card with a sha256 beside it")
    if found.sha256 != card["sha256"]:
        raise checkpoints.CheckpointError(
            f"{path} has SHA-256 {found.sha256[:12]}..., its card says "
            f"{card['sha256'][:12]}...: it was changed or cut short; convert it again"
        )
    network = checkpoints.load(path)
    x = jnp.zeros(network.config.input_shape)
    extra = () if hasattr(network.config, "mean") else (jnp.zeros(()),)
    if getattr(network.config, "num_classes", 0) and extra:
        extra += (jnp.zeros((), jnp.int32),)
    out = jax.jit(lambda network, *args: network(*args))(network, x, *extra)
    if not jnp.isfinite(out).all():
        raise checkpoints.CheckpointError(
            f"{path}: the output of a grey image is not finite"
        )
    return {**card, "output_shape": out.shape}


def converted_from_hub(hub_id: str) -> Path:
    """The converted network of a hub id, converted once and kept in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    out = Path(home) / "jaxpure" / "converted" / f"{hub_id.replace('/', '--')}.safetensors"
    if not out.exists():
        convert(f"hf:{hub_id}", out)
    return out


def locate(source: str) -> tuple[Path, published.Published | None]:
    """The file or folder that a source means, fetched if need be, and what it should be."""
    if source.startswith(("http://", "https://")):
        entry = published.by_address(source)
        if entry is None:
            raise ConversionError(
                f"{source} is not a URL of --list: download it and give the path"
            )
        return _download(source, entry.file), entry
    if source.startswith("hf:"):
        return _from_hub(source.removeprefix("hf:")), published.by_address(source)
    path = Path(source)
    if path.exists():
        return path, None
    if HUB_ID.fullmatch(source) and not path.suffix.strip("."):
        return _from_hub(source), published.by_address(f"hf:{source}")
    if HUB_ID.fullmatch(source) and published.by_address(f"hf:{source}"):
        return _from_hub(source), published.by_address(f"hf:{source}")
    raise ConversionError(
        f"{source} is not a file or folder here, nor a URL of --list; a hub id is given as "
        "hf:OWNER/NAME"
    )


def _download(url: str, name: str) -> Path:
    """Fetches a URL into a folder of the user's cache, once."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    out = Path(home) / "jaxpure" / "downloads" / name
    if out.exists():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{name}.") as part:
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                length = int(response.headers.get("Content-Length", 0)) or None
                with tqdm.wrapattr(response, "read", total=length, desc=name) as body:
                    shutil.copyfileobj(body, part, 1 << 20)
        except (urllib.error.URLError, OSError) as error:
            raise ConversionError(f"could not fetch {url}: {error}") from error
        part.flush()
        os.link(part.name, out)
    return out


def _from_hub(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise ConversionError(
            f"pip install 'jaxpure[convert]' to fetch {hub_id} from the hub"
        ) from error
    patterns = [
        "*.json",
        *sources.WEIGHT_FILES,
        *(f"unet/{n}" for n in sources.WEIGHT_FILES),
    ]
    try:
        files = snapshot_download(hub_id, allow_patterns=patterns)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise ConversionError(f"could not fetch {hub_id} from the hub: {first}") from error
    return Path(files)


def _verified(
    file: Path, digest: sources.Digest, entry: published.Published | None
) -> published.Published | None:
    """The published file that this is; it must be that one if it is named so."""
    candidates = [entry] if entry else published.by_file(file.name)
    known = [p for p in candidates if p.size or p.md5 or p.sha256]
    same = [
        p for p in known if published.matches(p, digest.size, digest.md5, digest.sha256)
    ]
    if known and not same:
        listed = " or ".join(
            f"{p.name} ({', '.join(f'{k} {v}' for k, v in _known(p).items())})"
            for p in known
        )
        raise ConversionError(
            f"{file} is not what its name says: expected {listed}, got {digest.size} "
            f"bytes, md5 {digest.md5}, sha256 {digest.sha256[:12]}...; download it again, "
            "or rename it if it is a file of your own"
        )
    return same[0] if same else entry


def _known(entry: published.Published) -> dict[str, Any]:
    return {k: v for k in ("size", "md5", "sha256") if (v := getattr(entry, k))}


def _family(contents: Contents, name: str | None) -> Family:
    if name is not None:
        if name not in FAMILIES:
            close = difflib.get_close_matches(name, FAMILIES, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConversionError(
                f"unknown family {name!r}; known: {', '.join(FAMILIES)}.{hint}"
            )
        return FAMILIES[name]
    found = [family for family in FAMILIES.values() if family.recognise(contents)]
    if len(found) == 1:
        return found[0]
    sample = ", ".join(list(contents.shapes)[:4])
    if found:
        raise ConversionError(
            f"tensors named {sample}... are of {' and '.join(f.name for f in found)}: "
            "choose with --family"
        )
    raise ConversionError(
        f"no family has tensors named {sample}...; known: {', '.join(FAMILIES)}"
    )


def _architecture(family: Family, contents: Contents, settings: Mapping[str, str]) -> Any:
    try:
        config = family.architecture(contents)
    except KeyError as error:
        raise ConversionError(
            f"not a checkpoint of {family.name}: it has no tensor {error.args[0]}"
        ) from error
    fields = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(config)
    }
    changes = {}
    for name, text in settings.items():
        if name not in fields:
            raise ConversionError(
                f"unknown field {name!r} of {type(config).__name__}; known: "
                f"{', '.join(fields)}"
            )
        changes[name] = _read_as(name, text, fields[name])
    try:
        config = dataclasses.replace(config, **changes)
    except ValueError as error:
        raise ConversionError(str(error)) from error
    unknown = [name for name in fields if getattr(config, name) == ()]
    if unknown:
        raise ConversionError(
            f"the file does not tell {' and '.join(unknown)}: give "
            + " ".join(f"--set {name}=..." for name in unknown)
        )
    return config


def _read_as(name: str, text: str, like: Any) -> Any:
    """The value of a field from text: numbers, true, words, or 1,2,3 for several."""
    if isinstance(like, str):
        return text
    try:
        value = ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
    except (ValueError, SyntaxError) as error:
        raise ConversionError(
            f"--set {name}={text}: expected a value like {like!r}"
        ) from error
    if isinstance(like, tuple) and not isinstance(value, tuple):
        value = (value,)
    if not isinstance(value, type(like)) and not (
        isinstance(like, float) and isinstance(value, int)
    ):
        raise ConversionError(f"--set {name}={text}: expected a value like {like!r}")
    return value


def _input(config: Any) -> str:
    """What the network takes, in words, for the card."""
    height, width, channels = config.input_shape
    size = f"{height}x{width}x{channels}"
    if hasattr(config, "mean"):
        mean, std = list(config.mean), list(config.std)
        return f"{size} in [0, 1]; mean {mean} and std {std} are applied inside"
    return f"{size} in [-1, 1] plus noise, and a timestep"
