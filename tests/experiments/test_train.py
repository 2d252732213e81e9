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
from PIL import Image
from safetensors.numpy import load_file

from experiments import config as configs
from experiments import train
from experiments.build import load_data
from jaxpure import weights
from jaxpure.errors import UserError
from tests.experiments.commands import TINY, error_line, run, start

VIT = "vit(patch_size=4,features={},depth=1,num_heads=3,mlp_features=24,mean=[0],std=[1])"
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


def test_fields_at_their_defaults_are_no_part_of_whose_a_state_is():
    usual = {"a": 1, "data": {"name": "digits", "size": 0}, "b": 2}
    values = {"a": 3, "data": {"name": "digits", "size": 0, "new": 0}, "b": 2}
    assert train._changed(values, usual) == {"a": 3, "data": {"new": 0}}
    assert train._changed(values, usual | {"data": values["data"]}) == {"a": 3}


@pytest.mark.parametrize(
    ("name", "steps", "made_by"),
    [
        ("cifar10_denoiser", 500, "--config=cifar10_denoiser --config.num_steps=500"),
        ("cifar10_denoiser", 32_000, "--config=cifar10_denoiser"),
        ("cifar10_mixer_classifier", 1950, "--config=cifar10_mixer_classifier"),
        ("cifar10_mixer_classifier", 500, None),  # the rate falls until the end
    ],
)
def test_a_card_has_the_command_that_makes_the_weights(name, steps, made_by):
    config = configs.by_name(name, configs.TrainConfig)
    digits = load_data(configs.DataConfig("digits", "train", 32), "train")
    run = train._Run(config, name, None, digits, digits, None, None)
    found = train._commands(run, name, steps)
    wanted = made_by and f"python -m experiments.train {made_by}"
    assert found.get("made_by") == wanted
    assert found["measured_by"].endswith(f"--check {name}.safetensors --data=cifar10")


def photographs(folder, n=20, size=24):
    """A folder of two classes of noise."""
    for i in range(n):
        of_class = folder / f"class{i % 2}"
        of_class.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(of_class / f"{i:03}.png")
    return f"folder({folder})"


def test_a_set_without_a_test_split_is_split(tmp_path):
    name = photographs(tmp_path / "images")
    of_data = configs.DataConfig(name, "train", 0, test_every=5)
    ours, theirs = (load_data(of_data, split) for split in ("train", "test"))
    np.testing.assert_array_equal(theirs.indices, [0, 5, 10, 15])
    assert sorted([*ours.indices, *theirs.indices]) == list(range(20))
    with pytest.raises(UserError, match="has no test split.*test_every=10"):
        load_data(dataclasses.replace(of_data, test_every=0), "train")
    with pytest.raises(UserError, match="digits has a test split"):
        load_data(configs.DataConfig("digits", "train", 32, test_every=5), "train")


@pytest.mark.slow
def test_a_denoiser_learns_from_patches_and_takes_whole_images(tmp_path, capsys):
    name, workdir = photographs(tmp_path / "images", n=60), tmp_path / "run"
    arguments = [
        "--config=imagenet_samples_denoiser",
        f"--config.data.name={name}",
        "--config.architecture=naf_unet(widths=[4,8],blocks=[1,1],any_size=true)",
        *("--config.crop=16", "--config.num_steps=4", "--config.batch_size=2"),
        *("--config.warmup_steps=1", "--config.validation_steps=4", "--cpu_devices=0"),
        "--config.kept_checkpoints=3",
    ]
    assert train.command([*arguments, f"--workdir={workdir}"]) == 0
    network = weights.load(workdir / "imagenet_samples_denoiser.safetensors")
    assert network.architecture.image_size == 16
    assert network(np.zeros((24, 20, 3), np.float32), np.int32(3)).shape == (24, 20, 3)
    assert (workdir / "report.html").exists()
    kept = sorted(p.stem for p in (workdir / "kept").glob("*.safetensors"))
    name = "imagenet_samples_denoiser-000000"
    assert kept == sorted(f"{name}{i}{s}" for i in (1, 2, 4) for s in ("", "-raw"))
    for suffix in ("", "-raw"):  # the last ones are what the training ends with
        one = load_file(workdir / "kept" / f"{name}4{suffix}.safetensors")
        other = load_file(workdir / f"imagenet_samples_denoiser{suffix}.safetensors")
        assert all(np.array_equal(one[n], other[n]) for n in other)
    earlier = load_file(workdir / "kept" / f"{name}1.safetensors")
    assert any(not np.array_equal(earlier[n], one[n]) for n in one)
    card = json.loads((workdir / "imagenet_samples_denoiser.json").read_text())
    assert np.isfinite(float(card["result"].split()[3]))
    capsys.readouterr()
    wrong = [*arguments, "--config.data.image_size=12", f"--workdir={tmp_path / 'x'}"]
    assert train.command(wrong) == 2
    assert "crop=16, expected at most 12" in error_line(capsys.readouterr().err)


@pytest.mark.slow
def test_training_goes_on_from_weights_and_says_so(tmp_path, capsys):
    small, wider = (f"--config.architecture={VIT.format(n)}" for n in (12, 24))
    usual = [
        *("--config=digits_classifier", small, "--config.num_steps=3"),
        *("--config.batch_size=8", "--config.warmup_steps=0"),
        *("--config.data.num_examples=64", "--config.stored_dtype=float32"),
        *("--config.kept_checkpoints=0", "--cpu_devices=0"),
    ]
    first, second = tmp_path / "first", tmp_path / "second"
    assert train.command([*usual, f"--workdir={first}"]) == 0
    begun = first / "digits_classifier.safetensors"
    on = [*usual, f"--config.initial_weights={begun}", "--config.learning_rate=0"]
    assert train.command([*on, f"--workdir={second}"]) == 0
    ours, theirs = (load_file(d / "digits_classifier.safetensors") for d in (first, second))
    trained = [name for name in ours if name.startswith("params")]
    assert trained
    for name in trained:  # nothing is learnt at a rate of 0
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6)
    card = json.loads((second / "digits_classifier.json").read_text())["begun_from"]
    assert card["images_seen"] == 24 and card["name"] == "digits_classifier"
    assert card["sha256"] == weights.digest(begun)
    capsys.readouterr()
    other = [wider if argument == small else argument for argument in on]
    assert train.command([*other, f"--workdir={tmp_path / 'x'}"]) == 2
    assert "expected config.architecture" in error_line(capsys.readouterr().err)


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
