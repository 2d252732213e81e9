"""A run's log: what it keeps when a run goes on, and when a file was damaged."""

import jax.numpy as jnp
import pytest
from etils import epath

from experiments.training_log import TrainingLog


@pytest.fixture
def log(tmp_path):
    return TrainingLog(epath.Path(tmp_path), batch_size=4)


def write(log, *steps):
    for step in steps:
        log.add(jnp.float32(step / 10))
        log.write(step)
        log.validation(step, {"accuracy": step / 100})


def steps(folder):
    losses = [line.split()[1] for line in (folder / "loss.jsonl").read_text().splitlines()]
    rows = [line.split(",")[0] for line in (folder / "validation.csv").read_text().split()]
    assert rows[0] == "step"
    return [int(text.strip(",")) for text in losses], [int(text) for text in rows[1:]]


def test_steps_that_are_taken_again_are_written_once(log, tmp_path):
    write(log, 10, 20, 30)
    write(log, 20)
    assert steps(tmp_path) == ([10, 20], [10, 20])


DAMAGES = [
    b"",
    b"\x00\xff\xfe",
    b"5\n",
    b"[]\n",
    b"[" * 100_000,
    b'{"step": "x"}\n',
    b"\n,,\n",
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: repr(damage[:12]))
def test_a_damaged_log_stops_no_training(log, tmp_path, damage):
    write(log, 10, 20)
    for name in ("loss.jsonl", "validation.csv"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes() + damage)
    write(log, 30)
    assert steps(tmp_path) == ([10, 20, 30], [10, 20, 30])
    for name in ("loss.jsonl", "validation.csv"):
        (tmp_path / name).write_bytes(damage)
    write(log, 40)
    assert steps(tmp_path) == ([40], [40])
