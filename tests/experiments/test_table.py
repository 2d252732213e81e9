"""The table of finished runs, read from their summaries; older runs too."""

import json

import pytest
from etils import epath

from experiments import config as configs
from experiments import runs
from experiments.runs import RunError
from experiments.table import table

OLD_CONFIG = {
    "data": {"name": "digits", "split": "test", "num_examples": 200, "image_size": 0},
    "denoiser": "digits_denoiser",
    "classifier": "digits_classifier",
    "purifier": {"name": "diffpure", "t_star": 50, "step_rule": "ddpm", "rounds": 1}
    | {"schedule": "linear", "start": "t_star_minus_1", "scale_input": False}
    | {"image_size": 0},
    "attack": {"name": "pgd", "norm": "linf", "eps_255": 51.0, "step_size_255": 8.5}
    | {"num_steps": 20, "eot_samples": 1, "loss": "cross_entropy", "average": "loss"}
    | {"random_start": True, "momentum": 0.0, "num_queries": 5000, "criterion": "most"}
    | {"iterate": "best", "flow_bound": 0.05, "version": "standard"},
    "policy": "replay",
    "gradient": "bpda",
    "judging_keys": 8,
    "batch_size": 50,
    "compute_dtype": "float32",
    "seed": 0,
}


def write(folder, gradient, policy, value, shape=("linf", 0.2), old=False, **changes):
    config = configs.by_name("digits_bpda_replay", configs.RunConfig)
    values = OLD_CONFIG if old else configs.as_dict(config)
    values = values | {"gradient": gradient, "policy": policy} | changes
    estimate = {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 200}
    attack = values["attack"]
    summary = {
        "gradient": gradient,
        "policy": policy,
        "attack": attack["name"] if old else attack.partition("(")[0],
        "config": values,
        "robust_accuracy": estimate,
        "clean_accuracy": estimate | {"value": 0.99},
        "num_examples": 200,
        "dataset": "digits",
        "norm": shape[0],
        "eps": shape[1],
        "seed": values["seed"],
    }
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(summary))
    return epath.Path(folder)


PGD = "pgd(step_size=8.5/255,num_steps=20)"


@pytest.mark.parametrize("old", [False, True])
def test_a_row_for_each_rule_and_a_column_for_each_policy(tmp_path, old):
    folders = [
        write(tmp_path / "a", "bpda", "fresh", 0.62),
        write(tmp_path / "b", "bpda", "replay", 0.465, old=old),
        write(tmp_path / "c", "exact", "replay", 0.28),
    ]
    lines = table(folders).splitlines()
    assert "200 images of digits, L-inf 51/255, seed 0" in lines[0]
    assert lines[2] == "| gradient | attack | fresh | replay |"
    assert lines[4] == f"| bpda | {PGD} | 62.0% (57.0 to 67.0) | 46.5% (41.5 to 51.5) |"
    assert lines[5] == f"| exact | {PGD} |  | 28.0% (23.0 to 33.0) |"
    assert len(lines) == 6


def test_runs_that_are_of_other_experiments_are_told(tmp_path):
    folders = [
        write(tmp_path / "a", "bpda", "fresh", 0.62),
        write(tmp_path / "b", "bpda", "replay", 0.465, seed=3),
    ]
    assert table(folders).splitlines()[-1].endswith(f"differs from {folders[0]} in seed.")


def test_rows_name_what_makes_attacks_different(tmp_path):
    flow = {"attack": "stadv", "ball": "flow(0.25)"}
    folders = [
        write(tmp_path / "a", "exact", "fresh", 0.5),
        write(tmp_path / "b", "exact", "fresh", 0.4, attack="pgd(eot_samples=8)"),
        write(tmp_path / "c", "exact", "fresh", 0.3, ("flow", 0.25), **flow),
        write(tmp_path / "d", "exact", "fresh", 0.6, attack="autoattack"),
    ]
    lines = table(folders).splitlines()[4:]
    assert [line.split(" | ")[1] for line in lines] == [
        PGD,
        "pgd(eot_samples=8)",
        "stadv in a flow of 0.25",
        "autoattack",
    ]


def test_a_gradient_that_queries_beat_is_told_to_be_masked(tmp_path):
    folders = [
        write(tmp_path / "a", "bpda", "replay", 0.9),
        write(tmp_path / "b", "exact", "replay", 0.4, attack="square"),
    ]
    lines = table(folders).splitlines()
    assert lines[5].startswith("| none | square |")
    assert "along the bpda gradient (intervals apart)" in lines[-1]


def test_what_is_no_table_is_refused(tmp_path):
    folder = write(tmp_path / "a", "bpda", "fresh", 0.62)
    with pytest.raises(RunError, match="two runs of gradient bpda"):
        table([folder, folder])
    with pytest.raises(RunError, match="holds no finished run"):
        table([epath.Path(tmp_path)])


@pytest.mark.parametrize("content", ["", "5", "[]", "{", '{"config": 3}', "\x00" * 9])
def test_a_damaged_summary_is_one_sentence(tmp_path, content):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(RunError, match="summary.json"):
        runs.read(epath.Path(tmp_path))


def test_an_older_config_is_the_specs_that_it_amounts_to():
    def canonical(**changes):
        old = {**OLD_CONFIG, **changes}
        return runs.canonical(runs.from_old(old), configs.RunConfig)

    new = configs.as_dict(configs.by_name("digits_bpda_replay", configs.RunConfig))
    assert canonical() == runs.canonical(new, configs.RunConfig)
    square = canonical(attack=OLD_CONFIG["attack"] | {"name": "square"})
    assert square["attack"] == "square(loss=cross_entropy)"
    stadv = canonical(attack=OLD_CONFIG["attack"] | {"name": "stadv"})
    assert stadv["ball"] == "flow" and "num_steps=20" in stadv["attack"]
    resized = canonical(purifier=OLD_CONFIG["purifier"] | {"image_size": 16})
    assert resized["purifier"] == "resized(purifier=diffpure(t_star=50),image_size=16)"
    other = canonical(gradient="transfer(step_rule=ddim(eta=1,num_steps=5))")
    assert other["gradient"] == (
        "transfer(other=diffpure(t_star=50,step_rule=ddim(eta=1.0,num_steps=5)))"
    )
    assert canonical(gradient="transfer(name=identity)")["gradient"] == (
        "transfer(other=identity)"
    )
