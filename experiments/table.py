"""One table of finished runs: python -m experiments.table DIR [DIR ...] [--out=FILE].

A row for each gradient rule and attack, a column for each policy of randomness: robust
accuracy with its 95% interval, under the headline key. Runs in a table share data, ball,
purifier and seed; where they do not, the table says in what. Where an attack without
gradients leaves less than one that follows them, under the same noise, it says so: that
gradient is masked.
"""

import json
import sys

from etils import epath

from experiments import program, runs
from experiments.arguments import ArgumentError, Arguments, Flag
from experiments.runs import Run
from jaxpure.evaluation import masking
from jaxpure.evaluation.masking import Attempt
from jaxpure.files import write_atomically
from jaxpure.report import norm_ball

FLAGS = (Flag("out", "also writes the table here, in Markdown"),)
# What a table is about; all else should be the same in every run.
VARIED = ("gradient", "policy", "attack", "batch_size", "judging_keys")


def table(folders: list[epath.Path]) -> str:
    """The table in Markdown, of folders that hold a finished run each.

    Raises:
      UserError: a folder holds no finished run, or two hold the same cell.
    """
    found = [runs.read(folder) for folder in folders]
    policies = list(dict.fromkeys(run.summary["policy"] for run in found))
    cells: dict[tuple[str, str], dict[str, Run]] = {}
    for run in found:
        row_name = _attempt(run).follows, _attack(run, found[0])
        row, policy = cells.setdefault(row_name, {}), run.summary["policy"]
        if policy in row:
            raise runs.RunError(
                f"two runs of gradient {row_name[0]}, attack {row_name[1]} and policy "
                f"{policy}: give each once"
            )
        row[policy] = run
    lines = [
        "| gradient | attack | " + " | ".join(policies) + " |",
        "|---" * (2 + len(policies)) + "|",
    ]
    for (gradient, attack), row in cells.items():
        values = [_cell(row.get(policy)) for policy in policies]
        lines.append(f"| {gradient} | {attack} | " + " | ".join(values) + " |")
    first = found[0].summary
    about = (
        f"Robust accuracy (95% interval) of {first['num_examples']} images of "
        f"{first['dataset']}, {norm_ball(first)}, seed {first['seed']}; clean "
        f"{found[0].estimate('clean_accuracy')}."
    )
    masked = masking.masked([_attempt(run) for run in found])
    notes = [*_differences(found), *(masking.describe(*pair) for pair in masked)]
    return "\n".join([about, "", *lines, *(["", *notes] if notes else [])]) + "\n"


def _fixed(run: Run) -> dict[str, str]:
    """What a table holds fixed."""
    return {name: value for name, value in run.config.items() if name not in VARIED}


def _attempt(run: Run) -> Attempt:
    summary = run.summary
    return Attempt(
        summary["attack"],
        summary["gradient"],
        summary["policy"],
        run.estimate("robust_accuracy"),
        json.dumps(_fixed(run), sort_keys=True),
    )


def _attack(run: Run, first: Run) -> str:
    """The attack, with the options that are not its defaults, and its ball if another."""
    ball = norm_ball(run.summary)
    same = ball == norm_ball(first.summary)
    return run.config["attack"] + ("" if same else f" in {ball}")


def _cell(run: Run | None) -> str:
    return "" if run is None else str(run.estimate("robust_accuracy"))


def _differences(found: list[Run]) -> list[str]:
    """A line for each run that differs from the first in what a table holds fixed."""
    first, lines = found[0], []
    for run in found[1:]:
        fixed = program.differences(_fixed(first), _fixed(run))
        if "flow" in (run.summary["norm"], first.summary["norm"]):  # its row names it
            fixed = [name for name in fixed if name != "ball"]
        if fixed:
            names = ", ".join(fixed)
            lines.append(f"{run.folder} differs from {first.folder} in {names}.")
    return lines


def main(arguments: Arguments, config: None) -> None:
    """The table of the runs that the command line names."""
    del config
    if not arguments.rest:
        raise ArgumentError("usage: python -m experiments.table DIR [DIR ...] [--out=FILE]")
    found = table([program.folder(name) for name in arguments.rest])
    if arguments.out:
        write_atomically(program.folder(arguments.out), found.encode())
    print(found)


def command(argv: list[str]) -> int:
    """The program; returns its exit code."""
    return program.launch(
        main, argv, name="table", doc=__doc__, flags=FLAGS, takes_rest=True
    )


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
