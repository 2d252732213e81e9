"""One table of finished runs: python -m experiments.table DIR [DIR ...] [--out=FILE].

A row for each gradient rule and attack, a column for each policy of randomness: robust
accuracy with its 95% interval, under the headline key. Runs in a table share data, ball,
purifier and seed; where they do not, the table says in what. Where an attack without
gradients leaves less than one that follows them, under the same noise, it says so: that
gradient is masked.
"""

import argparse
import json
import sys
from typing import Any

from etils import epath

from experiments import program
from experiments.config import ConfigError, RunConfig
from experiments.report.words import interval, norm_ball

WITHOUT_GRADIENT = ("square",)
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
        row = cells.setdefault((_rule(run), _attack(run, runs[0])), {})
        if run["policy"] in row:
            raise ConfigError(
                f"two runs of gradient {_rule(run)}, attack {_attack(run, runs[0])} and "
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
        f"{first['dataset']}, {norm_ball(first)}, seed "
        f"{first['seed']}; clean {interval(first['clean_accuracy'])}."
    )
    notes = [*_differences(folders, runs), *_masked(runs)]
    return "\n".join([about, "", *lines, *(["", *notes] if notes else [])]) + "\n"


def _summary(folder: epath.Path) -> dict[str, Any]:
    path = folder / "summary.json"
    if not path.exists():
        raise ConfigError(f"{folder} holds no finished run (no summary.json)")
    return json.loads(path.read_text())


def _fixed_differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What differs of that which a table holds fixed."""
    first, second = (
        program.identity_of_dict(run["config"], RunConfig) for run in (one, other)
    )
    found = program.differences(first, second)
    ball = ("attack.norm", "attack.eps_255")
    if "flow" in (one["norm"], other["norm"]):  # its row names it
        ball = ()
    return [name for name in found if not name.startswith(VARIED) or name in ball]


def _rule(run: dict[str, Any]) -> str:
    """The gradient rule; an attack by queries follows none."""
    return "none" if run["attack"] in WITHOUT_GRADIENT else run["gradient"]


def _attack(run: dict[str, Any], first: dict[str, Any]) -> str:
    """The attack, with its version or criterion, and its ball if that is another."""
    settings = run["config"]["attack"]
    parts = [run["attack"]]
    if run["attack"] == "autoattack":
        parts.append(settings["version"])
    if settings.get("criterion", "most") != "most":
        parts.append(f"by {settings['criterion']}")
    if settings["eot_samples"] > 1:
        parts.append(f"of {settings['eot_samples']} draws")
    if norm_ball(run) != norm_ball(first):
        parts.append(f"in {norm_ball(run)}")
    return " ".join(parts)


def _masked(runs: list[dict[str, Any]]) -> list[str]:
    """A line for each gradient along which no attack does as well as queries do."""
    lines = []
    for blind in (run for run in runs if run["attack"] in WITHOUT_GRADIENT):
        strongest: dict[str, dict[str, Any]] = {}
        for run in runs:
            same = run["policy"] == blind["policy"] and norm_ball(run) == norm_ball(blind)
            along = _rule(run)
            if along == "none" or along.startswith("transfer") or not same:
                continue
            if _fixed_differences(run, blind):
                continue
            best = strongest.setdefault(along, run)
            if run["robust_accuracy"]["value"] < best["robust_accuracy"]["value"]:
                strongest[along] = run
        for run in strongest.values():
            if blind["robust_accuracy"]["high"] < run["robust_accuracy"]["low"]:
                lines.append(
                    f"Under {run['policy']}, {blind['attack']} without gradients leaves "
                    f"less than any attack along the {run['gradient']} gradient (intervals "
                    "apart): that gradient is masked."
                )
    return lines


def _cell(run: dict[str, Any] | None) -> str:
    return "" if run is None else interval(run["robust_accuracy"])


def _differences(folders: list[epath.Path], runs: list[dict[str, Any]]) -> list[str]:
    """A line for each run that differs from the first in what a table holds fixed."""
    lines = []
    for folder, run in zip(folders[1:], runs[1:], strict=True):
        if fixed := _fixed_differences(runs[0], run):
            lines.append(f"{folder} differs from {folders[0]} in {', '.join(fixed)}.")
    return lines


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
