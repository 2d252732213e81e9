"""Records: bit for bit round trips, and what a file that was cut short loses."""

from unittest import mock

import numpy as np
import pytest
from etils import epath

from jaxpure.evaluation import records


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path) / "records"


def row(index):
    random = np.random.default_rng(index)
    return {
        "index": index,
        "image": random.uniform(size=(4, 3, 1)).astype(np.float32),
        "logits": np.array([1.5, np.nan, -np.inf, np.inf], np.float32),
        "count": np.int32(index * 3),
        "broken_at": -1,
    }


def test_round_trip_is_bit_for_bit(folder):
    records.append(folder, [row(7), row(3)])
    records.append(folder, [row(12)])
    found = records.read(folder)
    assert set(found) == {3, 7, 12}
    for index, got in found.items():
        for name, value in row(index).items():
            if isinstance(value, np.ndarray):
                assert got[name].dtype == value.dtype
                assert got[name].tobytes() == value.tobytes()
            else:
                assert got[name] == value
    assert [p.name for p in sorted(folder.iterdir())] == [
        "part-000-000000.jsonl",
        "part-000-000001.jsonl",
    ]


def test_nothing_is_read_of_nothing(folder):
    assert records.read(folder) == {}
    records.append(folder, [])
    assert not folder.exists()


def test_a_file_cut_short_loses_its_last_row_alone(folder):
    records.append(folder, [row(0), row(1), row(2)])
    (path,) = folder.glob("part-*")
    content = path.read_bytes()
    last = content.rstrip(b"\n").rindex(b"\n") + 1
    for length in range(last + 1, len(content) - 1):
        path.write_bytes(content[:length])
        assert set(records.read(folder)) == {0, 1}
    path.write_bytes(content[:-1])  # only the line's end is missing: the row is whole
    assert set(records.read(folder)) == {0, 1, 2}


def test_rows_done_again_take_the_next_number(folder):
    records.append(folder, [row(0), row(1)])
    (path,) = folder.glob("part-*")
    path.write_bytes(path.read_bytes()[:-9])
    records.append(folder, [row(1)])
    assert set(records.read(folder)) == {0, 1}
    assert len(list(folder.glob("part-*"))) == 2


def test_processes_write_files_of_their_own(folder):
    records.append(folder, [row(0)])
    with mock.patch("jax.process_index", return_value=1):
        records.append(folder, [row(1)])
        records.append(folder, [row(3)])
    names = sorted(p.name for p in folder.iterdir())
    assert names == [
        "part-000-000000.jsonl",
        "part-001-000000.jsonl",
        "part-001-000001.jsonl",
    ]
    assert set(records.read(folder)) == {0, 1, 3}


def test_a_failed_write_leaves_no_part(folder):
    with (
        mock.patch.object(type(folder), "replace", side_effect=OSError("disk is full")),
        pytest.raises(OSError, match="disk is full"),
    ):
        records.append(folder, [row(0)])
    assert records.read(folder) == {}
