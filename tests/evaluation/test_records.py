"""Records: bit for bit round trips, whose they are, and what damage costs."""

import json
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from etils import epath

from jaxpure.evaluation import records
from jaxpure.evaluation.identity import Identity
from jaxpure.files import StorageError, write_atomically

EXAMPLES = {index: f"example {index}" for index in range(2000)}
OURS = Identity({"attack": "a", "key": "k"}, EXAMPLES)


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
        "lost": float("nan"),
        "broken_at": -1,
    }


def append(folder, *indices, identity=OURS):
    records.append(folder, [row(i) for i in indices], identity)


def the_part(folder):
    (path,) = folder.glob("part-*")
    return path


def test_round_trip_is_bit_for_bit(folder):
    append(folder, 7, 3)
    append(folder, 12)
    found = records.read(folder, OURS)
    assert set(found) == {3, 7, 12}
    for index, got in found.items():
        assert set(got) == set(row(index))
        for name, value in row(index).items():
            if isinstance(value, np.ndarray):
                assert got[name].dtype == value.dtype
                assert got[name].tobytes() == value.tobytes()
            else:
                assert got[name] == value or (got[name] != got[name] and value != value)


def test_nothing_is_read_of_nothing(folder):
    assert records.read(folder, OURS) == {}
    append(folder)
    assert not folder.exists()


def test_a_file_cut_short_loses_its_last_row_alone(folder):
    append(folder, 0, 1, 2)
    content = the_part(folder).read_bytes()
    last = content.rstrip(b"\n").rindex(b"\n") + 1
    for length in range(last + 1, len(content) - 1, 7):
        the_part(folder).write_bytes(content[:length])
        assert set(records.read(folder, OURS)) == {0, 1}
    the_part(folder).write_bytes(content[:-1])  # only the line's end is missing
    assert set(records.read(folder, OURS)) == {0, 1, 2}


def test_processes_write_files_of_their_own(folder):
    append(folder, 0)
    with mock.patch("jax.process_index", return_value=1):
        append(folder, 1)
        append(folder, 3)
    names = sorted(p.name.rsplit("-", 1)[0] for p in folder.iterdir())
    assert names == ["part-000-000000", "part-001-000000", "part-001-000001"]
    assert set(records.read(folder, OURS)) == {0, 1, 3}


FOREIGN = {
    "binary bytes": b"\x00\xff\xfe\x80" * 50 + b"\n",
    "a number": b"5\n",
    "a list": b"[]\n",
    "nothing": b"null\n",
    "nested brackets": b"[" * 100_000 + b"\n",
    "no index": b'{"digest": "0"}\n',
    "an index that is none": b'{"index": "7", "digest": "0"}\n',
    "arrays that are none": b'{"index": 7, "digest": "0", "image": {"dtype": "O"}}\n',
    "empty lines": b"\n\n\n",
}


@pytest.mark.parametrize("what", FOREIGN)
def test_damaged_lines_are_done_again_and_cost_no_other_row(folder, what):
    append(folder, 0, 1)
    lines = the_part(folder).read_bytes().splitlines(keepends=True)
    the_part(folder).write_bytes(lines[0] + FOREIGN[what] + lines[1])
    (folder / "part-000-000009-aaaaaaaa.jsonl").write_bytes(FOREIGN[what])
    assert set(records.read(folder, OURS)) == {0, 1}
    append(folder, 2)
    assert set(records.read(folder, OURS)) == {0, 1, 2}


def test_foreign_names_and_folders_in_place_of_files_are_ignored(folder):
    append(folder, 0)
    for name in ("part-x.jsonl", "part-000.jsonl", "notes.txt", "part-000-zz-1.jsonl"):
        (folder / name).write_text("hello\n")
    (folder / "part-000-000007-abcdabcd.jsonl").mkdir()
    append(folder, 1)
    assert set(records.read(folder, OURS)) == {0, 1}


@pytest.mark.parametrize("name", ["image", "logits", "count", "index", "broken_at"])
def test_an_altered_row_is_refused(folder, name):
    append(folder, 4)
    content = json.loads(the_part(folder).read_text())
    other = records._encode(row(5)[name]) if name != "broken_at" else 3
    content[name] = other if name != "logits" else {**content[name], "shape": [2, 2]}
    the_part(folder).write_text(json.dumps(content) + "\n")
    with pytest.raises(records.RecordError, match=r"line 1: .* was altered"):
        records.read(folder, OURS)


def test_rows_of_another_evaluation_are_refused(folder):
    append(folder, 4, identity=Identity({"attack": "b", "key": "k"}, EXAMPLES))
    with pytest.raises(
        records.RecordError, match="example 4 belongs to another evaluation"
    ):
        records.read(folder, OURS)


def test_rows_of_an_example_that_changed_are_refused(folder):
    append(folder, 4)
    changed = Identity(OURS.parts, {**EXAMPLES, 4: "another image"})
    with pytest.raises(
        records.RecordError, match="example 4 of the data set is not what it"
    ):
        records.read(folder, changed)


def test_a_folder_is_claimed_once_and_says_in_what_another_differs(folder):
    records.claim(folder, OURS, {"attack": "pgd"})
    records.claim(folder, OURS, {"attack": "pgd"})
    assert records.read_identity(folder)["about"] == {"attack": "pgd"}
    assert records.read_examples(folder) == EXAMPLES
    other = Identity({"attack": "b", "key": "l"}, EXAMPLES)
    with pytest.raises(records.RecordError, match=r"differ in attack, key\)"):
        records.claim(folder, other, {})


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\x00", b'{"parts": 3}'])
def test_a_damaged_identity_is_told_in_a_line(folder, content):
    records.claim(folder, OURS, {})
    (folder / records.IDENTITY).write_bytes(content)
    with pytest.raises(records.RecordError, match="identity.json is missing or damaged"):
        records.claim(folder, OURS, {})


def test_records_without_an_identity_are_not_adopted(folder):
    append(folder / "stages" / "0-pgd" / "attacked", 0)
    with pytest.raises(
        records.RecordError, match="no identity.json to tell whose they are"
    ):
        records.claim(folder, OURS, {})


WRITER = """
import sys
from etils import epath
from evaluation.test_records import OURS, row
from jaxpure.evaluation import records
start = int(sys.argv[2])
for i in range(start, start + 100):
    records.append(epath.Path(sys.argv[1]), [row(i)], OURS)
"""


@pytest.mark.parametrize("writers", [pytest.param(4, marks=pytest.mark.long), 2])
def test_writers_without_a_lock_lose_no_row(folder, writers):
    """All begin with the same number at the same time."""
    tests = str(epath.Path(__file__).parent.parent)
    program = [sys.executable, "-c", WRITER, str(folder)]
    environment = {"PYTHONPATH": ":".join([tests, *sys.path]), "JAX_PLATFORMS": "cpu"}
    running = [
        subprocess.Popen([*program, str(100 * i)], env=environment) for i in range(writers)
    ]
    assert [process.wait(timeout=300) for process in running] == [0] * writers
    assert set(records.read(folder, OURS)) == set(range(100 * writers))


# What a disk refuses.


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "records").write_text("a file")
    with pytest.raises(StorageError, match="records.* a file is where a folder should be"):
        append(epath.Path(tmp_path) / "records", 0)


@pytest.mark.parametrize(
    ("number", "message"),
    [(28, "No space left.*make room"), (30, "Read-only.*written to"), (13, "permissions")],
)
def test_what_a_disk_refuses_is_one_sentence_and_leaves_nothing(folder, number, message):
    import os

    append(folder, 0)
    error = OSError(number, os.strerror(number))
    with (
        mock.patch.object(type(folder), "replace", side_effect=error),
        pytest.raises(StorageError, match=message) as raised,
    ):
        append(folder, 1)
    assert str(folder) in str(raised.value) and "\n" not in str(raised.value)
    assert set(records.read(folder, OURS)) == {0}
    assert [p.name for p in folder.iterdir()] == [the_part(folder).name]


FULL = """
import resource, signal, sys
from etils import epath
from jaxpure.files import StorageError, write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(sys.argv[1], b"x" * 100_000)
except StorageError as error:
    print(error)
"""


def test_a_file_that_may_not_grow_is_one_sentence(tmp_path):
    path = tmp_path / "large"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)],
        env={"PYTHONPATH": ":".join(sys.path), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith(str(path)) and "raise the limit" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gs://bucket/run", "driver for this kind of place is not installed"),
        ("foo://bucket/run", "no kind of place that begins with foo://"),
    ],
)
def test_buckets_without_a_driver_are_told(path, message):
    try:
        import gcsfs  # noqa: F401

        path = path.replace("gs://", "s3://")
    except ImportError:
        pass
    with pytest.raises(StorageError, match=message):
        write_atomically(path, b"")
