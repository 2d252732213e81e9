"""Finished runs, read from their files; those of before configs held specs too.

A run's folder has config.json (what it is), summary.json and adversarial.npz (what came of
it). Version 2 of config.json holds specs. An older run is shown by `compare` and `table` as
the specs that it amounts to, and cannot be gone on with.
"""

import base64
import dataclasses
import io
import json
import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from experiments import config as configs
from experiments import things
from jaxpure import specs
from jaxpure.errors import UserError
from jaxpure.evaluation.identity import example_digest
from jaxpure.evaluation.statistics import Estimate
from jaxpure.files import sha256

VERSION = 2
SUMMARY = "summary.json"


class RunError(UserError):
    """A folder holds no finished run, or one that cannot be read."""


@dataclass(frozen=True)
class Judged:
    """What a run found of each example; see `evaluation.paired.Judged`.

    Attributes:
      indices: `(n,)` in the published set, in ascending order.
      labels: `(n,)`.
      clean_logits: `(n, keys, classes)`.
      logits: `(n, keys, classes)`.
      example_digests: by index; None where the run's files lack the images.
      about: "data" and "policy".
    """

    indices: np.ndarray
    labels: np.ndarray
    clean_logits: np.ndarray
    logits: np.ndarray
    example_digests: dict[int, str] | None
    about: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      folder: where it is.
      summary: its summary.json.
      config: its config by field, in canonical specs.
    """

    folder: epath.Path
    summary: dict[str, Any]
    config: dict[str, Any]

    def estimate(self, key: str) -> Estimate:
        """A reading of the summary."""
        found = self.summary[key]
        return Estimate(found["value"], found["low"], found["high"], found["n"])


def is_finished(folder: epath.Path) -> bool:
    """Whether a folder holds a finished run: its summary is what is written last."""
    return (folder / SUMMARY).exists()


def read(folder: epath.Path) -> Run:
    """A finished run.

    Raises:
      RunError: the folder holds none, or a file of it is damaged.
    """
    path = folder / SUMMARY
    if not is_finished(folder):
        raise RunError(
            f"{folder} holds no finished run (no summary.json): start it again to end it"
            if (folder / "config.json").exists()
            else f"{folder} holds no finished run (no summary.json)"
        )
    summary = read_json(path)
    needed = ("config", "dataset", "policy", "gradient", "attack", "robust_accuracy")
    missing = [name for name in needed if name not in summary]
    if missing or not isinstance(summary["config"], dict):
        raise RunError(f"{path} is not of a run (it has no {', '.join(missing)})")
    config = summary["config"]
    try:
        config = from_old(config) if is_old(config) else config
        return Run(folder, summary, canonical(config, configs.RunConfig))
    except (UserError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} has a config that this version cannot read ({error}); open it with "
            "the version that made it"
        ) from error


def altered(folder: epath.Path, summary: dict[str, Any]) -> list[str]:
    """A sentence for each file of a finished run that is not what its summary says."""
    found = []
    for name, digest in summary.get("files", {}).items():
        path = folder / pathlib.PurePath(str(name)).name
        if not path.exists():
            found.append(f"{path} is missing")
        elif sha256(path) != digest:
            found.append(f"{path} was altered after the run (its digest does not fit)")
    return found


def judged(run: Run) -> Judged:
    """What a finished run found of each example.

    Raises:
      RunError: the files that hold it are missing, damaged or altered.
    """
    path = run.folder / "adversarial.npz"
    for sentence in altered(run.folder, run.summary):
        raise RunError(
            f"{sentence}; delete summary.json and repeat the run's command, which makes "
            "its files again from the records"
        )
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            arrays = {n: stored[n] for n in stored.files if "adversarial" not in n}
        order = np.argsort(arrays["index"])
        index, label = arrays["index"][order], arrays["label"][order]
        if "logits" in arrays:
            found = [arrays[name][order] for name in ("clean_logits", "logits")]
        else:
            place = run.folder / "records" / "defended"
            found = [_old_logits(place / stage, index) for stage in ("clean", "judged")]
        digests = _digests(arrays)
    except FileNotFoundError:
        raise RunError(f"{run.folder} holds no finished run (no adversarial.npz)") from None
    except Exception as error:
        raise RunError(
            f"{path}, or the records beside it, cannot be read ({error})"
        ) from error
    about = {"data": run.summary["dataset"], "policy": run.summary["policy"]}
    clean, attacked = found
    return Judged(index, label, clean, attacked, digests, about)


def read_config(folder: epath.Path) -> dict[str, Any]:
    """What a run's config.json holds: "config", "weights" and how it was started.

    Raises:
      RunError: the file is damaged, or not of a run that this version can go on with.
    """
    path = folder / "config.json"
    details = read_json(path)
    config = details.get("config")
    weights = details.setdefault("weights", {})
    if (
        not isinstance(config, dict)
        or "data" not in config
        or not isinstance(weights, dict)
    ):
        raise RunError(f"{path} is not of jaxpure; choose another --workdir")
    if is_old(config):
        raise RunError(
            f"{folder} holds a run of an earlier version, whose records this one cannot go "
            "on with or judge again: `compare` and `table` open it; for all else choose "
            "another --workdir and run it anew"
        )
    return details


def read_json(path: epath.Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
      RunError: the file is missing, damaged, or holds something else.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise RunError(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path} is damaged ({type(error).__name__}); restore it, or remove the folder "
            "and run it anew"
        ) from error
    if not isinstance(found, dict):
        raise RunError(f"{path} holds {type(found).__name__}, expected an object of a run")
    return found


def canonical(values: dict[str, Any], kind: type) -> dict[str, Any]:
    """A config's fields in one form for all spellings, wherever the data is.

    Fields that did not exist when it was written have their defaults.
    """
    found = configs.as_dict(kind()) | values
    for field in dataclasses.fields(kind):
        if "spec" in field.metadata and field.name in found:
            found[field.name] = things.canonical(field.metadata["spec"], found[field.name])
    if isinstance(found.get("data"), dict):
        found["data"] = found["data"] | {"data_dir": ""}
    return found


def is_old(config: dict[str, Any]) -> bool:
    """Whether a run's config is of before configs held specs."""
    return isinstance(config.get("attack"), dict)


def from_old(config: dict[str, Any]) -> dict[str, Any]:
    """The specs that an older run's config amounts to."""
    data, attack = config["data"], config["attack"]
    shared = {
        name: config[name]
        for name in (
            "denoiser",
            "classifier",
            "policy",
            "judging_keys",
            "batch_size",
            "compute_dtype",
            "seed",
        )
    }
    return shared | {
        "data": _old_data(data),
        "purifier": _old_purifier(config["purifier"]),
        "ball": _old_ball(attack),
        "attack": _old_attack(attack),
        "gradient": _old_gradient(config["gradient"], config["purifier"]),
    }


def _old_data(data: dict[str, Any]) -> str:
    name, folder, path = data["name"].partition("folder:")
    known = {"split": data["split"]} if not folder else {}
    known |= {n: data[n] for n in ("num_examples", "image_size") if data.get(n)}
    spec = specs.Spec(
        "folder" if folder else name,
        (specs.write(path),) if folder else (),
        {n: specs.write(value) for n, value in known.items()},
    )
    return str(spec)


def _old_purifier(purifier: dict[str, Any]) -> str:
    constructor = things.registry("purifier").constructor(purifier["name"])
    takes, written = specs.options_of(constructor), {}
    for name, value in purifier.items():
        if name in ("step_rule", "schedule") and name in takes:
            written[name] = value.replace("|", ",")
        elif name in takes:
            written[name] = specs.write(value)
    if written.get("schedule") == "linear":
        del written["schedule"]  # the default where the denoiser says nothing else
    spec = str(specs.Spec(purifier["name"], (), written))
    if purifier.get("image_size"):
        return f"resized(purifier={spec},image_size={purifier['image_size']})"
    return spec


def _old_ball(attack: dict[str, Any]) -> str:
    if attack["name"] == "stadv":
        return f"flow({attack['flow_bound']!r})"
    return f"{attack['norm']}({attack['eps_255']!r}/255)"


def _old_attack(attack: dict[str, Any]) -> str:
    name = attack["name"]
    takes = specs.options_of(things.registry("attack").constructor(name))
    values = {n: specs.write(v) for n, v in attack.items() if n in takes}
    if "step_size" in takes:
        values["step_size"] = f"{attack['step_size_255']!r}/255"
    return str(specs.Spec(name, (), values))


def _old_gradient(gradient: str, purifier: dict[str, Any]) -> str:
    spec = specs.parse(gradient)
    if not spec.options:
        return gradient
    base = purifier if "name" not in spec.options else {"t_star": 100}
    typed = {k: _old_value(v) for k, v in spec.options.items()}
    return f"{spec.name}({_old_purifier({**base, **typed})})"


def _old_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _digests(arrays: dict[str, np.ndarray]) -> dict[int, str] | None:
    """Of each example that adversarial.npz holds, by index, if it holds clean images."""
    if "clean" not in arrays:
        return None
    examples = zip(arrays["index"], arrays["clean"], arrays["label"], strict=True)
    return {int(i): example_digest(image, int(label)) for i, image, label in examples}


def _old_logits(folder: epath.Path, indices: np.ndarray) -> np.ndarray:
    """Logits `(n, keys, classes)` of records without digests, in the order of `indices`."""
    rows = {}
    for path in sorted(folder.glob("part-*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
                value = row["logits"]
                flat = np.frombuffer(base64.b64decode(value["base64"]), value["dtype"])
                rows[row["index"]] = flat.reshape(value["shape"])
            except (ValueError, KeyError, TypeError):
                continue  # cut short: the run did it again
    return np.stack([rows[int(i)] for i in indices])
