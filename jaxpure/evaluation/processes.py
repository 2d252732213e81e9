"""Which process of a run this is, and of how many.

JAX knows it where its distributed runtime was started. Processes that work on their own
devices and meet in a folder alone need no such runtime: they say it here, once, before
any work.
"""

from typing import NamedTuple

import jax


class Process(NamedTuple):
    """A process of a run.

    Attributes:
      index: its number, from 0 on.
      count: how many there are.
    """

    index: int
    count: int


_said: Process | None = None


def say(index: int, count: int) -> None:
    """From now on this process is number `index` of `count`, whatever JAX says."""
    global _said
    _said = Process(index, count)


def ours() -> Process:
    """This process: as it was said, else as JAX says."""
    return _said or Process(jax.process_index(), jax.process_count())
