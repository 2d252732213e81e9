"""Several processes at one run: they meet in the workdir, and end together.

Each works on its own devices at its share of the examples and writes its own records; all
that passes between them is what their locks (`jaxpure.evaluation.lock`) say. Process 0
claims the workdir, watches the others, and writes the results when all are done; the
others watch process 0. A process whose lock is no longer seen to has ended, and then all
end, in one sentence: the same commands go on from there.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath

from experiments.arguments import ArgumentError, Arguments, Flag
from jaxpure.errors import UserError
from jaxpure.evaluation import lock, processes
from jaxpure.files import forget_listings

FLAGS = (
    Flag("num_processes", "so many share the run, each started by itself", int, least=1),
    Flag("process_id", "which of them this one is, from 0 on", int, least=0),
    Flag("coordinator", "HOST:PORT at which they first start jax.distributed together"),
    Flag("distributed", "lets jax.distributed tell the processes (TPU pods)", bool, False),
)
LOOK_SECONDS = 2.0  # between two looks at the others' locks
COMING_SECONDS = 300.0  # in which every process must have begun
CLAIMED, DONE, ENDED = "claimed", "done", "ended"  # what a lock says
GOES_ON = "the same commands go on from here"
EXIT_CODE = 2  # as of what else a user can mend


class ProcessesError(UserError):
    """The processes of a run do not find one another."""


def begin(arguments: Arguments) -> None:
    """Learns which process this is, before anything touches a device.

    Plain processes are told by their flags. Else JAX's distributed runtime is started; on
    a TPU it stays, on other devices it has done its part once the devices are known, and
    would only end all processes in a stack trace where one dies.

    Raises:
      ArgumentError: the flags do not fit together.
      ProcessesError: the runtime knows of no cluster here, or does not reach it.
    """
    count, index, at = (
        getattr(arguments, name) for name in ("num_processes", "process_id", "coordinator")
    )
    if (count is None) != (index is None) or (at is not None and count is None):
        raise ArgumentError(
            "--num_processes=N and --process_id=I belong together, --coordinator to both"
        )
    if count is not None and not index < count:
        raise ArgumentError(f"--process_id={index}, expected 0 to {count - 1}, of {count}")
    if arguments.distributed and count is not None and at is None:
        raise ArgumentError(
            "--distributed finds the processes by itself; leave out --num_processes and "
            "--process_id, or give --coordinator=HOST:PORT too"
        )
    if at is not None or arguments.distributed:
        _start_runtime(at, count, index)
    if count is not None:
        processes.say(index, count)


def _start_runtime(at: str | None, count: int | None, index: int | None) -> None:
    try:
        jax.distributed.initialize(at, count, index)
        if jax.default_backend() != "tpu":
            jax.distributed.shutdown()
    except (ValueError, RuntimeError) as error:
        raise ProcessesError(
            f"jax.distributed does not start ({error}); on a TPU pod start the command on "
            "all hosts, elsewhere give each process --num_processes=N and --process_id=I"
        ) from error


@contextlib.contextmanager
def together(workdir: epath.Path, ours: lock.Lock) -> Iterator["Siblings"]:
    """The other processes of this run, watched for as long as this one works.

    Args:
      workdir: where all of them work.
      ours: the lock that this process holds there.
    """
    siblings = Siblings(workdir, ours)
    if siblings.watched:
        threading.Thread(target=siblings.watch, name="siblings", daemon=True).start()
    try:
        yield siblings
    finally:
        siblings.left.set()


class Siblings:
    """What is known of the other processes; of one process alone, nothing to wait for."""

    def __init__(self, workdir: epath.Path, ours: lock.Lock):
        self.workdir, self.ours = workdir, ours
        self.index, self.count = processes.ours()
        others = range(1, self.count) if self.index == 0 else (0,)
        self.watched = [_Sibling(workdir, number) for number in others]
        self.left = threading.Event()

    def wait_for_claim(self) -> None:
        """Until process 0 has written down what the workdir's run is."""
        if self.index:
            self._wait(lambda: self.watched[0].says in (CLAIMED, DONE))

    def claimed(self) -> None:
        """This process knows that the workdir is its run's."""
        self._say(CLAIMED)

    def wait_for_the_end(self) -> None:
        """All records of this process are written; waits until the run's are.

        Process 0 waits for the other processes, and the others for its results.
        """
        if not self.watched:
            return
        self._say(DONE)
        print("this process is done, and waits for the others", flush=True)
        if self.index:
            self._wait(self._is_finished)
        else:
            self._wait(lambda: all(one.says == DONE for one in self.watched))
            forget_listings(self.workdir)

    def watch(self) -> None:
        """Looks after the others; ends this process when one of them has ended."""
        began = time.monotonic()
        while not self.left.wait(LOOK_SECONDS):
            for one in self.watched:
                one.look()
            for one in self.watched:
                if wrong := self._wrong(one, time.monotonic() - began):
                    self._end(wrong)

    def _wrong(self, one: "_Sibling", seconds: float) -> str | None:
        """What keeps this process from going on, in a sentence; None if nothing does."""
        who = f"process {one.number} of {self.count}"
        if not one.has_come:
            if seconds < COMING_SECONDS:
                return None
            return f"{who} has not begun within {COMING_SECONDS:.0f} s; start all of them"
        of, says = one.content["of"], one.says
        if of != self.count:
            return (
                f"{who} was told that there are {of}; stop all, and give each the same "
                "--num_processes"
            )
        if says.startswith(ENDED):
            return says.removeprefix(ENDED).strip()
        if not one.is_gone or self._can_do_without(one):
            return None
        where = f"host {one.content['host']}, pid {one.content['pid']}"
        return f"{who} ({where}) has ended; {GOES_ON}"

    def _can_do_without(self, one: "_Sibling") -> bool:
        """Whether it is gone because it has done its part."""
        return self._is_finished() if one.number == 0 else one.says == DONE

    def _is_finished(self) -> bool:
        return (self.workdir / "summary.json").exists()

    def _say(self, word: str) -> None:
        if self.watched:
            self.ours.write(word)

    def _say_at_last(self, word: str) -> None:
        with contextlib.suppress(Exception):
            self.ours.write(word)

    def _wait(self, until: Callable[[], bool]) -> None:
        """Waits; the watching thread ends the process where that is in vain."""
        while not until():
            time.sleep(LOOK_SECONDS / 4)

    def _end(self, sentence: str) -> None:
        """Says so, here and in the lock, and ends, whatever the main thread is doing."""
        with contextlib.suppress(OSError):
            os.write(2, f"\nerror: {sentence}\n".encode())
        # A bucket may be what is out of reach: it is not waited for.
        word = threading.Thread(
            target=self._say_at_last, args=(f"{ENDED} {sentence}",), daemon=True
        )
        word.start()
        word.join(2 * LOOK_SECONDS)
        if jax.distributed.is_initialized():  # it takes the others down with process 0
            time.sleep(2 * LOOK_SECONDS)
        os._exit(EXIT_CODE)


class _Sibling:
    """One other process, by what its lock has held since this one looks."""

    def __init__(self, workdir: epath.Path, number: int):
        self.workdir, self.number = workdir, number
        self.content: dict[str, Any] = lock.read(workdir, number) or {}
        self.changed = time.monotonic()
        self.has_come = False  # what a dead process left never changes

    def look(self) -> None:
        found = lock.read(self.workdir, self.number)
        if found is not None and found != self.content:
            self.content, self.changed, self.has_come = found, time.monotonic(), True

    @property
    def says(self) -> str:
        """Its word to the others."""
        return self.content["says"] if self.has_come else ""

    @property
    def is_gone(self) -> bool:
        return time.monotonic() - self.changed > lock.STALE_SECONDS
