"""Puts two finished runs side by side: python -m experiments.compare DIR DIR.

The runs are joined on the examples that they share, so the gap between them is paired:
the interval is Newcombe's, the p-value McNemar's. Give the fresh run first and the
replayed one second, and the gap is what masking hid.
"""

import sys

from etils import epath

from experiments import program, runs
from experiments.arguments import ArgumentError, Arguments
from jaxpure.evaluation import paired
from jaxpure.evaluation.paired import Comparison

# Other settings than these make the two runs different experiments.
EXPECTED_TO_DIFFER = {"policy"}


def compare(first: epath.Path, second: epath.Path) -> tuple[Comparison, list[str]]:
    """The paired gap of two finished runs, and the settings in which they differ.

    Raises:
      UserError: a directory holds no finished run, or the examples are not the same.
    """
    one, other = runs.read(first), runs.read(second)
    found = paired.compare(runs.judged(one), runs.judged(other))
    return found, program.differences(one.config, other.config)


def describe(
    found: Comparison, differences: list[str], names: tuple[str, str] = ("A", "B")
) -> str:
    """The comparison as people read it."""
    text = paired.describe(found, names)
    others = [name for name in differences if name not in EXPECTED_TO_DIFFER]
    if not others:
        return text
    table, blank, verdict = text.rpartition("\n\n")
    note = f"note: the runs also differ in {', '.join(others)}"
    return f"{table}\n\n{note}{blank}{verdict}"


def main(arguments: Arguments, config: None) -> None:
    """Compares the two runs that the command line names."""
    del config
    if len(arguments.rest) != 2:
        raise ArgumentError("usage: python -m experiments.compare DIR DIR")
    first, second = map(program.folder, arguments.rest)
    print(describe(*compare(first, second), names=(str(first), str(second))))


def command(argv: list[str]) -> int:
    """The program; returns its exit code."""
    return program.launch(main, argv, name="compare", doc=__doc__, takes_rest=True)


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
