"""Bad inputs of every command, made from what commands and registries say of themselves.

A `Bad` is a command line that must end in one line on stderr, `error: ...`, which names a
thing, and in exit code 2. New options, fields and registered things are covered as they
come, since the table is made from flags, signatures and config fields.
"""

import dataclasses
import importlib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from experiments import cli, program, things
from experiments import config as configs
from jaxpure import specs

RUN, TRAIN = "--config=digits_bpda_replay", "--config=digits_classifier"
WITH_CONFIG = {"run": RUN, "train": TRAIN, "check-gradient": RUN}
REST = {"judge": 1, "verify": 1, "compare": 2, "table": 1, "view": 1}
"""How many folders the others take."""


class Bad(NamedTuple):
    """A command line that must be refused.

    Attributes:
      command: of `jaxpure`.
      argv: what follows it.
      named: what the message must contain.
    """

    command: str
    argv: tuple[str, ...]
    named: str

    def __str__(self) -> str:
        return f"{self.command} {' '.join(self.argv)}"[:90]


def module(command: str) -> Any:
    return importlib.import_module(cli.COMMANDS[command][0])


def usual(command: str) -> tuple[str, ...]:
    """What the command needs before the bad argument is its only fault."""
    if command in WITH_CONFIG:
        return (WITH_CONFIG[command],)
    return ("nowhere",) * REST.get(command, 0)


def command_lines() -> Iterator[Bad]:
    """Options that are unknown, empty, doubled, out of range or of the wrong type."""
    yield Bad("", ("rnu",), "Did you mean 'run'?")
    yield Bad("", ("--nosuch",), "--nosuch")
    for command in cli.COMMANDS:
        if command == "convert":
            continue  # its options are argparse's; see `conversions`
        flags = list(getattr(module(command), "FLAGS", ()))
        flags += program.CONFIG_FLAGS if command in WITH_CONFIG else ()
        given = usual(command)
        yield Bad(command, (*given, "--nosuch=1"), "--nosuch")
        yield Bad(command, (*given, "--nosuch"), "--nosuch")
        yield Bad(command, (*given, "--=1"), "unknown option")
        if command in WITH_CONFIG:
            yield Bad(command, (), "--config=NAME is needed")
            yield Bad(command, ("--config=",), "''")
            yield Bad(command, ("--config=nosuch",), "'nosuch'")
            yield Bad(command, ("--config=../../etc/passwd",), "../../etc/passwd")
            yield Bad(command, (*given, *given), "--config is given twice")
            yield Bad(command, (*given, "surplus"), "'surplus'")
            yield Bad(command, (*given, "--", "--surplus"), "'--surplus'")
            yield Bad(command, (*given, "--config.=1"), "--config.FIELD=VALUE")
        for flag in flags:
            yield from of_flag(command, given, flag)


def of_flag(command: str, given: tuple[str, ...], flag: Any) -> Iterator[Bad]:
    name = f"--{flag.name}"
    if flag.kind is bool:
        for value in ("maybe", "1", ""):
            yield Bad(command, (*given, f"{name}={value}"), name)
        return
    if flag.alone is None:  # else it is something without a value
        yield Bad(command, (*given, name), name)
    yield Bad(command, (*given, f"{name}="), name)
    if flag.kind is str:
        yield Bad(command, (*given, f"{name}=a", f"{name}=b"), "given twice")
        return
    for value in ("x", "1e400", "nan", "--2", "1_", "½", "9" * 5000):
        yield Bad(command, (*given, f"{name}={value}"), name)
    if flag.least is not None:
        yield Bad(command, (*given, f"{name}={flag.least - 1}"), name)
    if flag.most is not None:
        yield Bad(command, (*given, f"{name}={flag.most + 1}"), name)


MALFORMED = (
    *("(", ")", "nosuch", "nosuch(", "x)", "x(1", "x(,)", "x(a=)", "x(a=1,a=2)"),
    *("x(a=1)b", "'", "x('", "[", "x(a=1,2)", "1/0", "()", "x([)]", "x((" * 40),
)


def malformed_specs() -> Iterator[Bad]:
    """Texts that are no specs, or name nothing, in every field that takes one."""
    for command, kind in (("run", configs.RunConfig), ("train", configs.TrainConfig)):
        for field in dataclasses.fields(kind):
            name = f"config.{field.name}"
            typed = f"--{name}"
            if "spec" in field.metadata:
                for text in MALFORMED:
                    yield Bad(command, (WITH_CONFIG[command], f"{typed}={text}"), name)
                yield Bad(command, (WITH_CONFIG[command], f"{typed}.nosuch=1"), "nosuch")
                deep = "x(" * 200 + ")" * 200
                yield Bad(command, (WITH_CONFIG[command], f"{typed}={deep}"), name)
            yield Bad(command, (WITH_CONFIG[command], f"{typed}="), f"{name} is empty")
            yield Bad(command, (WITH_CONFIG[command], typed), name)
            yield Bad(command, (WITH_CONFIG[command], f"{typed}.a.b=1"), name)


def config_fields() -> Iterator[Bad]:
    """Values of the wrong type in every field of the configs."""
    for command, kind in (("run", configs.RunConfig), ("train", configs.TrainConfig)):
        given = WITH_CONFIG[command]
        for field in dataclasses.fields(kind):
            hint = typing.get_type_hints(kind, include_extras=True)[field.name]
            for value in wrong_values(hint):
                name = f"--config.{field.name}"
                yield Bad(command, (given, f"{name}={value}"), f"config.{field.name}")
        yield Bad(command, (given, "--config.nosuch=1"), "'nosuch'")
        yield Bad(command, (given, "--config.seeed=1"), "'seed'")


def options_of_things() -> Iterator[Bad]:
    """Values of the wrong type in every option of every registered thing."""
    for what, field in (
        ("attack", "attack"),
        ("purifier", "purifier"),
        ("ball", "ball"),
        ("gradient", "gradient"),
        ("data", "data"),
    ):
        for name, constructor in things.registry(what).items():
            options = specs.options_of(constructor)
            needed = {
                n: {"eps": "0.1", "name": "cifar10", "path": "x"}.get(n, "identity")
                for n, option in options.items()
                if option.required and n != "denoiser"
            }
            yield spec_with(field, name, {**needed, "nosuch": "1"}, "nosuch")
            for option in options.values():
                for value in wrong_values(option.type):
                    spec = {**needed, option.name: value}
                    yield spec_with(field, name, spec, option.name)


def spec_with(field: str, name: str, options: dict[str, str], named: str) -> Bad:
    text = ",".join(f"{n}={value}" for n, value in options.items())
    return Bad("run", (RUN, f"--config.{field}={name}({text})"), named)


def wrong_values(kind: Any) -> tuple[str, ...]:
    """Texts that are no value of a type; none where any text is one."""
    if typing.get_origin(kind) is typing.Annotated:
        inner, *extras = typing.get_args(kind)
        return wrong_values(inner) if not extras else ("nosuch(", "nosuch")
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kinds = [k for k in typing.get_args(kind) if k is not type(None)]
        return wrong_values(kinds[0]) if len(kinds) == 1 else ()
    if typing.get_origin(kind) is typing.Literal:
        return ("nosuch", "1")
    if typing.get_origin(kind) is tuple:
        return ("3", "[x]", "[", "[,]")
    wrong = {
        bool: ("yes", "2"),
        int: ("x", "1.5", "nan", "1/2", "1e3"),
        float: ("x", "nan", "inf", "1/0"),
    }
    return wrong.get(kind, ())


OUT_OF_RANGE = {
    "run": {
        "batch_size": ("0", "-4"),
        "judging_keys": ("0", "1", "-1"),
        "seed": ("-1", str(2**32)),
        "attack.num_steps": ("0", "-3"),
        "attack.eot_samples": ("0",),
        "attack.step_size": ("-1", "-0.5"),
        "purifier.t_star": ("0", "-5"),
        "ball.eps": ("0", "-0.1", "2"),
        "data.num_examples": ("0", "-1"),
        "data.indices": ("[]", "[-1]", "[3,3]", f"[{2**31}]"),
        "policy": ("replays", "fresh,fresh", "fresh,=replay", "replay,forward"),
        "denoiser": ("nosuch", "x.pt", "none.safetensors", "random:nosuch", "hf:"),
        "classifier": ("nosuch", "x.pkl", "none.safetensors", "random:resnet("),
    },
    "train": {
        "num_steps": ("0", "-1", "100"),
        "batch_size": ("0", "-1"),
        "accumulation": ("0", "-1", "7"),
        "learning_rate": ("-1",),
        "warmup_steps": ("-1",),
        "momentum": ("-0.1", "1.1"),
        "weight_decay": ("-1",),
        "ema_decay": ("-0.1", "1.5"),
        "ema_width": ("-1",),
        "grad_clip": ("-1",),
        "label_smoothing": ("-0.1", "1.1"),
        "crop": ("-1", "9"),
        "shift": ("-1",),
        "small_size": ("-1",),
        "small_steps": ("-1",),
        "adversarial_eps_255": ("-1", "256"),
        "log_steps": ("0", "-1"),
        "validation_steps": ("-1",),
        "kept_checkpoints": ("-1",),
        "checkpoint_seconds": ("-1",),
        "max_timestep": ("-1",),
        "min_snr_gamma": ("-1",),
        "seed": ("-1", str(2**32)),
        "task": ("classify",),
        "optimizer": ("adma",),
        "rate_decay": ("cosin",),
        "stored_dtype": ("int8",),
        "compute_dtype": ("float16",),
        "schedule": ("nosuch",),
        "rate_factors": ("x", "a=b", "=1"),
    },
}


DATA_OF_TRAINING = {
    "num_examples=-1": "num_examples=-1",
    "num_examples=99999": "99999",
    "image_size=-1": "'image_size'",
    "test_every=-1": "test_every=-1",
    "test_every=1": "test_every=1",
    "test_every=5": "has a test split",
    "split=nosuch": "'nosuch'",
    "name=nosuch": "'nosuch'",
    "name=folder(/nowhere)": "/nowhere",
}


def out_of_range() -> Iterator[Bad]:
    for command, fields in OUT_OF_RANGE.items():
        for field, values in fields.items():
            for value in values:
                argv = (WITH_CONFIG[command], f"--config.{field}={value}")
                yield Bad(command, argv, field.rpartition(".")[2])
    for text, named in DATA_OF_TRAINING.items():
        yield Bad("train", (TRAIN, f"--config.data.{text}"), named)


def choices_of_examples() -> Iterator[Bad]:
    for text in ("x", "3-", "-3", "9-3", "1,,2", "3,3", "0-99999999", "1.5", "500", " "):
        yield Bad("run", (RUN, f"--indices={text}"), "indices")
    yield Bad("run", (RUN, "--limit=201"), "--limit=201")
    yield Bad("run", (RUN, "--indices=3,4", "--limit=3"), "--limit=3")


PLACES = {
    "/dev/null/x": "/dev/null",
    "a-file/x": "a-file",
    "x" * 300: "File name too long",
    "a\0b": "null byte",
    "foo://bucket/run": "foo",
    "s3://bucket/run": "s3",
    "a-file": "a-file",
    "": "empty",
    " ": "empty",
}


def places(folder: Path) -> Iterator[Bad]:
    """Folders that cannot be worked in; `folder` is where the commands run."""
    (folder / "a-file").write_text("a file")
    (folder / "empty").mkdir(exist_ok=True)
    for text, named in PLACES.items():
        yield Bad("train", (TRAIN, f"--workdir={text}"), named)
        yield Bad("run", (RUN, f"--workdir={text}"), named)
        read = text.partition("\0")[0].strip() or named  # as the others call it
        for command in ("judge", "verify", "view", "table"):
            yield Bad(command, (text,), read)
        yield Bad("compare", (text, text), read)
    for command, count in REST.items():
        yield Bad(command, (), "usage:" if count else "")
        yield Bad(command, ("nowhere",) * count, "nowhere")
        yield Bad(command, ("empty",) * count, "")
        if command not in ("table", "view"):
            yield Bad(command, ("nowhere",) * (count + 1), "usage:")
    yield Bad("list", ("nosuch",), "'nosuch'")
    yield Bad("list", ("attack", "atack"), "'atack'")


DAMAGES: dict[str, bytes] = {
    "nothing": b"",
    "binary bytes": b"\x00\xff\xfe\x80" * 40,
    "a number": b"5",
    "a list": b"[]",
    "null": b"null",
    "text": b'"text"',
    "half an object": b'{"config": {"data": "digi',
    "a nest of brackets": b"[" * 100_000,
    "an empty object": b"{}",
    "an object of wrong types": b'{"config": 5, "dataset": [], "attack": {}}',
    "other encodings": '{"config": "ü"}'.encode("utf-16"),
    "a config of strangers": b'{"version": 2, "config": {"data": 5}, "weights": []}',
    "a config of unknown fields": b'{"config": {"data": "digits", "nosuch": 1}}',
    "a config of wrong types": b'{"config": {"data": "digits", "seed": "x", "ball": []}}',
    "an infinite number": b'{"config": {"data": "digits", "seed": 1e999}}',
}


def damaged_runs(folder: Path) -> Iterator[Bad]:
    """Runs with a damaged config.json or summary.json, for every command that reads it."""
    for number, content in enumerate(DAMAGES.values()):
        for name in ("config.json", "summary.json"):
            run = folder / f"{name}-{number}"
            run.mkdir()
            (run / name).write_bytes(content)
            if name == "config.json":
                yield Bad("run", (RUN, f"--workdir={run}"), str(run))
                yield Bad("train", (TRAIN, f"--workdir={run}"), str(run))
                yield Bad("judge", (str(run),), str(run))
                continue
            for command, count in REST.items():
                if command == "judge":
                    continue
                yield Bad(command, (str(run),) * count, str(run))
    for name in ("config.json", "summary.json"):
        run = folder / f"a folder as {name}"
        (run / name).mkdir(parents=True)
        for command in ("judge",) if name == "config.json" else ("table", "view", "verify"):
            yield Bad(command, (str(run),), str(run))


def damaged_weights(folder: Path) -> Iterator[Bad]:
    """Files in place of weights, for runs and for the converter."""
    header = b'{"__metadata__":{"format":"jaxpure-network-2"}}'
    contents = DAMAGES | {
        "a long header": (2**62).to_bytes(8, "little") + b"{}",
        "a header of nothing": (2).to_bytes(8, "little") + b"{}",
        "no architecture": len(header).to_bytes(8, "little") + header,
        "a web page": b"<html>not found</html>",
        "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\n",
        "a zip": b"PK\x03\x04" + bytes(100),
        "a pickle": b"\x80\x04\x95" + bytes(20),
    }
    for number, content in enumerate(contents.values()):
        path = folder / f"{number}.safetensors"
        path.write_bytes(content)
        yield Bad("run", (RUN, f"--config.classifier={path}"), str(path))
        yield Bad("convert", (str(path), str(folder / "out.safetensors")), str(path))
        yield Bad("convert", ("--check", str(path)), str(path))
    (folder / "folder.safetensors").mkdir()
    yield Bad(
        "run", (RUN, f"--config.classifier={folder / 'folder.safetensors'}"), "folder.safe"
    )


def conversions() -> Iterator[Bad]:
    """Command lines of the converter."""
    for argv, named in (
        ((), "SOURCE and OUT"),
        (("only-one",), "SOURCE and OUT"),
        (("nowhere.pt", "out.safetensors"), "nowhere.pt"),
        (("--nosuch",), "--nosuch"),
        (("a", "b", "c"), "c"),
        (("--check",), "--check"),
        (("--check", "nowhere.safetensors"), "nowhere.safetensors"),
        (("--check", "digits_classifier", "--data", "nosuch"), "nosuch"),
        (("--check", "digits_denoiser", "--classifier", "digits_classifier"), "--data"),
        (("--check", "digits_denoiser", "--write"), "--data"),
        (("http://example.org/x.pt", "out.safetensors"), "example.org"),
        (("nowhere.pt", "out.safetensors", "--family", "nosuch"), "nowhere.pt"),
        (("nowhere.pt", "out.safetensors", "--set"), "--set"),
    ):
        yield Bad("convert", argv, named)


def table(folder: Path) -> list[Bad]:
    """All of them; `folder` is empty, and where the commands are to run."""
    runs, weights = folder / "runs", folder / "weights"
    runs.mkdir()
    weights.mkdir()
    found = [
        *command_lines(),
        *malformed_specs(),
        *config_fields(),
        *options_of_things(),
        *out_of_range(),
        *choices_of_examples(),
        *places(folder),
        *damaged_runs(runs),
        *damaged_weights(weights),
        *conversions(),
    ]
    return list(dict.fromkeys(found))
