"""Ctrl-C and SIGTERM end a program at once, whatever it is doing.

Python runs its signal handlers between two bytecodes of the main thread: during a
compilation that is minutes late, and an exception raised inside a callback of JAX is
dropped. So no exception is raised here. The interpreter writes the signal's number into a
pipe the moment that it arrives, and a thread that waits at the other end says how to go on
and ends the process. Nothing is lost by that: every file of a run takes its name once all
of it is written (`jaxpure.files`), and what else lies there is passed over.
"""

import contextlib
import os
import signal
import threading

EXIT_CODE = 130  # what shells say of a program that was interrupted
SIGNALS = (signal.SIGINT, signal.SIGTERM)
GOES_ON = "the same command goes on from here"

_message = f"interrupted; {GOES_ON}"  # also during imports, when no program has said more


def say(what: str) -> None:
    """Sets what is said after "interrupted": how to go on."""
    global _message
    _message = f"interrupted; {what}" if what else "interrupted"


def install() -> None:
    """From now on an interrupt ends this process; called in the main thread, once."""
    if threading.current_thread() is not threading.main_thread():
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, _nothing)
    threading.Thread(target=_wait, args=(reader,), name="interrupts", daemon=True).start()


def _nothing(number: int, frame: object) -> None:
    """What the main thread does about a signal: the waiting thread does the rest."""


def _wait(reader: int) -> None:
    while True:
        for number in os.read(reader, 16):
            if number in SIGNALS:
                _end()


def _end() -> None:
    """Says so and ends; flushes nothing, since the main thread may hold a stream's lock."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{_message}\n".encode())
    os._exit(EXIT_CODE)
