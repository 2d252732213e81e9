"""Kills, interrupts and crowds: what becomes of the records of the real commands.

    python -m benchmarks.reliability --kills=200 --interrupts=100 --writers=10 --seed=0

Runs `experiments.run`, `train` and `paper` on a few digits, strikes each process at a
random moment of its life (SIGKILL, or SIGINT and SIGTERM), and goes on with the same
command until it comes to its end; then compares what it left with an unbroken run's, to the
bit. Moments are in processor time, so that other work on the machine moves none. A crowd is
four processes at once on one workdir. Every second run saves the states under way at every
step, so that strikes find such files too. Prints a line a workdir and, at the end, counts;
writes them as JSON with every moment, so that a trial can be repeated. Exit code 1 if
anything was lost, changed, swallowed or left behind.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.interrupts import GOES_ON
from jaxpure.evaluation.folder import open_folder

ROOT = Path(__file__).parents[1]
LATEST = 120.0  # seconds in which a busy machine may end a process that was interrupted
POLL_SECONDS = 0.01
TICKS = os.sysconf("SC_CLK_TCK")
MOST_STRIKES = 5  # on one workdir; then its process is left alone
WRITERS = 4
INTERRUPTS = ("SIGINT", "SIGTERM")
VARYING = ("seconds", "images_per_second", "command")  # of a summary: times

# As `-m experiments.run`, with states under way written at every step.
EAGER = """
import sys
from experiments import interrupts
interrupts.install()
from jaxpure.evaluation import lanes
lanes.SNAPSHOT_SECONDS, lanes.MOST_STEPS = 0, 1
from experiments import run
sys.exit(run.command(sys.argv[1:]))
"""


class Program(NamedTuple):
    """A command under trial.

    Attributes:
      name: of it.
      start: what Python is started with.
      arguments: of the command, but for its workdir.
    """

    name: str
    start: tuple[str, ...]
    arguments: tuple[str, ...]

    def begin(self, workdir: Path) -> "Started":
        output = tempfile.TemporaryFile("w+")
        process = subprocess.Popen(
            [sys.executable, *self.start, *self.arguments, f"--workdir={workdir}"],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        return Started(process, output)


class Started(NamedTuple):
    """A process and the file that takes its output."""

    process: subprocess.Popen
    output: Any

    def wait(self, seconds: float | None = None) -> tuple[int, str]:
        """The exit code and all output; subprocess.TimeoutExpired after so many seconds."""
        code = self.process.wait(seconds)
        self.output.seek(0)
        return code, self.output.read()

    def works_until(self, moment: float) -> bool:
        """Waits until it has spent so much processor time; False if it ended before."""
        while self.process.poll() is None:
            if _processor_seconds(self.process.pid) >= moment:
                return True
            time.sleep(POLL_SECONDS)
        return False


def _processor_seconds(pid: int) -> float:
    """What a process has spent so far, by Linux's own count."""
    try:
        numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # it has just gone
    return (int(numbers[11]) + int(numbers[12])) / TICKS


RUN_ARGUMENTS = (
    "--config=digits_bpda_replay",
    "--config.data.num_examples=11",
    "--config.batch_size=4",
    "--config.purifier.t_star=2",
    "--config.attack.num_steps=3",
    "--config.judging_keys=2",
    "--config.denoiser=random:unet(image_size=8,in_channels=1,out_channels=1,channels=8,"
    "channel_mult=[1],num_res_blocks=1,attention_resolutions=[],num_groups=4)",
    "--cpu_devices=1",
)
TRAIN_ARGUMENTS = (
    "--config=digits_classifier",
    "--config.num_steps=120",
    "--config.batch_size=16",
    "--config.warmup_steps=10",
    "--config.log_steps=10",
    "--config.checkpoint_seconds=0",
    "--cpu_devices=1",
)
PAPER_ARGUMENTS = (
    "--data=digits",
    "--quick",
    "--only=fuzzy,denoising",
    "--config.num_examples=6",
    "--config.purifier=diffpure(t_star=10,step_rule=ddim(num_steps=2))",
    "--cpu_devices=1",
)
PROGRAMS = (
    Program("run", ("-m", "experiments.run"), RUN_ARGUMENTS),
    Program("run, states at every step", ("-c", EAGER), RUN_ARGUMENTS),
    Program("train", ("-m", "experiments.train"), TRAIN_ARGUMENTS),
    Program("paper", ("-m", "experiments.paper"), PAPER_ARGUMENTS),
)


@dataclass
class Whole:
    """What an unbroken process left, and the processor time that it took."""

    content: dict[str, str]
    files: set[str]
    seconds: float


@dataclass
class Trial:
    """One workdir, its strikes, and what was wrong.

    Attributes:
      number: of the trial; with the campaign's seed it gives its random moments.
      program: name of the command.
      strikes: `(signal, processor seconds at which it was sent, how the process ended)`.
      latest: the most seconds that an interrupted process took to end.
      wrong: what was lost, changed, swallowed or left behind.
    """

    number: int
    program: str
    strikes: list[tuple[str, float, str]] = field(default_factory=list)
    latest: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def count(self, *signals: str) -> int:
        """Strikes by these signals that ended a process."""
        return sum(s in signals and how != "was done" for s, _, how in self.strikes)


def main() -> int:
    """The campaign that the command line asks for; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--interrupts", type=int, default=4)
    parser.add_argument("--writers", type=int, default=1, help="crowds of four processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("reliability.json"))
    options = parser.parse_args()
    _share_compiled_programs()
    with tempfile.TemporaryDirectory(prefix="reliability-") as place:
        found = campaign(
            Path(place),
            kills=options.kills,
            interrupts=options.interrupts,
            crowds=options.writers,
            seed=options.seed,
            out=options.out,
        )
    print(json.dumps({k: v for k, v in found.items() if k != "trials"}, indent=2))
    return 1 if found["wrong"] else 0


def campaign(
    place: Path, *, kills: int, interrupts: int, crowds: int, seed: int, out: Path
) -> dict[str, Any]:
    """So many strikes and crowds; what was seen, which is also written to `out`.

    Args:
      place: an empty folder for the workdirs.
      kills: processes ended by SIGKILL.
      interrupts: processes ended by SIGINT or SIGTERM.
      crowds: times that four processes begin on one workdir at once.
      seed: of the moments.
      out: the JSON file.
    """
    started, trials = time.monotonic(), []
    wholes = {program.name: unbroken(program, place) for program in PROGRAMS}
    while any(left := (kills - _killed(trials), interrupts - _interrupted(trials))):
        trials.append(strike(place, wholes, seed, len(trials), left))
        _tell(trials[-1], out, _summary(trials, seed, started))
    for number in range(crowds):
        program = PROGRAMS[number % 2]
        trials.append(crowd(program, place, wholes[program.name], len(trials)))
        _tell(trials[-1], out, _summary(trials, seed, started))
    return _summary(trials, seed, started)


def unbroken(program: Program, place: Path) -> Whole:
    """Two unbroken runs, which must leave the same; the second finds all compiled."""
    found = []
    for attempt in range(2):
        workdir, before = place / f"unbroken {program.name} {attempt}", _spent()
        code, output = program.begin(workdir).wait()
        if code:
            raise RuntimeError(f"an unbroken {program.name} failed:\n{output}")
        seconds = _spent() - before
        found.append(Whole(content(workdir), files(workdir), seconds))
    if found[0].content != found[1].content:
        raise RuntimeError(f"two unbroken processes of {program.name} differ")
    print(f"unbroken {program.name}: {found[1].seconds:.0f} processor seconds", flush=True)
    return found[1]


def strike(
    place: Path,
    wholes: dict[str, Whole],
    seed: int,
    number: int,
    left: tuple[int, int],
) -> Trial:
    """One workdir, struck at random moments until its command comes to its end."""
    randomly = random.Random(f"{seed}/{number}")
    program = PROGRAMS[number % len(PROGRAMS)]
    whole, workdir = wholes[program.name], place / f"trial {number}"
    trial = Trial(number, program.name)
    rows: dict[Any, set[str]] = {}
    while len(trial.strikes) < MOST_STRIKES:
        due = [left[0] - trial.count("SIGKILL"), left[1] - trial.count(*INTERRUPTS)]
        if max(due) <= 0:
            break
        (kinds,) = randomly.choices([("SIGKILL",), INTERRUPTS], [max(n, 0) for n in due])
        kind, moment = randomly.choice(kinds), randomly.uniform(0, whole.seconds)
        ended = _end(program.begin(workdir), kind, moment, trial)
        trial.strikes.append((kind, round(moment, 2), ended))
        if ended not in ("killed", "said so", "ended before it began", "was done"):
            trial.wrong.append(f"{kind} at {moment:.2f} s: {ended}")
        after = recorded(workdir)
        gone = [where for where, digests in rows.items() if after.get(where) != digests]
        trial.wrong += [f"row lost or changed: {where}" for where in gone]
        rows = after
        if ended == "was done":
            break
    output = _to_the_end(program, workdir, trial)
    if not trial.wrong:
        trial.wrong += different(whole, workdir, output)
    shutil.rmtree(workdir, ignore_errors=True)
    return trial


def crowd(program: Program, place: Path, whole: Whole, number: int) -> Trial:
    """Four processes at once on one workdir: one works, the others are told."""
    workdir = place / f"trial {number}"
    trial = Trial(number, f"{WRITERS} writers: {program.name}")
    for started in [program.begin(workdir) for _ in range(WRITERS)]:
        code, output = started.wait()
        told = "is in use by process" in output or "has just begun to work" in output
        how = "was done" if code == 0 else "refused" if code == 2 and told else None
        if how is None:
            how = _failed(code, output)
            trial.wrong.append(how)
        trial.strikes.append(("none", 0.0, how))
    output = _to_the_end(program, workdir, trial)
    trial.wrong += different(whole, workdir, output)
    shutil.rmtree(workdir, ignore_errors=True)
    return trial


def _end(started: Started, kind: str, moment: float, trial: Trial) -> str:
    """Strikes a process at a moment of its life; how it ended, in words."""
    if started.works_until(moment):
        started.process.send_signal(getattr(signal, kind))
    sent = time.monotonic()
    try:
        code, output = started.wait(LATEST)
    except subprocess.TimeoutExpired:
        started.process.kill()
        started.process.wait()
        return f"swallowed: it went on for {LATEST:.0f} s"
    if code == 0:
        return "was done"  # before, or in that very moment
    if kind == "SIGKILL":
        return "killed" if code == -signal.SIGKILL else _failed(code, output)
    trial.latest = max(trial.latest, round(time.monotonic() - sent, 2))
    if code == 130 and f"interrupted; {GOES_ON}" in output:
        return "said so" if "Traceback" not in output else f"a traceback: {output[-300:]}"
    begun = any(f"{ROOT / package}" in output for package in ("experiments", "jaxpure"))
    if code == -getattr(signal, kind) or ("KeyboardInterrupt" in output and not begun):
        return "ended before it began"  # Python itself was not yet there
    return _failed(code, output)


def _failed(code: int, output: str) -> str:
    return f"exit code {code}: {output[-300:]}"


def _spent() -> float:
    """Processor seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _to_the_end(program: Program, workdir: Path, trial: Trial) -> str:
    code, output = program.begin(workdir).wait()
    if code:
        trial.wrong.append(f"going on failed: {_failed(code, output)}")
    return output


def different(whole: Whole, workdir: Path, output: str) -> Iterator[str]:
    """In what a workdir differs from an unbroken one, in words."""
    found = content(workdir)
    for name in sorted({*whole.content, *found}):
        if whole.content.get(name) != found.get(name):
            yield f"{name} is not what it is unbroken: {output[-300:]}"
    for name in sorted(files(workdir) - whole.files):
        yield f"left behind: {name}"


def recorded(workdir: Path) -> dict[Any, set[str]]:
    """The digests of every row of a run so far, by evaluation, kind and example."""
    return {
        (who, kind, index): {row["digest"] for row in rows}
        for who in ("undefended", "defended")
        if (workdir / "records" / who / "identity.json").exists()
        for kind, found in open_folder(workdir / "records" / who).rows.items()
        for index, rows in found.items()
    }


def content(workdir: Path) -> dict[str, str]:
    """What a finished workdir says, as digests by name, times left out."""
    found = {f"row {where}": ",".join(rows) for where, rows in recorded(workdir).items()}
    for path in sorted(workdir.rglob("*")):
        name = str(path.relative_to(workdir))
        result = path.parent == workdir or path.suffix == ".csv"
        if path.suffix in (".safetensors", ".parquet", ".jsonl", ".csv") and result:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                parts = [name.encode() + arrays[name].tobytes() for name in arrays]
            found[name] = hashlib.sha256(b"".join(parts)).hexdigest()
        elif path.name == "summary.json":
            values = json.loads(path.read_text())
            kept = {k: v for k, v in values.items() if k not in VARYING}
            found[name] = json.dumps(kept, sort_keys=True)
    return found


def files(workdir: Path) -> set[str]:
    """Names of all files; what has a random name or the time in it counts by its kind."""
    return {
        str(path.relative_to(workdir).parent / _kind(path.name))
        for path in workdir.rglob("*")
        if path.is_file()
    }


def _kind(name: str) -> str:
    for kind in ("part-", "events.out.tfevents."):
        if name.startswith(kind):
            return kind
    return name


def _killed(trials: list[Trial]) -> int:
    return sum(trial.count("SIGKILL") for trial in trials)


def _interrupted(trials: list[Trial]) -> int:
    return sum(trial.count(*INTERRUPTS) for trial in trials)


def _summary(trials: list[Trial], seed: int, started: float) -> dict[str, Any]:
    ends = Counter(
        f"{kind}: {how.partition(':')[0]}"
        for trial in trials
        for kind, _, how in trial.strikes
    )
    return {
        "seed": seed,
        "kills": _killed(trials),
        "interrupts": _interrupted(trials),
        "crowds": sum("writers" in trial.program for trial in trials),
        "workdirs": dict(Counter(trial.program for trial in trials)),
        "ends": dict(sorted(ends.items())),
        "wrong": [f"trial {t.number}: {what}" for t in trials for what in t.wrong],
        "latest_interrupt_seconds": max((t.latest for t in trials), default=0.0),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs",
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "trials": [vars(trial) for trial in trials],
    }


def _tell(trial: Trial, out: Path, found: dict[str, Any]) -> None:
    strikes = ", ".join(f"{kind} at {at} s {how}" for kind, at, how in trial.strikes)
    print(
        f"[{found['kills']} kills, {found['interrupts']} interrupts, "
        f"{found['minutes']:.0f} min] trial {trial.number}, {trial.program}: {strikes}; "
        f"{'; '.join(trial.wrong) or 'as unbroken'}",
        flush=True,
    )
    out.write_text(json.dumps(found, indent=2) + "\n")


def _share_compiled_programs() -> None:
    """Every process of the campaign takes compiled programs from one place."""
    place = Path(tempfile.gettempdir()) / "jaxpure-reliability-compiled"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(place))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


if __name__ == "__main__":
    sys.exit(main())
