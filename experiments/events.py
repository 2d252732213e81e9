"""TensorBoard events: a copy of a training's records, where tensorboardX is installed.

What counts is in loss.jsonl and validation.csv. A run that goes on begins its events anew
from these, so that each step is there once, whenever the run was killed.
"""

import importlib
import os
import time
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxpure.files import storage_errors

FOLDER = "events"
BUCKETS = ("gs://", "s3://")  # that tensorboardX writes to, given their drivers


class Events:
    """The events of a run: each `add` is on the disk when it returns, or nowhere.

    Attributes:
      folder: where their one file lies.
    """

    def __init__(self, folder: epath.Path, writer: Any):
        self.folder = folder
        self._writer = writer

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds scalars of a step, by their tags.

        Raises:
          StorageError: they cannot be written there.
        """
        proto = "tensorboardX.proto"  # its modules are made when they are imported
        Event = importlib.import_module(f"{proto}.event_pb2").Event
        Summary = importlib.import_module(f"{proto}.summary_pb2").Summary
        found = [Summary.Value(tag=tag, simple_value=x) for tag, x in values.items()]
        summary = Summary(value=found)
        with storage_errors(self.folder):
            self._writer.write_event(
                Event(step=step, wall_time=time.time(), summary=summary)
            )
            self._writer.flush()


def begin(workdir: epath.Path) -> Events | None:
    """Empty events in place of a workdir's own; None, with a line why, if there are none.

    The writer is tensorboardX's without the thread and queue of its SummaryWriter, which
    wait for ever once a disk has refused an event.
    """
    try:
        from tensorboardX.event_file_writer import EventsWriter
    except ImportError:
        print("no TensorBoard events: pip install -e '.[tensorboard]' to have them")
        return None
    folder = workdir / FOLDER
    place = os.fspath(folder)
    if "://" in place and not place.startswith(BUCKETS):
        print(f"no TensorBoard events: tensorboardX cannot write to {place}")
        return None
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
    try:
        return Events(folder, EventsWriter(f"{place}/events"))
    except Exception as error:  # each bucket's driver has its own
        print(f"no TensorBoard events: {error}")
        return None
