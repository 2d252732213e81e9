"""One table of finished runs: python -m experiments.table DIR [DIR ...] [--out=FILE].

A row for each gradient rule and attack, a column for each policy of randomness: robust
accuracy with its 95% interval, under the headline key. Runs in a table share data, ball,
purifier and seed; where they do not, the table says in what.
"""

import argparse
import json
import sys
from typing import Any

from etils import epath

from experiments import program
from experiments.config import ConfigError
from experiments.report.words import interval

# What a table is about; all else should be the same in every run.
VARIED = ("gradient", "policy", "attack.", "batch_size", "judging_keys")


def table(folders: list[epath.Path]) -> str:
    """The table in Markdown, of folders that hold a finished run each.

    Raises:
      ConfigError: a folder holds no finished run, or two hold the same cell.
    """
    runs = [_summary(folder) for folder in folders]
    policies = list(dict.fromkeys(run["policy"] for run in runs))
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for run in runs:
        row = cells.setdefault((run["gradient"], run["attack"]), {})
        if run["policy"] in row:
            raise ConfigError(
                f"two runs of gradient {run['gradient']}, attack {run['attack']} and "
                f"policy {run['policy']}: give each once"
            )
        row[run["policy"]] = run
    lines = [
        "| gradient | attack | " + " | ".join(policies) + " |",
        "|---" * (2 + len(policies)) + "|",
    ]
    for (gradient, attack), row in cells.items():
        found = [_cell(row.get(policy)) for policy in policies]
        lines.append(f"| {gradient} | {attack} | " + " | ".join(found) + " |")
    first = runs[0]
    about = (
        f"Robust accuracy (95% interval) of {first['num_examples']} images of "
        f"{first['dataset']}, {first['norm']} {255 * first['eps']:g}/255, seed "
        f"{first['seed']}; clean {interval(first['clean_accuracy'])}."
    )
    return "\n".join([about, "", *lines, *_differences(folders, runs)]) + "\n"


def _summary(folder: epath.Path) -> dict[str, Any]:
    path = folder / "summary.json"
    if not path.exists():
        raise ConfigError(f"{folder} holds no finished run (no summary.json)")
    return json.loads(path.read_text())


def _cell(run: dict[str, Any] | None) -> str:
    return "" if run is None else interval(run["robust_accuracy"])


def _differences(folders: list[epath.Path], runs: list[dict[str, Any]]) -> list[str]:
    """A line for each run that differs from the first in what a table holds fixed."""
    first = program.identity_of_dict(runs[0]["config"])
    lines = []
    for folder, run in zip(folders[1:], runs[1:], strict=True):
        other = program.identity_of_dict(run["config"])
        found = program.differences(first, other)
        fixed = [name for name in found if not name.startswith(VARIED)]
        fixed += [name for name in found if name in ("attack.norm", "attack.eps_255")]
        if fixed:
            lines.append(f"{folder} differs from {folders[0]} in {', '.join(fixed)}.")
    return ["", *lines] if lines else []


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.table")
    parser.add_argument("dir", nargs="+", help="finished runs")
    parser.add_argument("--out", help="also writes the table here, in Markdown")
    args = parser.parse_args()
    try:
        found = table([epath.Path(folder) for folder in args.dir])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.out:
        epath.Path(args.out).write_text(found)
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
