"""The main command, end to end: what it leaves, kill and resume, devices, refusals."""

import json
import os
import pathlib
import re
import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest
from etils import epath
from PIL import Image

from experiments import runs, verify, view
from jaxpure.evaluation import records
from jaxpure.evaluation.verify import RULES
from tests.experiments.commands import TINY, error_line, run, start

SUMMARY_KEYS = {
    "config",
    "dataset",
    "num_examples",
    "seed",
    "clean_accuracy_undefended",
    "robust_accuracy_undefended",
    "clean_accuracy",
    "robust_accuracy",
    "robust_accuracy_fresh",
    "worst_of_n",
    "clean_worst_of_n",
    "majority_vote",
    "policy",
    "gradient",
    "attack",
    "eps",
    "norm",
    "seconds",
    "purifications",
    "denoiser_evaluations",
    "images_per_second",
    "hash",
    "subject_hash",
}


@pytest.fixture(scope="module")
def replay(tmp_path_factory) -> pathlib.Path:
    """A finished run, never interrupted, on one device."""
    workdir = tmp_path_factory.mktemp("runs") / "replay"
    code, output = run("run", "--config=digits_bpda_replay", f"--workdir={workdir}", *TINY)
    assert code == 0, output
    assert "at most" in output and "denoiser evaluations" in output  # the cost, told first
    return workdir


def same_results(a: pathlib.Path, b: pathlib.Path) -> None:
    left, right = (pd.read_parquet(d / "records.parquet") for d in (a, b))
    for column in left:
        for one, other in zip(left[column], right[column], strict=True):
            np.testing.assert_array_equal(
                np.asarray(_plain(one)), np.asarray(_plain(other)), err_msg=str(column)
            )
    with np.load(a / "adversarial.npz") as one, np.load(b / "adversarial.npz") as other:
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def _plain(value):
    return [_plain(v) for v in value] if isinstance(value, np.ndarray) else value


def test_leaves_everything(replay):
    summary = json.loads((replay / "summary.json").read_text())
    assert set(summary) >= SUMMARY_KEYS
    for key in SUMMARY_KEYS:
        if "accuracy" in key or key in ("worst_of_n", "majority_vote", "clean_worst_of_n"):
            assert set(summary[key]) == {"value", "low", "high", "n"}
            assert summary[key]["low"] <= summary[key]["value"] <= summary[key]["high"]
            assert summary[key]["n"] == 11
    assert summary["indices"] == list(range(11))
    records = pd.read_parquet(replay / "records.parquet")
    headline = np.mean([row[0] for row in records["correct"]])
    assert summary["robust_accuracy"]["value"] == pytest.approx(headline)
    assert (records["linf"] <= summary["eps"] + 1e-6).all()
    config = json.loads((replay / "config.json").read_text())
    assert config["config"]["purifier"] == "diffpure(t_star=3)"
    assert config["versions"]["jax"] and config["devices"]
    page = (replay / "report.html").read_text()
    assert summary["hash"] in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


def test_counts_what_was_spent(replay):
    summary = json.loads((replay / "summary.json").read_text())
    records = pd.read_parquet(replay / "records.parquet")
    spent = int(records["evaluations"].sum()) + 2 * 3 * 11
    assert summary["purifications"] == spent
    assert summary["denoiser_evaluations"] == 3 * spent


@pytest.mark.long
def test_killed_three_times_is_the_same_as_unbroken(replay, tmp_path):
    workdir = tmp_path / "killed"
    arguments = ("--config=digits_bpda_replay", f"--workdir={workdir}", *TINY)
    folders = ("undefended/clean", "defended/clean", "defended/stages/0-pgd/judged")
    for signum, folder in zip(
        (signal.SIGKILL, signal.SIGINT, signal.SIGTERM), folders, strict=True
    ):
        process = start("run", *arguments)
        waiting_for = workdir / "records" / folder
        deadline = time.monotonic() + 300
        while not list(waiting_for.glob("part-*")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signum)
        output, _ = process.communicate(timeout=60)
        if signum != signal.SIGKILL:
            assert process.returncode == 130 and "goes on from here" in output
    for part in list((workdir / "records/defended/clean").glob("part-*"))[:1]:
        part.write_bytes(part.read_bytes()[:-40])  # cut short by something else
    code, output = run("run", *arguments)
    assert code == 0, output
    same_results(replay, workdir)


def with_devices(count: int, workdir: pathlib.Path) -> None:
    arguments = ("--config=digits_bpda_replay", f"--workdir={workdir}", *TINY)
    code, output = run("run", *arguments, devices=count)
    assert code == 0, output
    assert json.loads((workdir / "summary.json").read_text())["num_devices"] == count


@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.long)])
def test_devices_do_not_matter(replay, tmp_path, count):
    with_devices(count, tmp_path)
    same_results(replay, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("count", [4, 5])
def test_some_counts_of_devices_round_otherwise(replay, tmp_path, count):
    """A process of 4 or 5 CPU devices may differ in the last bits of logits alone."""
    with_devices(count, tmp_path)
    one, other = (np.load(d / "adversarial.npz") for d in (replay, tmp_path))
    np.testing.assert_allclose(one["clean_logits"], other["clean_logits"], atol=2e-6)


def test_finished_is_not_run_again(replay):
    before = {p: p.stat().st_mtime_ns for p in replay.rglob("*")}
    code, output = run("run", "--config=digits_bpda_replay", f"--workdir={replay}", *TINY)
    assert code == 0 and "is finished" in output
    assert before == {p: p.stat().st_mtime_ns for p in replay.rglob("*")}


def test_judged_again_without_attacking(replay, tmp_path):
    workdir = shutil.copytree(replay, tmp_path / "copy")
    arguments = ("--config=digits_bpda_replay", f"--workdir={workdir}", *TINY)
    code, output = run("run", *arguments, "--judge_seed=0")
    assert code == 0, output
    again = json.loads((workdir / "judged-seed0-keys3.json").read_text())
    summary = json.loads((workdir / "summary.json").read_text())
    assert again["headline"] == summary["robust_accuracy"]  # the run's own seed
    assert again["worst_of_n"] == summary["worst_of_n"]


def verified(capsys, *arguments) -> tuple[int, str]:
    """`verify` in this process, on the devices of the tests: exit code and output."""
    code = verify.command([*map(str, arguments), "--cpu_devices=0"])
    return code, capsys.readouterr().out


def test_verify_has_a_line_for_each_rule_and_succeeds(replay, capsys):
    code, output = verified(capsys, replay, f"--against={replay}")
    assert code == 0 and output.splitlines()[-1] == "SUCCESS", output
    names = [rule.name for rule in RULES]
    for who, rules in (("defended", [*names, "reported numbers"]), ("undefended", names)):
        told = output.partition(f"{who}:\n")[2].splitlines()[: len(rules)]
        for line, rule in zip(told, rules, strict=True):
            assert line.startswith(f"  ok    {rule}: "), line
    against = output.partition(f"against {replay}:\n")[2]
    assert against.count("McNemar on the same images, p = 1)") == 4
    assert "FAIL" not in output


@pytest.mark.parametrize("stage", ["clean", "stages/0-pgd/attacked"])
def test_verify_names_the_rule_that_an_altered_byte_breaks(replay, tmp_path, capsys, stage):
    workdir = shutil.copytree(replay, tmp_path / "copy")
    part = min((workdir / "records" / "defended" / stage).glob("part-*.jsonl"))
    content = bytearray(part.read_bytes())
    at = content.index(b'"base64": "') + len(b'"base64": "') + 8
    content[at] = ord("A") if content[at] != ord("A") else ord("B")
    part.write_bytes(content)
    code, output = verified(capsys, workdir)
    assert code == 1 and output.splitlines()[-1] == "FAILED", output
    assert "FAIL  digests: " in output and "was altered after it was made" in output


@pytest.mark.slow
def test_verify_judges_images_anew(replay):
    code, output = run("verify", replay, "--rejudge=2")
    assert code == 0 and output.splitlines()[-1] == "SUCCESS", output
    assert "ok    2 images judged anew give the same logits" in output


@pytest.mark.slow
def test_judge_adds_keys_and_readings_to_those_that_there_are(replay, tmp_path, capsys):
    workdir = pathlib.Path(shutil.copytree(replay, tmp_path / "copy"))
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    reducers = ("vote", "worst", "at_least_3")
    code, output = run("judge", workdir, "--keys=5", f"--reduce={','.join(reducers)}")
    assert code == 0, output
    assert {p: p.read_bytes() for p in before} == before  # the first readings among them
    again = json.loads((workdir / "judged-seed0-keys5.json").read_text())
    assert again["judging_keys"] == 5 and set(again) >= set(reducers)
    summary = json.loads((workdir / "summary.json").read_text())
    for name, first in (("headline", "robust_accuracy"), ("worst", "worst_of_n")):
        assert again[name]["n"] == 11
        assert again[name]["value"] <= summary[first]["value"]
    assert again["headline"] == summary["robust_accuracy"]  # key 0 is the same one
    assert again["worst"]["value"] <= again["at_least_3"]["value"]
    for name in reducers:
        assert f"{name:14} {100 * again[name]['value']:.1f}" in output
    code, output = verified(capsys, workdir)
    assert code == 0, output


def test_view_writes_a_page_with_the_run(replay, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert view.command([str(replay.parent), f"--out={out}"]) == 0
    said = capsys.readouterr().out
    assert said == f"1 runs\n{out}\n"
    page, summary = out.read_text(), json.loads((replay / "summary.json").read_text())
    assert (
        f'href="./{os.path.relpath(replay, tmp_path)}/report.html">{replay.name}<' in page
    )
    assert f">{summary['hash'][:8]}<" in page
    assert f">{100 * summary['robust_accuracy']['value']:.1f}%<" in page


def test_what_a_run_found_is_of_the_images_that_its_records_are_of(replay):
    found = runs.judged(runs.read(epath.Path(replay)))
    assert found.example_digests == records.read_examples(
        epath.Path(replay) / "records" / "defended"
    )


@pytest.mark.long
def test_compare_pairs_two_policies(replay, tmp_path):
    fresh = tmp_path / "fresh"
    code, output = run("run", "--config=digits_bpda_fresh", f"--workdir={fresh}", *TINY)
    assert code == 0, output
    code, output = run("compare", fresh, replay)
    assert code == 0, output
    assert "policy fresh" in output and "policy replay" in output
    assert "11 examples in both" in output and "McNemar" in output
    assert "also differ" not in output  # the pair differs in the policy alone
    code, output = run("compare", fresh, tmp_path / "nothing")
    assert code == 2, output
    assert "no finished run" in error_line(output)


def test_another_config_is_refused_its_workdir(replay):
    arguments = ("--config=digits_bpda_fresh", f"--workdir={replay}", *TINY)
    code, output = run("run", *arguments)
    assert code == 2 and "differ in policy" in error_line(output)


@pytest.mark.slow
def test_imagenet_end_to_end_with_small_random_networks(tmp_path):
    """Its own config: a folder of images, purified at another size, learned variance."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        folder = tmp_path / "val" / name
        folder.mkdir(parents=True)
        pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "0.png")
    denoiser = (
        "random:guided_unet(image_size=20,channels=32,channel_mult=[1,2],num_res_blocks=1,"
        "head_channels=32)"
    )
    classifier = "random:resnet(layers=[1,1],planes=[8,16],num_classes=2,image_size=16)"
    workdir = tmp_path / "run"
    code, output = run(
        "run",
        "--config=imagenet_bpda_replay",
        f"--config.data=folder({tmp_path / 'val'},num_examples=2,image_size=16)",
        "--config.purifier.image_size=20",
        "--config.purifier.purifier.t_star=2",
        "--config.attack.num_steps=2",
        "--config.batch_size=2",
        f"--config.denoiser={denoiser}",
        f"--config.classifier={classifier}",
        f"--workdir={workdir}",
    )
    assert code == 0, output
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["num_examples"] == 2 and summary["eps"] == 4 / 255
    assert (workdir / "report.html").exists()


@pytest.mark.slow
def test_a_run_compiles_each_program_once(tmp_path, monkeypatch):
    """Entering, advancing and judging, with and without the purifier, and the report's."""
    monkeypatch.setenv("JAX_LOG_COMPILES", "1")
    code, output = run("run", "--config=digits_bpda_replay", f"--workdir={tmp_path}", *TINY)
    assert code == 0, output
    compiled = re.findall(r"Finished XLA compilation of jit\((\w+)\)", output)
    assert compiled.count("local") == 6 and compiled.count("purify") == 1, compiled
    assert len(set(compiled)) <= 5 and len(compiled) < 50, compiled


@pytest.mark.long
def test_the_batch_that_fits_is_found_once_and_kept(replay, tmp_path):
    tiny = [option for option in TINY if "batch_size" not in option]
    command = [
        "run",
        "--config=digits_bpda_replay",
        f"--workdir={tmp_path / 'auto'}",
        *tiny,
    ]
    command += ["--config.batch_size=auto", "--config.draws_at_once=2"]
    code, output = run(*command)
    assert code == 0, output
    assert "11 images at once on 1 x" in output  # all there are
    one, other = (
        pd.read_parquet(d / "records.parquet") for d in (replay, tmp_path / "auto")
    )
    for column in ("logits", "clean_logits"):
        for a, b in zip(one[column], other[column], strict=True):
            np.testing.assert_allclose(np.stack(_plain(a)), np.stack(_plain(b)), atol=1e-4)
    config = json.loads((tmp_path / "auto" / "config.json").read_text())["config"]
    assert (config["batch_size"], config["draws_at_once"]) == ("auto", 2)
    (tmp_path / "auto" / "summary.json").unlink()
    code, output = run(*command)  # goes on, to the same end
    assert code == 0, output


def test_list_has_a_line_for_each_config():
    code, output = run("run", "--list")
    assert code == 0
    lines = [line.split()[0] for line in output.splitlines() if line]
    assert {"digits_bpda_replay", "cifar_bpda_replay", "mnist_bpda_replay"} <= set(lines)
    assert all(len(line.split()) > 3 for line in output.splitlines() if line)
