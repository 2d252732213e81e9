"""The table of finished runs, read from their summaries."""

import copy
import json

import pytest
from etils import epath

from experiments import config as configs
from experiments.config import ConfigError
from experiments.table import table


def write(folder, gradient, policy, value, attack="pgd", ball=("linf", 0.2), **changes):
    config = configs.by_name("digits_bpda_replay", configs.RunConfig)
    values = copy.deepcopy(configs.as_dict(config))
    values["attack"] |= changes.pop("attack_settings", {})
    values |= {"gradient": gradient, "policy": policy} | changes
    estimate = {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 200}
    summary = {
        "gradient": gradient,
        "policy": policy,
        "attack": attack,
        "config": values,
        "robust_accuracy": estimate,
        "clean_accuracy": estimate | {"value": 0.99},
        "num_examples": 200,
        "dataset": "digits",
        "norm": ball[0],
        "eps": ball[1],
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
    assert "200 images of digits, L-inf 51/255, seed 0" in lines[0]
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


def test_rows_name_what_makes_attacks_different(tmp_path):
    config = configs.as_dict(configs.by_name("digits_bpda_replay", configs.RunConfig))
    vote = config["attack"] | {"criterion": "vote", "eot_samples": 8}
    folders = [
        write(tmp_path / "a", "exact", "fresh", 0.5),
        write(tmp_path / "b", "exact", "fresh", 0.4, attack_settings=vote),
        write(tmp_path / "c", "exact", "fresh", 0.3, "stadv", ("flow", 0.25)),
        write(tmp_path / "d", "exact", "fresh", 0.6, "autoattack"),
    ]
    rows = [line.split(" | ")[1] for line in table(folders).splitlines()[4:]]
    assert rows == [
        "pgd",
        "pgd by vote of 8 draws",
        "stadv in a flow of 0.25",
        "autoattack standard",
    ]


def test_a_gradient_that_queries_beat_is_masked(tmp_path):
    """None that another attack does well along, that is another's, or within intervals."""
    folders = [
        write(tmp_path / "a", "bpda", "replay", 0.6),
        write(tmp_path / "b", "exact", "replay", 0.9),
        write(tmp_path / "c", "exact", "replay", 0.4, "square"),
        write(tmp_path / "d", "exact", "fresh", 0.6),
        write(tmp_path / "e", "exact", "replay", 0.3, "apgd"),
        write(tmp_path / "f", "surrogate(t_star=9)", "replay", 0.45),
        write(tmp_path / "g", "transfer(name=identity)", "replay", 0.9),
        write(tmp_path / "h", "surrogate(t_star=5)", "replay", 0.9, seed=3),
    ]
    lines = table(folders).splitlines()
    assert any(line.startswith("| none | square |") for line in lines)
    masked = [line for line in lines if "masked" in line]
    assert masked == [
        "Under replay, square without gradients leaves less than any attack along the bpda "
        "gradient (intervals apart): that gradient is masked."
    ]


def test_what_is_no_table_is_refused(tmp_path):
    folder = write(tmp_path / "a", "bpda", "fresh", 0.62)
    with pytest.raises(ConfigError, match="two runs of gradient bpda"):
        table([folder, folder])
    with pytest.raises(ConfigError, match="holds no finished run"):
        table([epath.Path(tmp_path)])
