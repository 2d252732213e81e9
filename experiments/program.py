"""What the programs share: launching, workdirs, progress, and errors in one line."""

import hashlib
import io
import json
import os
import pathlib
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from etils import epath
from tqdm import tqdm

from experiments import arguments as cli_arguments
from experiments import config as configs
from experiments import devices, interrupts, overrides, runs, versions, weights
from experiments.arguments import ArgumentError, Arguments, Flag
from jaxpure.errors import UserError
from jaxpure.files import storage_errors, write_atomically

DATA_DIR = Flag("data_dir", "where TFDS's sets are, in place of TFDS_DATA_DIR")
CPU_DEVICES = Flag(
    "cpu_devices",
    "CPU devices to split the batch over; one a physical core by default, 0 as JAX does",
    int,
    least=0,
    most=4096,
)
CONFIG_FLAGS = (
    Flag("list", "shows the configs with a line each", bool, False),
    Flag("workdir", "where results go; chosen and printed if not given"),
    DATA_DIR,
    CPU_DEVICES,
)


class WorkdirError(UserError):
    """The workdir holds another run, or cannot be worked in."""


def launch(
    main: Callable[[Arguments, Any], int | None],
    argv: list[str],
    *,
    name: str,
    doc: str | None,
    flags: Iterable[Flag] = (),
    kind: type | None = None,
    choose: Callable[[Arguments], Any] | None = None,
    takes_rest: bool = False,
) -> int:
    """Runs a program: arguments read, errors in a line, Ctrl-C resumable.

    Args:
      main: given the arguments, and the config with its overrides.
      argv: without the program's name.
      name: of the program, for its help.
      doc: what it does; the module's docstring.
      flags: its options, besides those that all programs with a config have.
      kind: of the config that it takes, if it takes one.
      choose: the config that the arguments mean, before its overrides; by default the one
        that --config names.
      takes_rest: whether it takes arguments that are no options.

    Returns:
      The exit code: 0, or 2 for what a user can mend.
    """
    interrupts.install()
    interrupts.say(interrupts.GOES_ON if kind is not None else "")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # an interrupt flushes nothing
    known = (*flags, *(CONFIG_FLAGS if kind else ()))
    try:
        found = cli_arguments.parse(
            argv, known, takes_config=kind is not None, takes_rest=takes_rest
        )
        if found.help:
            print(_help(name, doc, known, kind, found.config))
            return 0
        if kind is None:
            return main(found, None) or 0
        if found.list:
            _list(kind)
            return 0
        config = overrides.apply((choose or _named(kind))(found), found.overrides)
        batch = _shared_batch(config)
        devices.use(found.cpu_devices, multiple_of=batch)
        prepare_jax(getattr(config, "compute_dtype", "float32"))
        return main(found, config) or 0
    except (ArgumentError, UserError, FloatingPointError) as error:
        return fail(str(error))
    except OSError as error:
        return fail(_os_error(error))


def _named(kind: type) -> Callable[[Arguments], Any]:
    """The config of a kind that --config names."""

    def choose(arguments: Arguments) -> Any:
        if arguments.config is None:
            raise ArgumentError("--config=NAME is needed; --list shows the names")
        return configs.by_name(arguments.config, kind)

    return choose


def _shared_batch(config: Any) -> int | None:
    """Examples that all devices share evenly, which is so in training alone."""
    if not isinstance(config, configs.TrainConfig):
        return None
    return max(config.batch_size // max(config.accumulation, 1), 1)


def fail(message: str) -> int:
    """Says in one line what went wrong; the exit code."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return 2


def workdir(arguments: Arguments, config: Any) -> epath.Path:
    """The directory of this run: the one given, or one chosen by config.

    Raises:
      WorkdirError: it holds the run of another config, or cannot be one.
    """
    path = folder(arguments.workdir or f"runs/{run_name(str(arguments.config), config)}")
    _check_place(path)
    if (path / "config.json").exists():
        _check_held(path, config)
    print(f"workdir: {path}", flush=True)
    return path


def run_name(name: str, config: Any) -> str:
    """A folder's name for the run of this change of a named config, and of no other."""
    wanted = json.dumps(identity(config), sort_keys=True)
    return f"{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"


def pieces(text: str | None, by: str = ",") -> tuple[str, ...] | None:
    """What stands between the commas of an option; None where it is not given."""
    if text is None:
        return None
    return tuple(piece.strip() for piece in text.split(by) if piece.strip())


def weights_in(folder: str | None) -> tuple[str, ...]:
    """The files of weights in a folder, by name; none where none is given.

    Raises:
      UserError: it holds none.
    """
    if folder is None:
        return ()
    place = pathlib.Path(os.path.expanduser(folder))
    found = sorted(place.glob("*.safetensors"))
    if not found:
        raise UserError(f"--checkpoints={folder} holds no .safetensors files")
    return tuple(map(str, found))


def _check_held(path: epath.Path, config: Any) -> None:
    """Raises WorkdirError if a workdir holds the run of another config."""
    found, wanted = _held(path, type(config)), identity(config)
    if found != wanted:
        fields = ", ".join(differences(found, wanted))
        raise WorkdirError(
            f"{path} holds another config's run (they differ in {fields}); choose "
            "another --workdir"
        )


def _check_place(path: epath.Path) -> None:
    """Raises WorkdirError for a path at which there can be no folder.

    Of a bucket only its first write can tell.
    """
    if "://" in os.fspath(path):
        return
    nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise WorkdirError(f"--workdir={path}: {nearest} is a file, expected a folder")
    if not os.access(nearest, os.W_OK):
        raise WorkdirError(f"--workdir={path}: {nearest} cannot be written to")


def _held(path: epath.Path, kind: type) -> dict[str, Any]:
    """The identity of the run that a workdir holds."""
    details = runs.read_config(path)
    try:
        return runs.canonical(details["config"] | {"weights": details["weights"]}, kind)
    except (UserError, TypeError, ValueError, AttributeError) as error:
        raise WorkdirError(
            f"{path / 'config.json'} has a config that this version cannot read ({error}); "
            "choose another --workdir"
        ) from error


def folder(name: str) -> epath.Path:
    """A path of the command line, `~` the user's home.

    Raises:
      WorkdirError: it is empty.
      StorageError: there is no such kind of place, or its driver is not installed.
    """
    if not name.strip():
        raise WorkdirError("a folder's name is empty")
    with storage_errors(name):
        path = epath.Path(os.path.expanduser(name))
        path.exists()
    return path


def claim(path: epath.Path, arguments: Arguments, config: Any) -> None:
    """Writes config.json: from now on the directory belongs to this config.

    To be called once the config has proven to make sense, so that a typing error does
    not take the directory.

    Raises:
      WorkdirError: it has come to belong to another one since it was chosen.
    """
    if (path / "config.json").exists():
        return _check_held(path, config)
    details = {
        "version": runs.VERSION,
        "name": arguments.config,
        "config": configs.as_dict(config),
        "weights": weights_digests(config),
        "data_dir": arguments.data_dir,
        "versions": versions.packages(),
        "devices": [str(d.device_kind) for d in jax.devices()],
        "platform": platform.platform(),
        "command": command_line(),
        "git": versions.git_commit(),
    }
    write_json(path / "config.json", details)


def write_json(path: epath.Path, values: Any) -> None:
    """Writes values as people can read them."""
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())


def identity(config: Any) -> dict[str, Any]:
    """What makes an experiment the one it is: its config and the content of its weights."""
    values = configs.as_dict(config) | {"weights": weights_digests(config)}
    return runs.canonical(values, type(config))


def weights_digests(config: Any) -> dict[str, str]:
    """SHA-256 of the weights files that a config names: a path may be trained anew."""
    found = {}
    for name in ("denoiser", "classifier", "initial_weights"):
        value = getattr(config, name, "")
        if not value:
            continue
        try:
            found[name] = weights.digest(value)
        except UserError as error:
            raise configs.ConfigError(f"config.{name}={value}: {error}") from error
    return found


def differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[str]:
    """Names of the fields in which two configs differ."""
    found = []
    for key in sorted({*a, *b}):
        if isinstance(a.get(key), dict) and isinstance(b.get(key), dict):
            found += differences(a[key], b[key], f"{prefix}{key}.")
        elif a.get(key) != b.get(key):
            found.append(prefix + key)
    return found


@contextmanager
def progress(total: int, unit: str, *, initial: int = 0) -> Iterator[tqdm]:
    """A bar with an ETA: redrawn on a terminal, a line every 30 s elsewhere."""
    interactive = sys.stderr.isatty()
    with tqdm(
        total=total,
        unit=unit,
        initial=initial,
        mininterval=0.5 if interactive else 30,
        dynamic_ncols=interactive,
        ascii=None if interactive else True,
    ) as bar:
        yield bar


def prepare_jax(compute_dtype: str = "float32") -> None:
    """JAX's settings for a command, each where the user has not set it otherwise.

    Compiled programs are kept between runs. And float32 is float32: by default TPUs
    multiply it as bfloat16 and GPUs in fewer bits, while a CPU computes the same either
    way; for fewer bits there is `compute_dtype=bfloat16`. There nothing is asked for:
    products of bfloat16 at "highest" are no better, and libtpu's compiler fails on some.
    """
    if not jax.config.values["jax_compilation_cache_dir"]:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", f"{home}/jaxpure/compiled")
    unset = jax.config.values["jax_default_matmul_precision"] is None
    if unset and compute_dtype == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")


def command_line() -> str:
    """The command that was typed, as far as Python knows."""
    return " ".join(["python", *sys.orig_argv[1:]])


def _list(kind: type) -> None:
    found = configs.names(kind)
    width = max(map(len, found))
    for name, line in found.items():
        print(f"{name:{width}}  {line}")


def _help(
    name: str,
    doc: str | None,
    flags: Iterable[Flag],
    kind: type | None,
    config: str | None,
) -> str:
    lines = [(doc or "").strip(), "", "options:", cli_arguments.usage(flags)]
    if kind is None:
        return "\n".join(lines)
    lines += [
        "  --config=NAME             what to run; --list shows the names",
        "  --config.FIELD=VALUE      a field of it, or by --config.FIELD.OPTION an option",
        "                            of what the field names",
    ]
    shown = kind() if config is None else configs.by_name(config, kind)
    lines += ["", f"fields, with the values of {config or 'no config'}:"]
    lines += [
        f"  --config.{field}={value!r}"
        if isinstance(value, str)
        else f"  --config.{field}={value}"
        for field, value in configs.as_dict(shown).items()
    ]
    if config is not None:
        lines = [configs.about(config), "", *lines[1:]]
    return "\n".join([*lines, "", (kind.__doc__ or "").strip(), "", f"({name})"])


def _os_error(error: OSError) -> str:
    what = f"{error.filename}: " if error.filename else ""
    return f"{what}{error.strerror or error}"
