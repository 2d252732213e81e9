"""Whether this code makes the records, bit for bit, that another commit made.

    python -m benchmarks.same_records COMMIT CONFIG... [-- --config.data.num_examples=200]

Runs each config by both codes, the other commit's from a worktree of its own, on one CPU
device, and compares logits, images and counts row by row. What follows `--` goes to both
runs. Exits with 1 where a row differs. What the other commit imports has to be installed
(`ml_collections` before specs). Weights belong to a commit, so a config whose
weights were replaced between the two needs them named after `--`.
"""

import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

Rows = dict[int, dict[str, Any]]

# What fields were called in records of the first version.
RENAMED = {"fooled": "lost", "outvoted": "vote_lost"}
KINDS = ("clean", "attacked", "judged")


def main(argv: list[str]) -> int:
    """Runs and compares; returns the exit code."""
    split = argv.index("--") if "--" in argv else len(argv)
    given, extra = argv[:split], argv[split + 1 :]
    if len(given) < 2:
        sys.exit(__doc__)
    commit, *configs = given
    root = pathlib.Path(__file__).parents[1]
    differ = 0
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        other = scratch / "other"
        subprocess.run(
            ["git", "-C", root, "worktree", "add", "-q", "--detach", other, commit],
            check=True,
        )
        try:
            for config in configs:
                before = _records(other, config, extra, scratch / f"{config}-before")
                after = _records(root, config, extra, scratch / f"{config}-after")
                _drop_wrong_ones(before, after["clean"])
                for kind in KINDS:
                    count = _differing(before[kind], after[kind])
                    differ += count
                    print(f"{config} {kind}: {len(before[kind])} rows, {count} differ")
        finally:
            subprocess.run(
                ["git", "-C", root, "worktree", "remove", "--force", other], check=True
            )
    return 1 if differ else 0


def _records(
    code: pathlib.Path, config: str, extra: list[str], workdir: pathlib.Path
) -> dict[str, Rows]:
    """Runs a config by the code in a folder; its rows of each kind, by index."""
    subprocess.run(
        [sys.executable, "-m", "experiments.run"]
        + [f"--config={config}", f"--workdir={workdir}", *extra],
        cwd=code,
        env=os.environ | {"PYTHONPATH": str(code), "JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    defended = workdir / "records" / "defended"
    rows: dict[str, Rows] = {kind: {} for kind in KINDS}
    for path in sorted(defended.rglob("part-*.jsonl")):
        for line in path.read_text().splitlines():
            row = {RENAMED.get(k, k): _decoded(v) for k, v in json.loads(line).items()}
            rows[path.parent.name].setdefault(row["index"], row)
    return rows


def _decoded(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    flat = np.frombuffer(base64.b64decode(value["base64"]), value["dtype"])
    return flat.reshape(value["shape"])


def _drop_wrong_ones(before: dict[str, Rows], clean: Rows) -> None:
    """Drops attack rows of images that were wrong unattacked: later code makes none."""
    for index, row in clean.items():
        if np.argmax(row["logits"][0]) != row["label"]:
            for kind in ("attacked", "judged"):
                before[kind].pop(index, None)


def _differing(before: Rows, after: Rows) -> int:
    """How many rows are in one of the two alone, or differ in a field that both have."""

    def same(index: int) -> bool:
        if index not in before or index not in after:
            return False
        mine, theirs = before[index], after[index]
        return all(
            np.array_equal(mine[name], theirs[name]) for name in mine.keys() & theirs.keys()
        )

    return sum(not same(index) for index in before.keys() | after.keys())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
