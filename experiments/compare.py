"""Puts two finished runs side by side: python -m experiments.compare DIR DIR.

The runs are joined on the examples that they share, so the gap between them is paired:
the interval is Newcombe's, the p-value McNemar's. Give the fresh run first and the
replayed one second, and the gap is what masking hid.
"""

import io
import json
import sys
from typing import Any

import numpy as np
from etils import epath

from experiments import program
from experiments.config import RunConfig
from jaxpure.evaluation import records
from jaxpure.evaluation.statistics import PairedGap, correct, paired_gap, wilson

# Other settings than these make the two runs different experiments.
EXPECTED_TO_DIFFER = {"policy"}


class CompareError(ValueError):
    """The runs are not finished, or do not share examples."""


def compare(first: epath.Path, second: epath.Path) -> dict[str, Any]:
    """The paired gap of two finished runs: the first's accuracy minus the second's.

    Returns:
      `examples` shared, `differences` between the configs, and for the headline, the
      worst of N and the clean accuracy: both estimates and the gap.

    Raises:
      CompareError: a directory holds no finished run, or no example is in both.
    """
    runs = [_read(first), _read(second)]
    shared = np.intersect1d(runs[0]["index"], runs[1]["index"])
    if not len(shared):
        raise CompareError(f"{first} and {second} have no example in common")
    rows = [np.searchsorted(run["index"], shared) for run in runs]
    labels = [run["label"][row] for run, row in zip(runs, rows, strict=True)]
    if not np.array_equal(*labels) or runs[0]["dataset"] != runs[1]["dataset"]:
        raise CompareError(
            f"{first} is on {runs[0]['dataset']}, {second} on {runs[1]['dataset']}: the "
            "examples are not the same"
        )
    readings = {}
    for name, read in (
        ("robust accuracy", lambda run: run["correct"][:, 0]),
        ("worst of N", lambda run: run["correct"].all(1)),
        ("clean accuracy", lambda run: run["clean_correct"][:, 0]),
    ):
        a, b = (read(run)[row] for run, row in zip(runs, rows, strict=True))
        readings[name] = {
            "first": wilson(a)._asdict(),
            "second": wilson(b)._asdict(),
            "gap": paired_gap(a, b)._asdict(),
        }
    return {
        "first": {"workdir": str(first), "policy": runs[0]["policy"]},
        "second": {"workdir": str(second), "policy": runs[1]["policy"]},
        "examples": len(shared),
        "differences": _differences(runs[0]["config"], runs[1]["config"]),
        "readings": readings,
    }


def describe(result: dict[str, Any]) -> str:
    """The comparison as people read it."""
    one, two = result["first"], result["second"]
    lines = [
        f"A  {one['workdir']}  (policy {one['policy']})",
        f"B  {two['workdir']}  (policy {two['policy']})",
        f"{result['examples']} examples in both",
        "",
        f"{'':16} {'A':>22} {'B':>22} {'A - B, paired':>24}   McNemar p",
    ]
    for name, reading in result["readings"].items():
        gap = PairedGap(**reading["gap"])
        cells = [_interval(reading[side]) for side in ("first", "second")]
        difference = _points(gap.gap, gap.low, gap.high)
        p = f"{gap.p_value:.2g}"
        lines.append(f"{name:16} {cells[0]:>22} {cells[1]:>22} {difference:>24}   {p}")
    others = [d for d in result["differences"] if d not in EXPECTED_TO_DIFFER]
    if others:
        lines += ["", f"note: the runs also differ in {', '.join(others)}"]
    return "\n".join([*lines, "", _verdict(result)])


def _verdict(result: dict[str, Any]) -> str:
    gap = PairedGap(**result["readings"]["robust accuracy"]["gap"])
    a, b = result["first"]["policy"], result["second"]["policy"]
    points = f"{abs(100 * gap.gap):.1f} points"
    if gap.low <= 0 <= gap.high:
        return (
            f"No clear difference between policy {a} and policy {b} on these "
            f"{gap.n} examples (the interval includes zero)."
        )
    higher, lower = (a, b) if gap.gap > 0 else (b, a)
    return (
        f"Under policy {lower} the defense keeps {points} less than under policy "
        f"{higher}, on the same {gap.n} examples; the interval excludes zero."
    )


def _read(workdir: epath.Path) -> dict[str, Any]:
    """What a run found of each example, in the order of their indices.

    From the records that all else is read from, and not from records.parquet: Arrow's
    threads now and then take a process down that ends so soon after reading.
    """
    summary_path, images = workdir / "summary.json", workdir / "adversarial.npz"
    if not summary_path.exists() or not images.exists():
        raise CompareError(
            f"{workdir} holds no finished run (no summary.json and adversarial.npz)"
        )
    summary = json.loads(summary_path.read_text())
    with np.load(io.BytesIO(images.read_bytes())) as stored:
        order = np.argsort(stored["index"])
        index, label = stored["index"][order], stored["label"][order]
    arrays = {"index": index, "label": label}
    for name, stage in (("clean_correct", "clean"), ("correct", "judged")):
        rows = records.read(workdir / "records" / "defended" / stage)
        logits = np.stack([rows[int(i)]["logits"] for i in index])
        arrays[name] = correct(logits, label)
    kept = {name: summary[name] for name in ("policy", "config", "dataset")}
    return {**arrays, **kept}


def _differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    one, other = (program.identity_of_dict(config, RunConfig) for config in (a, b))
    return program.differences(one, other)


def _interval(estimate: dict[str, Any]) -> str:
    return _points(estimate["value"], estimate["low"], estimate["high"])


def _points(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def main(argv: list[str]) -> int:
    if len(argv) != 3 or "--help" in argv:
        print("usage: python -m experiments.compare DIR DIR", file=sys.stderr)
        return 2
    try:
        result = compare(epath.Path(argv[1]), epath.Path(argv[2]))
    except CompareError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(describe(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
