"""A run that was made on another machine is verified here, and judged anew.

`finished/` was made by

    python -m experiments.run --config=digits_bpda_replay --limit=8 \\
        --config.purifier.t_star=3 --config.attack.num_steps=3 --config.judging_keys=2 \\
        --config.batch_size=4 --workdir=finished

on a CPU; its config.json says with what. It is to be made again when bundled weights, or
what records hold, are others.
"""

import pathlib

import pytest

from experiments import verify

FINISHED = pathlib.Path(__file__).parent / "finished"


def test_it_passes_every_rule_here(capsys):
    assert verify.command([str(FINISHED), "--cpu_devices=0"]) == 0
    output = capsys.readouterr().out
    assert output.rstrip().endswith("SUCCESS") and "FAIL " not in output
    assert output.count("ok    ") > 20


@pytest.mark.slow
def test_judged_here_its_logits_are_the_same_up_to_rounding(capsys):
    assert verify.command([str(FINISHED), "--cpu_devices=0", "--rejudge=4"]) == 0
    assert "4 images judged anew give the same logits" in capsys.readouterr().out
