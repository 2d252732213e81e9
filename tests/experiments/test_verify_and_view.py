"""`verify` and `view` on folders that hold no run; of a finished one test_run has them."""

import pytest

from experiments import verify, view


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (verify.command, [], "usage: python -m experiments.verify"),
        (verify.command, ["no/such/run"], "summary.json does not exist"),
        (verify.command, [".", "--rejudge=0"], "--rejudge=0"),
        (view.command, [], "usage: python -m experiments.view"),
        (view.command, ["no/such/folder"], "is no folder of runs"),
    ],
)
def test_bad_input_is_one_line(capsys, command, arguments, message):
    assert command(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_folder_without_runs_has_no_page(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text("{")
    assert view.command([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "no finished run can be shown" in error and "summary.json is damaged" in error
