"""A disk that refuses amid a command: one line, and the same command goes on."""

import errno
import os
from unittest import mock

import pytest
from etils import epath

from benchmarks import reliability
from experiments import run, train
from experiments.paper import __main__ as paper

COMMANDS = {
    "run": (run.command, reliability.RUN_ARGUMENTS),
    "train": (train.command, reliability.TRAIN_ARGUMENTS),
    "paper": (paper.command, reliability.PAPER_ARGUMENTS),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("train", marks=pytest.mark.slow),
        pytest.param("run", marks=pytest.mark.long),
        pytest.param("paper", marks=pytest.mark.long),
    ],
)
def test_a_full_disk_ends_a_command_in_a_line_and_costs_nothing(name, tmp_path, capsys):
    command, arguments = COMMANDS[name]
    arguments = [a for a in arguments if not a.startswith("--cpu_devices")]
    kind = type(epath.Path(tmp_path))
    replace, writes = kind.replace, []

    def call(folder, room):
        """The command's exit code on a disk that takes so many files."""
        writes.clear()

        def refuse(self, target):
            if "lock-" not in str(target):  # which is written as time goes by
                writes.append(target)
            if len(writes) > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return replace(self, target)

        with mock.patch.object(kind, "replace", refuse):
            return command(
                [*arguments, "--cpu_devices=0", f"--workdir={tmp_path / folder}"]
            )

    assert call("whole", 10_000) == 0
    count = len(writes)
    assert count > 4
    for room in (1, count // 2):
        capsys.readouterr()
        assert call("full", room) == 2
        errors = [
            line
            for line in capsys.readouterr().err.splitlines()
            if line.startswith("error: ")
        ]
        assert len(errors) == 1 and "make room" in errors[0]
    assert call("full", 10_000) == 0
    whole, full = (reliability.content(tmp_path / name) for name in ("whole", "full"))
    assert full == whole
    assert not list((tmp_path / "full").rglob(".*.part"))
