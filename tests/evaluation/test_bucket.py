"""A bucket as the folder: the same records, two writers at once, kill and resume."""

import threading
from unittest import mock

import numpy as np
import pytest
from etils import epath
from evaluation import bucket, toys

from jaxpure.evaluation import lanes, lock, records
from jaxpure.evaluation.identity import Identity
from jaxpure.evaluation.verify import verify

DEFENSE, ATTACK, EXAMPLES = toys.problem(9, num_steps=3, sigma=0.02)
FOLDER = "gs://bucket/runs/one"


@pytest.fixture
def store():
    with bucket.in_memory() as found:
        yield found


def test_an_evaluation_in_a_bucket_is_the_one_in_a_folder(store, tmp_path):
    here = toys.run(tmp_path / "run", DEFENSE, ATTACK, EXAMPLES)
    there = toys.run(FOLDER, DEFENSE, ATTACK, EXAMPLES)
    toys.assert_same(here, there)
    assert any("stages/0-pgd/judged/part-" in name for name in store.store)
    assert not any(name.endswith(".part") for name in store.store)
    assert all(finding.ok for finding in verify(epath.Path(FOLDER)))
    files = dict(store.store)
    toys.assert_same(toys.run(FOLDER, DEFENSE, ATTACK, EXAMPLES), here)
    assert set(store.store) == set(files)  # nothing was done again


def test_a_killed_one_goes_on(store, tmp_path):
    real, calls = lanes.judge, []

    def killed(*args, **kwargs):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with mock.patch.object(lanes, "judge", killed), pytest.raises(KeyboardInterrupt):
        toys.run(FOLDER, DEFENSE, ATTACK, EXAMPLES)
    assert any("clean/part-" in name for name in store.store)
    whole = toys.run(tmp_path / "run", DEFENSE, ATTACK, EXAMPLES)
    toys.assert_same(toys.run(FOLDER, DEFENSE, ATTACK, EXAMPLES), whole)


def test_rows_of_writers_at_once_do_not_collide(store):
    identity = Identity({"defense": "one"}, {i: str(i) for i in range(80)})
    folder = epath.Path(FOLDER) / "clean"

    def write(writer):
        for i in range(writer, 80, 4):
            row = {"index": i, "logits": np.full((2, 3), i, np.float32)}
            records.append(folder, [row], identity)

    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = records.read(folder, identity)
    assert sorted(found) == list(range(80))
    assert all((row["logits"] == i).all() for i, row in found.items())


def test_another_evaluation_is_refused(store):
    toys.run(FOLDER, DEFENSE, ATTACK, EXAMPLES)
    with pytest.raises(records.RecordError, match="they differ in"):
        toys.run(FOLDER, DEFENSE, ATTACK, EXAMPLES, policy="fresh")


def test_a_second_writer_is_told(store, monkeypatch):
    monkeypatch.setattr(lock, "SEEN_SECONDS", 0.05)
    with lock.held(epath.Path(FOLDER)), monkeypatch.context() as elsewhere:
        elsewhere.setattr(lock.socket, "gethostname", lambda: "elsewhere")
        with pytest.raises(lock.LockedError, match="is in use by process"):
            lock.held(epath.Path(FOLDER)).__enter__()
