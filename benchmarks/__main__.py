"""Speed of jaxpure beside what others would run: python -m benchmarks [--only=chain,pgd].

Each peer does a work in a process of its own, in turn with the others of that work, so
that what the machine does besides falls on all alike; told are medians. Writes table.md,
results.json and plot.svg, anew after every work. A peer that is not installed, or that
fails, says so in its cell. Benchmarks want a machine that does nothing else.

    --quick                   small shapes, once: whether everything works, in a few minutes
    --only=chain,pgd          some of the works
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from benchmarks import report
from benchmarks.works import MATMUL, Peer, Work, chosen
from experiments import program
from experiments.arguments import Arguments, Flag
from experiments.cost import duration

ROOT = pathlib.Path(__file__).parents[1]
FLAGS = (
    Flag("only", "these works instead of all, as in chain,pgd"),
    Flag("repeats", "processes of each peer; once in --quick", int, 3, least=1),
    Flag("out", "where the results go", str, "runs/benchmarks"),
    Flag("quick", "small shapes, to see that everything works", bool, False),
)
QUICK_SECONDS = 4.0  # of a process, with others beside it


def main(arguments: Arguments, config: None) -> None:
    """Says what will be done, does it, and writes what came of it."""
    del config
    works = chosen(arguments.only, arguments.quick)
    repeats = 1 if arguments.quick else arguments.repeats
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    costs = {name: _seconds(work, repeats, arguments.quick) for name, work in works.items()}
    for name, work in works.items():
        print(f"{name}: {work.about}, {work.images} images; about {duration(costs[name])}")
    total = sum(costs.values())
    print(f"processes of each peer: {repeats}; about {duration(total)} on two cores")
    results: dict[str, Any] = {"machine": report.machine(), "quick": arguments.quick}
    results |= {"repeats": repeats, "works": {}}
    with (
        tempfile.TemporaryDirectory() as folder,
        program.progress(round(total), "s expected") as bar,
    ):
        for name, work in works.items():
            bar.set_postfix_str(name)
            measured = _measure(name, work, repeats, folder, arguments.quick)
            results["works"][name] = report.summarized(work, measured)
            _write(out, results)
            bar.update(round(costs[name]))
    print((out / "table.md").read_text())
    print(f"{out}/table.md, results.json, plot.svg")


def _measure(
    name: str, work: Work, repeats: int, folder: str, quick: bool
) -> dict[str, list[dict[str, Any]]]:
    """What each peer's processes measured, in order; and under "ready" what precedes."""
    found: dict[str, list[dict[str, Any]]] = {}
    if work.ready is not None:
        found["ready"] = [_process(name, "ready", folder, quick)]
        if "error" in found["ready"][0]:
            return found
    peers = ((MATMUL,) if work.tells_share else ()) + work.peers
    found |= {p.name: [{"error": p.left_out}] if p.left_out else [] for p in peers}

    def one(peer: Peer) -> None:
        if not any("error" in run for run in found[peer.name]):
            found[peer.name].append(_process(name, peer.name, folder, quick))

    # What is only to be seen to work need not wait for its turn.
    with ThreadPoolExecutor(os.cpu_count() if quick else 1) as pool:
        for _ in range(repeats):
            list(pool.map(one, peers))
    return found


def _process(work: str, peer: str, folder: str, quick: bool) -> dict[str, Any]:
    """One process of `benchmarks.worker`; compiled programs are kept for the next one."""
    kept = {
        "JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "benchmarks.worker", work, peer, folder]
    done = subprocess.run(
        [*command, *(["quick"] if quick else [])],
        cwd=ROOT,
        env=os.environ | kept,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"error": f"failed: its process ended with {done.returncode}: {last[:200]}"}
    return json.loads(done.stdout.splitlines()[-1])


def _seconds(work: Work, repeats: int, quick: bool) -> float:
    """About how long a work takes, with its peers that are run."""
    processes = repeats * sum(peer.left_out is None for peer in work.peers)
    processes += work.ready is not None
    return processes * (QUICK_SECONDS if quick else work.seconds)


def _write(out: pathlib.Path, results: dict[str, Any]) -> None:
    program.write_json(epath.Path(out / "results.json"), results)
    (out / "table.md").write_text(report.table(results))
    report.plot(results, out / "plot.svg")


if __name__ == "__main__":
    sys.exit(
        program.launch(main, sys.argv[1:], name="benchmarks", doc=__doc__, flags=FLAGS)
    )
