"""What the programs share: flags, workdirs, progress, and errors in one line."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import jax
from absl import app, flags
from etils import epath
from tqdm import tqdm

from experiments import config as configs
from experiments import weights
from jaxpure import checkpoints, evaluation
from jaxpure.errors import UserError

flags.DEFINE_string("workdir", None, "Where results go; chosen and printed if not given.")
flags.DEFINE_string("data_dir", None, "TFDS's data_dir, in place of TFDS_DATA_DIR.")
flags.DEFINE_bool("list", False, "Shows the configs with a line each, and stops.")

# What a user can mend: told in one line, without a traceback.
USER_ERRORS = (
    FloatingPointError,
    configs.ConfigError,
    UserError,
    checkpoints.CheckpointError,
    evaluation.UnfinishedError,
)


_GIVES_NAME = re.compile(r"--?config(=|$)")


class WorkdirError(ValueError):
    """The workdir holds another run."""


def launch(main: Callable[[list[str]], None], kind: type, argv: list[str]) -> None:
    """Runs a program: `--list`, overrides checked, errors in a line, Ctrl-C resumable."""
    try:
        _check_fields(argv, kind)
    except configs.ConfigError as error:
        _fail(_one_line(error))
    if "--list" in argv[1:]:
        width = max(map(len, configs.names(kind)))
        for name, line in configs.names(kind).items():
            print(f"{name:{width}}  {line}")
        return
    app.run(lambda rest: _guarded(main, rest), argv=argv, flags_parser=_parse)


def _check_fields(argv: list[str], kind: type) -> None:
    """Raises ConfigError for an override `--config.a.b=value` of no such field."""
    for argument in argv[1:]:
        if not argument.startswith("--config."):
            continue
        node, path = kind(), argument.split("=", 1)[0].split(".")[1:]
        for i, name in enumerate(path):
            fields = [f.name for f in dataclasses.fields(node)]
            if name not in fields:
                where = ".".join(["config", *path[:i]])
                raise configs.ConfigError(
                    configs.unknown(f"field of {where}", name, fields)
                )
            node = getattr(node, name)
            if i + 1 < len(path) and not dataclasses.is_dataclass(node):
                raise configs.ConfigError(
                    f"{argument}: config.{'.'.join(path[: i + 1])} has no fields"
                )


def _parse(argv: list[str]) -> list[str]:
    if not any(_GIVES_NAME.match(argument) for argument in argv[1:]):
        _fail("--config=NAME is needed; --list shows the names")
    try:
        return flags.FLAGS(argv)
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as error:
        _fail(_one_line(error))


def _guarded(main: Callable[[list[str]], None], argv: list[str]) -> None:
    _use_compilation_cache()
    if "distributed" in flags.FLAGS and flags.FLAGS.distributed:
        jax.distributed.initialize()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        main(argv)
    except (*USER_ERRORS, WorkdirError) as error:
        _fail(_one_line(error))
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def _interrupt(signum: int, frame: Any) -> None:
    del signum, frame
    raise KeyboardInterrupt


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _one_line(error: BaseException) -> str:
    text = str(error.args[0]) if error.args else type(error).__name__
    return " ".join(text.split())


def no_positional(argv: list[str]) -> None:
    if len(argv) > 1:
        raise configs.ConfigError(
            f"unexpected argument {argv[1]!r}; settings are --config.field=value"
        )


def config_name() -> str:
    """The name that was given to --config."""
    given = [i for i, argument in enumerate(sys.argv) if _GIVES_NAME.match(argument)]
    _, equals, name = sys.argv[given[-1]].partition("=")
    return name if equals else sys.argv[given[-1] + 1]


def workdir(name: str, config: Any) -> epath.Path:
    """The directory of this run: the one given, or one chosen by config.

    Raises:
      WorkdirError: it holds the run of another config.
    """
    wanted = identity(with_data_dir(config))
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:8]
    path = epath.Path(flags.FLAGS.workdir or f"runs/{name}-{digest}")
    held = path / "config.json"
    if held.exists():
        claimed = json.loads(held.read_text())
        if "config" not in claimed or "data" not in claimed["config"]:
            raise WorkdirError(f"{held} is not of jaxpure; choose another --workdir")
        found = identity_of_dict(claimed["config"], type(config)) | {
            "weights": claimed.get("weights", {})
        }
        if found != wanted:
            fields = ", ".join(differences(found, wanted))
            raise WorkdirError(
                f"{path} holds another config's run (they differ in {fields}); choose "
                "another --workdir"
            )
    print(f"workdir: {path}", flush=True)
    return path


def with_data_dir(config: Any) -> Any:
    """The config with the directory that `--data_dir` gives, if it is given."""
    if flags.FLAGS.data_dir:
        config.data.data_dir = flags.FLAGS.data_dir
    return config


def claim(path: epath.Path, name: str, config: Any) -> None:
    """Writes config.json: from now on the directory belongs to this config.

    To be called once the config has proven to make sense, so that a typing error does
    not take the directory.
    """
    if (path / "config.json").exists() or jax.process_index():
        return
    details = {
        "name": name,
        "config": configs.as_dict(config),
        "weights": weights_digests(config),
        "versions": versions(),
        "devices": [str(d.device_kind) for d in jax.devices()],
        "platform": platform.platform(),
        "command": " ".join(["python", "-m", _module(), *sys.argv[1:]]),
        "git": git_commit(),
    }
    content = (json.dumps(details, indent=2) + "\n").encode()
    checkpoints.write_atomically(path / "config.json", content)


def identity(config: Any) -> dict[str, Any]:
    """What makes an experiment the one it is: its config and the content of its weights."""
    values = identity_of_dict(configs.as_dict(config), type(config))
    return values | {"weights": weights_digests(config)}


def weights_digests(config: Any) -> dict[str, str]:
    """SHA-256 of the weights files that a config names: a path may be trained anew."""
    named = [name for name in ("denoiser", "classifier") if hasattr(config, name)]
    return {name: weights.digest(getattr(config, name)) for name in named}


def identity_of_dict(values: dict[str, Any], kind: type) -> dict[str, Any]:
    """A config as written down; fields that are younger than it have their defaults."""
    whole = _filled(values, configs.as_dict(kind()))
    return {**whole, "data": {**whole["data"], "data_dir": ""}}


def _filled(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _filled(values.get(name, {}), default)
        if isinstance(default, dict)
        else values.get(name, default)
        for name, default in {**values, **defaults}.items()
    }


def differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted({*a, *b}):
        if isinstance(a.get(key), dict) and isinstance(b.get(key), dict):
            found += differences(a[key], b[key], f"{prefix}{key}.")
        elif a.get(key) != b.get(key):
            found.append(prefix + key)
    return found


def versions() -> dict[str, str]:
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def progress(total: int, unit: str, *, initial: int = 0) -> tqdm:
    """A bar with an ETA: redrawn on a terminal, a line every 30 s elsewhere."""
    interactive = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit=unit,
        initial=initial,
        mininterval=0.5 if interactive else 30,
        dynamic_ncols=interactive,
        ascii=None if interactive else True,
    )


def _use_compilation_cache() -> None:
    """Compiled programs are kept between runs, where the user has not said where."""
    if not jax.config.values["jax_compilation_cache_dir"]:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", f"{home}/jaxpure/compiled")


def _module() -> str:
    return "experiments." + os.path.splitext(os.path.basename(sys.argv[0]))[0]


def git_commit() -> str | None:
    try:
        here = os.path.dirname(__file__)
        command = ["git", "-C", here, "rev-parse", "HEAD"]
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
