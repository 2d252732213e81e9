"""Every bad input ends in one line that names a thing, and in exit code 2."""

import contextlib
import io

import pytest
from faults import bad_inputs

from experiments import cli, cost, devices, interrupts, program, run, train


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Every bad input that was not refused as it should be, and how it was."""
    folder = tmp_path_factory.mktemp("bad")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(devices, "use", lambda *args, **kwargs: None)
        patch.setattr(program, "prepare_jax", lambda *_: None)
        patch.setattr(interrupts, "install", lambda: None)
        for module, work in ((run, "run"), (train, "_loop"), (cost, "announce")):
            patch.setattr(module, work, begun)
        return {bad: fault_of(bad) for bad in bad_inputs.table(folder)}


def begun(*args, **kwargs):
    raise AssertionError("it was accepted, and work was begun")


def fault_of(bad: bad_inputs.Bad) -> str:
    """What is wrong with how a command refuses; "" if nothing is."""
    out, err = io.StringIO(), io.StringIO()
    argv = [bad.command, *bad.argv] if bad.command else list(bad.argv)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(argv)
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:200]
    lines = err.getvalue().splitlines()
    if code != 2:
        return f"exit code {code}"
    if len(lines) != 1 or not lines[0].startswith("error: "):
        return f"{len(lines)} lines on stderr: {lines[:3]}"
    if bad.named not in lines[0]:
        return f"{bad.named!r} is not named: {lines[0]}"
    return ""


def test_every_bad_input_is_refused_in_one_line(refused):
    wrong = [f"{bad}\n    {fault}" for bad, fault in refused.items() if fault]
    print(f"{len(refused)} bad inputs, {len(wrong)} not refused as they should be")
    assert not wrong, "\n".join(wrong)
    assert len(refused) >= 300


def test_the_table_covers_every_command(refused):
    assert {bad.command for bad in refused} == {"", *cli.COMMANDS}
