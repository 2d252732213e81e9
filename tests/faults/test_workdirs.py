"""Folders that something else damaged: mended where the records say how, else refused.

A finished evaluation's folder is damaged in one way, and the same call made again: either
it ends with the very same result, or it says in one sentence what it cannot go on with. In
no case are other numbers given.
"""

import errno
import json
import os
import shutil
from unittest import mock

import pytest
from etils import epath
from evaluation import toys

from experiments import run as run_command
from jaxpure.errors import UserError
from jaxpure.evaluation.folder import open_folder
from jaxpure.evaluation.verify import verify

PROBLEM = toys.problem(5, num_steps=3, sigma=0.02)
STAGE = "stages/0-pgd"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished evaluation's folder, and its result."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    result = toys.run(folder, *PROBLEM)
    assert list((folder / STAGE / "judged").glob("part-*"))  # some stood to be attacked
    return folder, result


def part(folder, kind):
    return sorted((folder / kind).glob("part-*"))[0]


def added(content, kind):
    """A line between a part file's others."""

    def damage(folder):
        path = part(folder, kind)
        first, *others = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(first + content + b"".join(others))

    return damage


def instead(content, kind):
    """A part file of something else."""
    return lambda folder: part(folder, kind).write_bytes(content)


def cut(kind, share):
    def damage(folder):
        content = part(folder, kind).read_bytes()
        part(folder, kind).write_bytes(content[: int(len(content) * share)])

    return damage


def begun_late(folder):
    """A part file whose beginning is missing."""
    path = part(folder, "clean")
    path.write_bytes(path.read_bytes()[100:])


def foreign_names(folder):
    for name in ("part-x.jsonl", "part-000-1.jsonl", "notes.txt", ".hidden", "part-000"):
        (folder / "clean" / name).write_bytes(b"\x00hello")


def folder_as_part(folder):
    path = part(folder, "clean")
    path.unlink()
    path.mkdir()


def written_twice(folder):
    path = part(folder, f"{STAGE}/attacked")
    shutil.copy(path, path.with_name("part-001-000000-abcdabcd.jsonl"))


def unfinished_writes(folder):
    for place in (folder, folder / "clean", folder / STAGE / "judged"):
        (place / ".part-000-000009-aaaaaaaa.jsonl.12345678.part").write_bytes(b'{"index"')


def removed(*names):
    def damage(folder):
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def put(name, content):
    def damage(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return damage


def folder_as(name):
    def damage(folder):
        path = folder / name
        path.unlink(missing_ok=True)
        path.mkdir(parents=True)

    return damage


def folder_as_states(folder):
    """Where there is work left, so that they are looked at."""
    removed(f"{STAGE}/attacked", f"{STAGE}/judged")(folder)
    folder_as(f"{STAGE}/under_way-000.safetensors")(folder)


def file_as(name):
    def damage(folder):
        shutil.rmtree(folder / name)
        (folder / name).write_bytes(b"a file")

    return damage


def altered(folder):
    path = part(folder, "clean")
    first, *others = path.read_text().splitlines()
    row = json.loads(first)
    row["label"] = (row["label"] + 1) % 5
    path.write_text("\n".join([json.dumps(row), *others]) + "\n")


def line_ends(folder):
    path = part(folder, "clean")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def byte_order_mark(folder):
    path = part(folder, "clean")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def links_in_a_circle(folder):
    (folder / "clean" / "part-000-000009-aaaaaaaa.jsonl").symlink_to(
        "part-000-000009-aaaaaaaa.jsonl"
    )


MENDED = {
    "binary bytes between rows": added(b"\x00\xff\xfe\x80\n", "clean"),
    "a number between rows": added(b"5\n", "clean"),
    "a list between rows": added(b"[]\n", f"{STAGE}/attacked"),
    "brackets between rows": added(b"[" * 100_000 + b"\n", f"{STAGE}/judged"),
    "binary bytes instead of rows": instead(b"\x00\xff" * 1000, f"{STAGE}/attacked"),
    "an empty part": instead(b"", f"{STAGE}/judged"),
    "half a clean row": cut("clean", 0.3),
    "half of what was found": cut(f"{STAGE}/attacked", 0.5),
    "half of what was judged": cut(f"{STAGE}/judged", 0.7),
    "a part without its beginning": begun_late,
    "foreign names": foreign_names,
    "a folder in place of a part": folder_as_part,
    "a part written twice": written_twice,
    "unfinished writes": unfinished_writes,
    "no clean rows": removed("clean"),
    "no stages": removed("stages"),
    "no examples": removed("examples-000.json"),
    "damaged examples": put("examples-000.json", b"[[["),
    "a damaged lock": put("lock-000.json", b"\x00"),
    "a lock of nobody": put("lock-000.json", b'{"pid": 0, "host": "x", "since": 0}'),
    "a damaged state under way": put(f"{STAGE}/under_way-000.safetensors", b"\x00" * 50),
    "other line ends": line_ends,
    "a byte order mark": byte_order_mark,
}
REFUSED = {
    "no identity": (removed("identity.json"), "identity.json"),
    "half an identity": (put("identity.json", b'{"parts": {"a'), "identity.json"),
    "an identity of brackets": (put("identity.json", b"[" * 100_000), "identity.json"),
    "a folder as identity": (folder_as("identity.json"), "identity.json"),
    "an altered row": (altered, "was altered"),
    "a file as the clean folder": (file_as("clean"), "a file is where a folder should be"),
    "a file as the stages": (file_as("stages"), "a file is where a folder should be"),
    "a folder as the lock": (folder_as("lock-000.json"), "lock-000.json"),
    "a folder as the examples": (folder_as("examples-000.json"), "examples-000.json"),
    "a folder as the states": (folder_as_states, "under_way-000.*a folder is where"),
    "links in a circle": (links_in_a_circle, "part-000-000009"),
}


@pytest.fixture
def copied(whole, tmp_path):
    return shutil.copytree(whole[0], tmp_path / "run")


@pytest.mark.parametrize("what", MENDED)
def test_what_can_be_done_again_is(whole, copied, what):
    MENDED[what](copied)
    toys.assert_same(toys.run(copied, *PROBLEM), whole[1])
    toys.assert_same(open_folder(copied).result, whole[1])
    assert all(finding.ok for finding in verify(copied) if "line" not in str(finding))


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_is_told_in_a_sentence(copied, what):
    damage, named = REFUSED[what]
    damage(copied)
    with pytest.raises(UserError, match=named) as raised:
        toys.run(copied, *PROBLEM)
    assert "\n" not in str(raised.value)


FAILURES = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO)


@pytest.mark.parametrize("number", FAILURES, ids=errno.errorcode.get)
@pytest.mark.parametrize("after", [0, 3, 6])
def test_a_disk_that_refuses_costs_no_row(whole, tmp_path, number, after):
    """At the first write, in the middle and later; the same call goes on."""
    folder, replace, writes = tmp_path / "run", type(epath.Path(tmp_path)).replace, []

    def refuse(self, target):
        writes.append(target)
        if len(writes) > after:
            raise OSError(number, os.strerror(number))
        return replace(self, target)

    with (
        mock.patch.object(type(epath.Path(tmp_path)), "replace", refuse),
        pytest.raises(UserError, match=os.strerror(number)) as raised,
    ):
        toys.run(folder, *PROBLEM)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.rglob(".*.part"))
    toys.assert_same(toys.run(folder, *PROBLEM), whole[1])


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\x00\xff", b"[]", b"1e999", b"nan", b"-5"]
)
def test_a_damaged_time_is_only_a_time(tmp_path, content):
    (tmp_path / "seconds.txt").write_bytes(content)
    with run_command._Clock(epath.Path(tmp_path)) as clock:
        clock.tick(every=0)
    assert 0 <= clock.seconds < 60
    assert 0 <= float((tmp_path / "seconds.txt").read_text()) < 60
