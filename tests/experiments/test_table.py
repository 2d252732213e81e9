"""The table of finished runs, read from their summaries."""

import copy
import json

import pytest
from etils import epath

from experiments import config as configs
from experiments.config import ConfigError
from experiments.table import table


def write(folder, gradient, policy, value, **changes):
    config = configs.by_name("digits_bpda_replay", configs.RunConfig)
    values = copy.deepcopy(configs.as_dict(config))
    values |= {"gradient": gradient, "policy": policy} | changes
    estimate = {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 200}
    summary = {
        "gradient": gradient,
        "policy": policy,
        "attack": "pgd",
        "config": values,
        "robust_accuracy": estimate,
        "clean_accuracy": estimate | {"value": 0.99},
        "num_examples": 200,
        "dataset": "digits",
        "norm": "linf",
        "eps": 51 / 255,
        "seed": values["seed"],
    }
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(summary))
    return epath.Path(folder)


def test_a_row_for_each_rule_and_a_column_for_each_policy(tmp_path):
    folders = [
        write(tmp_path / "a", "bpda", "fresh", 0.62),
        write(tmp_path / "b", "bpda", "replay", 0.465),
        write(tmp_path / "c", "exact", "replay", 0.28),
    ]
    lines = table(folders).splitlines()
    assert "200 images of digits, linf 51/255, seed 0" in lines[0]
    assert lines[2] == "| gradient | attack | fresh | replay |"
    assert lines[4] == "| bpda | pgd | 62.0% (57.0 to 67.0) | 46.5% (41.5 to 51.5) |"
    assert lines[5] == "| exact | pgd |  | 28.0% (23.0 to 33.0) |"
    assert len(lines) == 6


def test_runs_that_are_of_other_experiments_are_told(tmp_path):
    folders = [
        write(tmp_path / "a", "bpda", "fresh", 0.62),
        write(tmp_path / "b", "bpda", "replay", 0.465, seed=3),
    ]
    assert table(folders).splitlines()[-1].endswith(f"differs from {folders[0]} in seed.")


def test_what_is_no_table_is_refused(tmp_path):
    folder = write(tmp_path / "a", "bpda", "fresh", 0.62)
    with pytest.raises(ConfigError, match="two runs of gradient bpda"):
        table([folder, folder])
    with pytest.raises(ConfigError, match="holds no finished run"):
        table([epath.Path(tmp_path)])
