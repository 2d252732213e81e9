"""Verifies a finished run: python -m experiments.verify DIR [--against=DIR] [--rejudge=N].

Checks the run's records by every rule, from its files alone, and computes its reported
numbers anew; prints a line a rule, and SUCCESS or what failed. With --against, also
whether chance explains how it differs from a reference run; with --rejudge, which needs the
weights, whether N images judged anew give the same logits.
"""

import sys
from typing import Any

from etils import epath

from experiments import devices, judge, program, runs
from experiments.arguments import ArgumentError, Arguments, Flag
from experiments.build import experiment
from jaxpure.evaluation.folder import open_folder
from jaxpure.evaluation.judging import rejudge
from jaxpure.evaluation.verify import VERSION, compatible, verify

FLAGS = (
    Flag("against", "a reference run, which this one should be compatible with"),
    Flag("rejudge", "judges so many images anew and compares", int, least=1),
    Flag("level", "of significance, for --against", float, 0.01, 0, 1),
    program.DATA_DIR,
    program.CPU_DEVICES,
)


def lines_of(workdir: epath.Path, reported: dict[str, Any]) -> tuple[list[str], bool]:
    """A line a rule for each evaluation of a run, and whether all is well.

    Args:
      workdir: the run's folder.
      reported: its `summary.json`.
    """
    lines, good = [], True
    for who in ("defended", "undefended"):
        folder = workdir / "records" / who
        if who == "undefended" and not folder.exists():
            continue
        if who == "defended":
            alone = workdir / "records" / "undefended"
            findings = verify(folder, reported, alone if alone.exists() else None)
        else:
            findings = verify(folder)
        lines += [f"{who}:", *(f"  {finding}" for finding in findings)]
        good &= all(finding.ok for finding in findings)
    altered = runs.altered(workdir, reported)
    lines += ["files:", *(f"  FAIL  {sentence}" for sentence in altered)]
    lines += [] if altered else ["  ok    what the run left is as it was left"]
    return lines, good and not altered


def main(arguments: Arguments, config: None) -> int:
    """Verifies the run that the command line names; the exit code."""
    del config
    if len(arguments.rest) != 1:
        raise ArgumentError(
            "usage: python -m experiments.verify DIR [--against=DIR] [--rejudge=N]"
        )
    workdir = program.folder(arguments.rest[0])
    reported = runs.read_json(workdir / "summary.json")
    devices.use(arguments.cpu_devices)  # before anything is computed
    lines, good = lines_of(workdir, reported)
    print("\n".join([f"rules of version {VERSION}", *lines]), flush=True)
    if arguments.against is not None:
        other = program.folder(arguments.against)
        ours, theirs = (
            open_folder(d / "records" / "defended").result for d in (workdir, other)
        )
        print(f"against {other}:")
        for agreement in compatible(ours, theirs, arguments.level):
            print(f"  {agreement}")
            good &= agreement.ok
    if arguments.rejudge is not None:
        details, data_dir = judge.config_of(workdir)
        program.prepare_jax(details.compute_dtype)
        built = experiment(details, arguments.data_dir or data_dir)
        result = open_folder(workdir / "records" / "defended").result
        again = rejudge(result, built.defense, arguments.rejudge)
        print(f"judged anew:\n  {again}")
        good &= again.ok
    print("SUCCESS" if good else "FAILED", flush=True)
    return 0 if good else 1


def command(argv: list[str]) -> int:
    """The program; returns its exit code: 0, 1 where a rule failed, 2 for bad input."""
    return program.launch(
        main, argv, name="verify", doc=__doc__, flags=FLAGS, takes_rest=True
    )


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
