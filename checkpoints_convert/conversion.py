"""From a source to a jaxpure network on disk: verify, recognise, translate, write."""

import ast
import dataclasses
import datetime
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath
from tqdm import tqdm

from checkpoints_convert import published, rules, sources
from checkpoints_convert.families import FAMILIES
from checkpoints_convert.family import Contents, Family
from checkpoints_convert.locate import cache, locate
from checkpoints_convert.rules import ConversionError
from jaxpure import data, evaluation, measure, models, weights
from jaxpure.defenses import PurifiedClassifier
from jaxpure.errors import unknown
from jaxpure.files import write_atomically
from jaxpure.purifiers import DiffPure, Identity
from jaxpure.weights import WeightsError

PURIFIED_TOGETHER, ATTACKED_TOGETHER = 50, 100
ROBUST_AGAINST = "autoattack(version=standard)"


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
    if entry and entry.family is None and family is None:
        raise ConversionError(f"{entry.name} is no network of jaxpure's: {entry.note}")
    settings = settings or {}
    chosen = _family(contents, family or (entry.family if entry else None), settings)
    try:
        architecture, assigned = _translation(chosen, contents, settings)
    except _DoesNotFit as error:
        raise ConversionError(f"{source} does not fit {chosen.name}: {error}") from error
    card = {
        "family": chosen.name,
        "source": source if entry or source.startswith("hf:") else Path(source).name,
        "source_file": sources.weights_file(path).name,
        "source_bytes": digest.size,
        "source_sha256": digest.sha256,
        "published_as": entry.name if entry else None,
        "licence": entry.licence if entry else "not known: see where the file came from",
        "converted": datetime.date.today().isoformat(),
        "jaxpure": importlib.metadata.version("jaxpure"),
        "input": _input(architecture),
    }
    facts = {**chosen.trained(architecture), **contents.trained}
    trained = models.Trained.from_json(facts) if facts else None
    targets = _targets(architecture)
    named = {a.target: targets[a.target] for a in assigned}
    values = rules.fill(assigned, contents.read)
    return weights.save_streamed(out, architecture, trained, named, values, card)


def check(path: str | os.PathLike[str], dataset: str | None = None) -> dict[str, Any]:
    """Recomputes a network's hash against its card and runs one forward pass.

    Args:
      path: a converted network.
      dataset: a set that `jaxpure.data.load` knows (its test split, unless the spec names
        another): a classifier's accuracy on all of it, or a denoiser's loss on the first
        500, is measured too, and added to what is returned.

    Raises:
      WeightsError: the file is not the one that the card describes, or its output is
        not finite.
    """
    import jax
    import jax.numpy as jnp

    card = weights.card(path)
    found = sources.digest(Path(weights.find(path)))
    if "sha256" not in card:
        raise WeightsError(f"{path} has no card with a sha256 beside it")
    if found.sha256 != card["sha256"]:
        raise WeightsError(
            f"{path} has SHA-256 {found.sha256[:12]}..., its card says "
            f"{card['sha256'][:12]}...: it was changed or cut short; convert it again"
        )
    network = weights.load(path)
    architecture = network.architecture
    x = jnp.zeros(architecture.input_shape)
    extra = (jnp.zeros(()),) if models.is_denoiser(network) else ()
    if getattr(architecture, "num_classes", 0) and extra:
        extra += (jnp.zeros((), jnp.int32),)
    out = jax.jit(lambda network, *args: network(*args))(network, x, *extra)
    if not jnp.isfinite(out).all():
        raise WeightsError(f"{path}: the output of a grey image is not finite")
    checked = {**card, "output_shape": out.shape}
    if dataset is not None:
        checked |= _measured(path, network, dataset)
    return checked


def _measured(
    path: str | os.PathLike[str], network: models.Network, dataset: str
) -> dict[str, Any]:
    """What a network is worth on a data set: "accuracy", or "loss" and "loss_by_timestep".

    With "num_examples", of how many images.

    Raises:
      WeightsError: it does not take the set's images, or wants more than an image.
    """
    test, architecture = data.load(dataset), network.architecture
    if not network.takes(test.image_shape):
        raise WeightsError(
            f"{path} takes images of {architecture.input_shape}; {dataset} has images of "
            f"{test.image_shape}"
        )
    classes = getattr(architecture, "num_classes", None)
    if models.is_denoiser(network):
        if classes:
            raise WeightsError(f"{path} wants a class, so that it is not measured")
        images = test.floats()[: measure.HELD_OUT]
        return {
            "loss": measure.noise_loss(network, images),
            "loss_by_timestep": measure.loss_by_timestep(network, images),
            "num_examples": len(images),
        }
    if classes != test.num_classes:
        raise WeightsError(
            f"{path} has {classes} classes, {dataset} has {test.num_classes}"
        )
    right = measure.accuracy(network, test.floats(), test.labels, _batch_size(test))
    return {"accuracy": right, "num_examples": len(test)}


def purified(
    path: str | os.PathLike[str], dataset: str, classifier: str, t_star: Sequence[int]
) -> dict[str, Any]:
    """What a classifier has right of a set's first images that a denoiser purified.

    By `diffpure(t_star=t)` for each t, on 500 images, under the keys that judge the clean
    accuracy of `experiments.run` with seed 0. Shows a progress bar.

    Returns:
      "classifier", "purifier", "num_examples", and "right", the share by t_star.

    Raises:
      WeightsError: the networks do not take the set's images, or are no denoiser and no
        classifier.
      UserError: the denoiser was not trained on a t_star.
    """
    network, judge, test = weights.load(path), weights.load(classifier), data.load(dataset)
    for name, found, fits in (
        (path, network, models.is_denoiser(network)),
        (classifier, judge, models.is_classifier(judge)),
    ):
        if not (fits and found.takes(test.image_shape)):
            role = "a denoiser" if found is network else "a classifier"
            raise WeightsError(f"{name} is not {role} of images {test.image_shape}")
    defenses = {t: PurifiedClassifier(DiffPure(network, t_star=t), judge) for t in t_star}
    images = test.floats()[: measure.HELD_OUT]
    n, right = len(images), {}
    rows = images, test.labels[:n], test.indices[:n]
    with tqdm(total=len(images) * sum(t_star), unit="step", unit_scale=True) as bar:
        for t, defense in defenses.items():
            counted = 0
            for found in measure.purified_right(defense, *rows, PURIFIED_TOGETHER):
                counted += int(found.sum())
                bar.update(t * len(found))
            right[str(t)] = counted / len(images)
    return {
        "classifier": classifier,
        "purifier": "diffpure(t_star=...)",
        "num_examples": len(images),
        "right": right,
    }


def robust(path: str | os.PathLike[str], dataset: str, ball: str) -> dict[str, Any]:
    """What AutoAttack leaves of a set's first images to a classifier, without purification.

    Version "standard" in a ball, on 500 images, seed 0. Shows a progress bar.

    Returns:
      "attack", "ball", "num_examples", and the "accuracy" on what was found.

    Raises:
      WeightsError: the network is no classifier of the set's images.
      UserError: the ball makes no sense.
    """
    network, test = weights.load(path), data.load(dataset)
    if not (models.is_classifier(network) and network.takes(test.image_shape)):
        raise WeightsError(f"{path} is not a classifier of images {test.image_shape}")
    found = evaluation.evaluate(
        PurifiedClassifier(Identity(), network),
        ROBUST_AGAINST,
        data.take(test, slice(measure.HELD_OUT)),
        ball=ball,
        key=jax.random.key(0),
        judging_keys=2,  # the fewest; nothing is random
        batch_size=ATTACKED_TOGETHER,
        progress=True,
    )
    return {
        "attack": ROBUST_AGAINST,
        "ball": ball,
        "num_examples": len(found.robust),
        "accuracy": float(found.robust[:, 0].mean()),
    }


def note(path: str | os.PathLike[str], facts: Mapping[str, Any]) -> None:
    """Writes more facts on the card beside a network."""
    card = Path(weights.find(path)).with_suffix(".json")
    written = {**weights.card(path), **facts}
    write_atomically(epath.Path(card), (json.dumps(written, indent=2) + "\n").encode())


def _batch_size(dataset: data.Dataset) -> int:
    """Images side by side: 500 of 32x32, fewer where they are larger."""
    height, width, _ = dataset.image_shape
    return max(1, min(500, 500 * 32 * 32 // (height * width)))


def converted_from_hub(hub_id: str) -> Path:
    """The converted network of a hub id, converted once and kept in the user's cache."""
    out = cache("converted") / f"{hub_id.replace('/', '--')}.safetensors"
    if not out.exists():
        convert(f"hf:{hub_id}", out)
    return out


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


def _family(contents: Contents, name: str | None, settings: Mapping[str, str]) -> Family:
    """The family of this name; without one, the one whose table fits the contents."""
    if name is not None:
        if name not in FAMILIES:
            raise ConversionError(unknown("family", name, FAMILIES))
        return FAMILIES[name]
    found = [family for family in FAMILIES.values() if family.recognise(contents)]
    if len(found) == 1:
        return found[0]
    sample = ", ".join(list(contents.shapes)[:4])
    if not found:
        raise ConversionError(
            f"no family has tensors named {sample}...; known: {', '.join(FAMILIES)}"
        )
    problems = {family.name: _misfit(family, contents, settings) for family in found}
    fitting = [family for family in found if problems[family.name] is None]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = " and ".join(family.name for family in fitting)
        raise ConversionError(
            f"tensors named {sample}... are of {names} alike: choose with --family"
        )
    raise ConversionError(
        f"tensors named {sample}... look like those of {' and '.join(problems)}, but fit "
        "none: " + "; ".join(f"{name}: {problem}" for name, problem in problems.items())
    )


def _misfit(family: Family, contents: Contents, settings: Mapping[str, str]) -> str | None:
    """Why a family's table does not translate the contents; None where it does."""
    try:
        _translation(family, contents, settings)
    except ConversionError as error:
        return str(error)
    return None


class _DoesNotFit(ConversionError):
    """A table leaves tensors over, or parameters."""


def _translation(
    family: Family, contents: Contents, settings: Mapping[str, str]
) -> tuple[models.Architecture, list[rules.Assignment]]:
    """The architecture of the contents, and which tensor fills which parameter."""
    architecture = _architecture(family, contents, settings)
    table, targets = family.layers(architecture), _targets(architecture)
    try:
        return architecture, rules.assign(table, contents.shapes, targets)
    except ConversionError as error:
        raise _DoesNotFit(str(error)) from error


def _targets(architecture: models.Architecture) -> dict[str, tuple[int, ...]]:
    """Shapes of its parameters by dotted path."""
    like = models.abstract(architecture).params
    return {name: x.shape for name, x in weights.flatten(like).items()}


def _architecture(family: Family, contents: Contents, settings: Mapping[str, str]) -> Any:
    try:
        architecture = family.architecture(contents)
    except KeyError as error:
        raise ConversionError(
            f"not a checkpoint of {family.name}: it has no tensor {error.args[0]}"
        ) from error
    fields = {
        field.name: getattr(architecture, field.name)
        for field in dataclasses.fields(architecture)
    }
    changes = {}
    for name, text in settings.items():
        if name not in fields:
            what = f"field of {type(architecture).__name__}"
            raise ConversionError(unknown(what, name, fields))
        changes[name] = _read_as(name, text, fields[name])
    try:
        architecture = dataclasses.replace(architecture, **changes)
    except ValueError as error:
        raise ConversionError(str(error)) from error
    untold = [name for name in fields if getattr(architecture, name) == ()]
    if untold:
        raise ConversionError(
            f"the file does not tell {' and '.join(untold)}: give "
            + " ".join(f"--set {name}=..." for name in untold)
        )
    return architecture


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


def _input(architecture: Any) -> str:
    """What the network takes, in words, for the card."""
    height, width, channels = architecture.input_shape
    size = f"{height}x{width}x{channels}"
    if models.is_classifier(architecture):
        mean, std = list(architecture.mean), list(architecture.std)
        return f"{size} in [0, 1]; mean {mean} and std {std} are applied inside"
    return f"{size} in [-1, 1] plus noise, and a timestep"
