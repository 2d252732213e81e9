"""Converts published weights: python -m checkpoints_convert SOURCE OUT.

python -m checkpoints_convert --list
python -m checkpoints_convert SOURCE OUT [--family NAME] [--set field=value ...]
python -m checkpoints_convert --check OUT [--data cifar10]
python -m checkpoints_convert --check OUT --data cifar10 --classifier NAME --t_star 50,100
python -m checkpoints_convert --check OUT --data cifar10 --ball 'linf(8/255)'
"""

import argparse
import pathlib
import shlex
import sys
from typing import NoReturn

from checkpoints_convert import published
from checkpoints_convert.conversion import check, convert, note, purified, robust
from checkpoints_convert.families import FAMILIES
from jaxpure.errors import UserError


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, as all programs here do."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help says more)")


def main(argv: list[str] | None = None) -> None:
    """Does what the command line asks for; SystemExit with 2 for what a user can mend."""
    parser = _Parser(
        prog="python -m checkpoints_convert",
        description="Converts published weights into a jaxpure network and its card.",
    )
    parser.add_argument("source", nargs="?", help="path, hf:OWNER/NAME, or URL of --list")
    parser.add_argument("out", nargs="?", help="the .safetensors to write")
    parser.add_argument("--family", help="known by the tensors' names if not given")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="an architecture field that the file does not tell",
    )
    parser.add_argument("--list", action="store_true", help="families and known weights")
    parser.add_argument("--check", metavar="OUT", help="hash and one forward pass")
    parser.add_argument("--data", help="with --check: accuracy, or a denoiser's loss")
    parser.add_argument(
        "--classifier",
        metavar="NAME",
        help="with --data: what it has right of images that the denoiser purified",
    )
    parser.add_argument(
        "--t_star",
        metavar="T,T,...",
        default="50,100",
        help="of DiffPure, with --classifier",
    )
    parser.add_argument(
        "--ball",
        metavar="SPEC",
        help="with --data: what AutoAttack leaves in it to a classifier",
    )
    parser.add_argument(
        "--write", action="store_true", help="adds what was measured to the card"
    )
    try:
        args = parser.parse_args(argv)
        if args.list:
            _list()
        elif args.check:
            _check(args)
        elif args.source and args.out:
            _convert(args)
        else:
            parser.error("give SOURCE and OUT, --list, or --check OUT")
    except (UserError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def _convert(args: argparse.Namespace) -> None:
    settings = dict(part.partition("=")[::2] for part in args.set)
    card = convert(args.source, args.out, args.family, settings)
    print(
        f"{args.out}: {card['family']}, {card['architecture']} of "
        f"{card['parameters']:,} parameters, input {card['input']}"
    )


def _check(args: argparse.Namespace) -> None:
    path, dataset = args.check, args.data
    for flag in ("classifier", "ball"):
        if getattr(args, flag) and not dataset:
            raise UserError(f"--{flag} is of a data set: give --data too")
    if args.classifier and args.ball:
        raise UserError("--classifier is of denoisers and --ball of classifiers: give one")
    if args.write and not dataset:
        raise UserError("--write notes what was measured on --data: give that too")
    card = check(path, dataset)
    print(
        f"{path}: SHA-256 as its card says; {card['parameters']:,} parameters; one forward "
        f"pass gives {card['output_shape']}"
    )
    if dataset is not None:
        n = card["num_examples"]
        if "loss" in card:
            print(f"noise prediction loss {card['loss']:.5f} on {n:,} images of {dataset}")
            told = card["loss_by_timestep"].items()
            print("  by timestep: " + ", ".join(f"{t}: {loss:.5f}" for t, loss in told))
        else:
            print(f"{100 * card['accuracy']:.2f}% of the {n:,} images of {dataset}")
    if args.classifier and dataset:
        found = purified(path, dataset, args.classifier, _timesteps(args.t_star))
        for t, right in found["right"].items():
            print(
                f"{100 * right:.1f}% of the first {found['num_examples']:,} after "
                f"diffpure(t_star={t}), by {args.classifier}"
            )
        if args.write:
            note(path, {"purified": found | {"measured_by": _command(args)}})
    elif args.ball and dataset:
        found = robust(path, dataset, args.ball)
        print(
            f"{100 * found['accuracy']:.1f}% of the first {found['num_examples']:,} under "
            f"{found['attack']} in {args.ball}"
        )
        if args.write:
            note(path, {"robust": found | {"measured_by": _command(args)}})
    elif args.write:
        names = ("accuracy", "loss", "loss_by_timestep", "num_examples")
        found = {name: card[name] for name in names if name in card}
        note(path, {"measured": found | {"measured_by": _command(args)}})


def _timesteps(text: str) -> list[int]:
    try:
        return [int(t) for t in text.split(",")]
    except ValueError:
        raise UserError(f"--t_star={text}, expected integers such as 50,100") from None


def _command(args: argparse.Namespace) -> str:
    name = pathlib.PurePath(args.check).name
    given = ["--check", name, f"--data={args.data}"]
    if args.classifier:
        given += [f"--classifier={args.classifier}", f"--t_star={args.t_star}"]
    if args.ball:
        given += [f"--ball={args.ball}"]
    return f"python -m checkpoints_convert {shlex.join(given)}"


def _list() -> None:
    print("families (--family):")
    for family in FAMILIES.values():
        print(f"  {family.name:20}  {family.about}")
    print("\nknown weights:")
    for entry in published.PUBLISHED:
        print(f"  {entry.name}")
        details = {
            "file": entry.file,
            "family": entry.family or "none: not converted",
            "where": entry.where,
            "size": f"{entry.size:,} bytes" if entry.size else "",
            "md5": entry.md5,
            "sha256": _whole_or_begun(entry.sha256),
            "licence": entry.licence,
            "note": entry.note,
        }
        for key, value in details.items():
            if value:
                print(f"    {key:8}{value}")


def _whole_or_begun(sha256: str | None) -> str:
    return sha256 + "..." * (len(sha256) < 64) if sha256 else ""


def command(argv: list[str]) -> int:
    """The program; returns its exit code."""
    main(argv)
    return 0


if __name__ == "__main__":
    main()
