"""Converts published weights: python -m checkpoints_convert SOURCE OUT.

python -m checkpoints_convert --list
python -m checkpoints_convert SOURCE OUT [--family NAME] [--set field=value ...]
python -m checkpoints_convert --check OUT [--data cifar10]
"""

import argparse
import sys
from typing import NoReturn

from checkpoints_convert import published
from checkpoints_convert.conversion import check, convert
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
    parser.add_argument("--data", help="with --check: measure accuracy on this set")
    try:
        args = parser.parse_args(argv)
        if args.list:
            _list()
        elif args.check:
            _check(args.check, args.data)
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


def _check(path: str, dataset: str | None) -> None:
    card = check(path, dataset)
    print(
        f"{path}: SHA-256 as its card says; {card['parameters']:,} parameters; one forward "
        f"pass gives {card['output_shape']}"
    )
    if dataset is not None:
        n = card["num_examples"]
        print(f"{100 * card['accuracy']:.2f}% of the {n:,} images of {dataset}")


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
