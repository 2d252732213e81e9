"""The campaign of kills and interrupts: that it sees its faults, and a short form."""

import shutil

import pytest
from evaluation import toys

from benchmarks import reliability


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workdir with the records of a finished evaluation, and one more file."""
    workdir = tmp_path_factory.mktemp("finished")
    toys.run(workdir / "records" / "defended", *toys.problem(4, num_steps=2))
    (workdir / "summary.json").write_text('{"robust": 0.5, "seconds": 3.0}')
    return workdir


def faults(finished, workdir):
    files = reliability.files(finished)
    whole = reliability.Whole(reliability.content(finished), files, 1.0)
    return list(reliability.different(whole, workdir, "its output"))


def test_the_same_records_under_other_names_and_times_are_the_same(finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "w")
    part = next((workdir / "records" / "defended" / "clean").glob("part-*"))
    part.rename(part.with_name("part-000-000007-abcdabcd.jsonl"))
    (workdir / "summary.json").write_text('{"robust": 0.5, "seconds": 9.0}')
    assert faults(finished, workdir) == []


def test_what_is_lost_changed_or_left_behind_is_seen(finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "w")
    part = next((workdir / "records" / "defended" / "clean").glob("part-*"))
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[1:]))
    (workdir / "summary.json").write_text('{"robust": 0.4}')
    (workdir / ".summary.json.12345678.part").write_text("")
    (workdir / "records" / "defended" / "lock-000.json").write_text("{}")
    found = faults(finished, workdir)
    assert len(found) == 4
    assert found[0].startswith("row ('defended', 'clean', 10")
    assert found[1].startswith("summary.json is not what")
    assert found[2:] == [
        "left behind: .summary.json.12345678.part",
        "left behind: records/defended/lock-000.json",
    ]


def share_compiled(tmp_path, monkeypatch):
    """Processes take compiled programs from one place, as in a whole campaign."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def test_a_row_that_goes_is_seen_between_two_strikes(finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "w")
    before = reliability.recorded(workdir)
    assert ("defended", "clean", 100) in before
    shutil.rmtree(workdir / "records" / "defended" / "clean")
    after = reliability.recorded(workdir)
    assert {kind for _, kind, _ in before.keys() - after.keys()} == {"clean"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "paper"])
def test_a_kill_and_an_interrupt_change_nothing(tmp_path, monkeypatch, capsys, name):
    """The gate's short form: of runs there is one in test_kills and in test_interrupts."""
    share_compiled(tmp_path, monkeypatch)
    (number,) = [i for i, p in enumerate(reliability.PROGRAMS) if p.name == name]
    program, place = reliability.PROGRAMS[number], tmp_path / "runs"
    place.mkdir()
    whole = reliability.unbroken(program, place)
    trial = reliability.strike(place, {name: whole}, seed=7, number=number, left=(1, 1))
    with capsys.disabled():
        print(f"\n{name}, seed 7: {trial.strikes}")
    assert trial.wrong == []
    assert trial.count("SIGKILL") + trial.count(*reliability.INTERRUPTS) >= 1


@pytest.mark.long  # minutes, of which most are spent on importing and tracing
def test_kills_interrupts_and_a_crowd_change_no_record(tmp_path, monkeypatch):
    share_compiled(tmp_path, monkeypatch)
    (tmp_path / "runs").mkdir()
    found = reliability.campaign(
        tmp_path / "runs",
        kills=6,
        interrupts=4,
        crowds=1,
        seed=0,
        out=tmp_path / "reliability.json",
    )
    assert found["wrong"] == []
    assert (found["kills"], found["interrupts"], found["crowds"]) == (6, 4, 1)
