"""Training, end to end: kill and resume, what it leaves, and that a run takes it."""

import dataclasses
import json
import os
import signal
import socket
import time
from unittest import mock

import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file

from experiments import config as configs
from experiments import train
from experiments.build import load_data
from jaxpure import weights
from jaxpure.errors import UserError
from tests.experiments.commands import TINY, error_line, run, start

SHORT = ("--config.num_steps=300", "--config.checkpoint_seconds=0")


@pytest.mark.long
def test_killed_training_is_the_same_as_unbroken(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    arguments = ("--config=digits_classifier", *SHORT)
    code, output = run("train", *arguments, f"--workdir={whole}")
    assert code == 0, output
    process = start("train", *arguments, f"--workdir={broken}")
    deadline = time.monotonic() + 300
    while not (broken / "state.safetensors").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    code, output = run("train", *arguments, f"--workdir={broken}")
    assert code == 0 and "resuming" in output, output
    for name in ("digits_classifier", "digits_classifier-raw"):
        one, other = (load_file(d / f"{name}.safetensors") for d in (whole, broken))
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
    assert (whole / "loss.jsonl").read_text() == (broken / "loss.jsonl").read_text()

    card = json.loads((whole / "digits_classifier.json").read_text())
    assert card["steps"] == 300 and card["seed"] == 0 and "Apache" in card["licence"]
    assert float(card["result"].split()[1]) > 0.9
    losses = [json.loads(line)["loss"] for line in (whole / "loss.jsonl").open()]
    assert losses[-1] < losses[0]

    classifier = whole / "digits_classifier.safetensors"
    code, output = run(
        "run",
        "--config=digits_bpda_replay",
        f"--config.classifier={classifier}",
        f"--workdir={tmp_path / 'run'}",
        *TINY,
    )
    assert code == 0, output


def test_bad_training_configs_are_one_line(tmp_path, capsys):
    for argument, piece in (
        ("--config.task=classify", "'classifier'"),
        ("--config.optimizer=adma", "'adam'"),
        ("--config.architecture=unett", "'unet'"),
        ("--config.architecture=wide_resnet(dept=10)", "'depth'"),
        ("--config.architecture=wide_resnet(depth=11)", "6 n + 4"),
        ("--config.adversarial_eps_255=300", "adversarial training: eps=1.17"),
    ):
        workdir = tmp_path / "w"
        arguments = [argument, f"--workdir={workdir}", "--cpu_devices=0"]
        assert train.command(["--config=digits_classifier", *arguments]) == 2
        assert piece in error_line(capsys.readouterr().err)
        assert not workdir.exists()


def test_one_process_trains_in_a_folder(tmp_path, capsys):
    """A second one is told; what a dead one left unfinished goes; export may look on."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    left = workdir / ".state.safetensors.0123abcd.part"
    left.write_bytes(b"cut")
    command = ["--config=digits_classifier", f"--workdir={workdir}", "--cpu_devices=0"]
    told = {"pid": os.getppid(), "host": socket.gethostname(), "since": 1.0}
    (workdir / "lock-000.json").write_text(json.dumps(told))
    assert train.command(command) == 2
    assert "is in use by process" in capsys.readouterr().err and left.exists()
    assert train.command([*command, "--export"]) == 2
    assert "holds no state to export" in capsys.readouterr().err
    (workdir / "lock-000.json").unlink()
    with mock.patch.object(train, "train") as trained:
        assert train.command(command) == 0
    assert trained.call_count == 1 and not left.exists()


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"data": configs.DataConfig("digits", "train", 31)}, "config and training data"),
        ({"label_smoothing": 0.1}, "config"),
    ],
)
def test_a_state_of_another_training_is_refused(tmp_path, changes, differs):
    """Though its shapes fit, and nothing else in the folder says whose it is."""
    config = dataclasses.replace(
        configs.by_name("digits_classifier", configs.TrainConfig),
        data=configs.DataConfig("digits", "train", 32),
    )
    digits = load_data(config.data, "train")
    run = train._Run(config, "x", None, digits, digits, epath.Path(tmp_path), None)
    saved = epath.Path(tmp_path) / "state.safetensors"
    weights.save_tree(saved, {"w": np.zeros(3)}, run.stamp)
    train._check_belongs(run, saved)
    other = dataclasses.replace(config, **changes)
    dataset = load_data(other.data, "train")
    theirs = dataclasses.replace(run, config=other, dataset=dataset)
    with pytest.raises(UserError, match=rf"another training \(they differ in {differs}\)"):
        train._check_belongs(theirs, saved)
    weights.save_tree(saved, {"w": np.zeros(3)}, {})
    with pytest.raises(UserError, match="another training"):
        train._check_belongs(run, saved)
