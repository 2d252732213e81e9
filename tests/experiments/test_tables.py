"""The papers' tables: what they ask, that each command gives its run, and the page."""

import csv
import dataclasses
from collections import Counter
from types import SimpleNamespace

import pytest

from experiments import arguments, overrides, program, run
from experiments import config as configs
from experiments.config import RunConfig
from experiments.tables import __main__ as tables
from experiments.tables import page, rows
from experiments.tables.__main__ import command
from jaxpure.attacks import BALLS
from jaxpure.errors import UserError
from jaxpure.evaluation.statistics import PairedGap
from jaxpure.specs import build
from jaxpure.weights import bundled

CHECKPOINTS = ("a/step-10.safetensors", "a/step-20.safetensors")


def lines(plan, checkpoints=()):
    return {n: t.lines for n, t in rows.tables(plan, checkpoints).items()}


@pytest.mark.parametrize("data", rows.PLANS)
def test_a_runs_command_gives_that_run(data):
    plan = rows.plan(data)
    known = (*run.FLAGS, *program.CONFIG_FLAGS)
    for of_table in lines(plan, CHECKPOINTS).values():
        for line in of_table:
            for config in line.runs.values():
                argv = overrides.arguments_of(plan.config, config)
                given = arguments.parse(argv, known, takes_config=True)
                base = configs.by_name(str(given.config), RunConfig)
                assert overrides.apply(base, given.overrides) == config


@pytest.mark.parametrize("data", rows.PLANS)
def test_table_1_has_every_attack_on_every_classifier_and_ball(data):
    plan = rows.plan(data, autoattack_images=3)
    found = lines(plan)["1"]
    assert len(found) == 6 * len(plan.classifiers) * len(plan.balls)
    policies = Counter(tuple(line.runs) for line in found)
    both = ("fresh", "replay")
    assert policies == {both: len(found) // 2, ("fresh",): len(found) // 2}
    for line in found:
        for policy, config in line.runs.items():
            assert config.policy == policy
            assert config.classifier == line.labels[0]
            assert str(build(BALLS, config.ball)) == line.labels[1]
            assert ("eot_samples" in config.attack) == ("EOT" in line.labels[2])
        # A gap is one of knowledge, and not of two attacks.
        assert len({config.attack for config in line.runs.values()}) == 1
        if line.labels[2].startswith("AutoAttack"):
            assert {c.data for c in line.runs.values()} == {
                found[0].runs["fresh"].data.replace(f"={plan.bpda_images}", "=3")
            }


def test_steps_of_pgd_add_up_to_two_and_a_half_radii():
    found = lines(rows.plan("cifar10"))["1"]
    attacks = {line.labels[1:]: line.runs["fresh"].attack for line in found}
    assert attacks["L-inf 8/255", "BPDA"] == "pgd(step_size=1/255,num_steps=20)"
    assert attacks["L2 0.5", "BPDA"] == "pgd(step_size=0.0625,num_steps=20)"


@pytest.mark.parametrize("data", rows.PLANS)
def test_what_two_tables_ask_is_one_run(data):
    plan = rows.plan(data)
    found = lines(plan)
    assert found["2"][0].runs == found["1"][0].runs
    same = [program.run_name(plan.config, t[0].runs["fresh"]) for t in found.values() if t]
    assert same[0] == same[1]


@pytest.mark.parametrize("data", rows.PLANS)
def test_pairs_differ_in_what_their_claim_is_about(data):
    plan = rows.plan(data)
    found = [pair for t in rows.tables(plan).values() for pair in t.pairs]
    subjects = len(plan.classifiers) * len(plan.balls)
    rules = 2
    assert Counter(pair.relation for pair in found) == {
        1: 3 * subjects,
        2: rules * subjects,
        3: subjects,
        4: rules,
    }
    may_differ = {
        1: {"policy"},
        2: {"attack"},
        3: {"policy", "gradient", "data"},  # under exact gradients there are fewer images
        4: {"purifier"},
    }
    for relation, about, first, second in found:
        fields = [f.name for f in dataclasses.fields(RunConfig)]
        differ = {n for n in fields if getattr(first, n) != getattr(second, n)}
        assert differ and differ <= may_differ[relation], about
        if relation in (1, 3):
            assert (first.policy, second.policy) == ("fresh", "replay")
        elif relation == 2:
            assert "eot_samples" in second.attack and "eot_samples" not in first.attack
        else:
            assert first.purifier.startswith("revpure")


def test_table_3_has_a_row_for_each_checkpoint_and_rule():
    found = lines(rows.plan("digits"), CHECKPOINTS)["3"]
    assert [line.labels[0] for line in found] == ["step-10"] * 2 + ["step-20"] * 2
    assert {line.runs["replay"].denoiser for line in found} == set(CHECKPOINTS)
    assert not lines(rows.plan("digits"))["3"]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ((), "--data=NAME is needed"),
        (("--data=digts",), "digits"),
        (("--data=digits", "--only=4"), "table"),
        (("--data=digits", "--only=3"), "--checkpoints=DIR"),
        (("--data=digits", "--rows=nonsense"), "stands in no row"),
        (("--data=digits", "--checkpoints=/nowhere"), "no .safetensors"),
        (("--data=digits", "--eot_samples=1"), "at least 2"),
    ],
)
def test_bad_input_is_told_in_one_line(argv, told, tmp_path, capsys):
    given = [*argv, "--cpu_devices=0", f"--workdir={tmp_path / 'x'}"]
    assert command(given) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_an_unknown_plan_names_the_known_ones():
    with pytest.raises(UserError, match="cifar10"):
        rows.plan("cifar")


def test_the_verdict_counts_a_pair_of_runs_once_and_tells_where_it_lowers():
    def cells(name, gap, low):
        run = SimpleNamespace(folder=SimpleNamespace(name=name))
        found = PairedGap(gap, low, gap + 0.1, 5, 2, 0.5, 10)
        return page.Cells({rows.FRESH: run}, SimpleNamespace(gap=found))

    a, b, c = cells("a", 0.2, 0.1), cells("b", 0.3, 0.2), cells("c", -0.1, -0.2)
    assert page.verdict({"1": [a, b, c], "2": [a]}).endswith(
        "in 2 of 3 comparisons: there by 20.0 to 30.0 points."
    )
    assert "In none of 1 comparisons" in page.verdict({"1": [c]})
    assert "No attack" in page.verdict({"1": [page.Cells({}, None)]})


@pytest.mark.slow
def test_it_runs_what_is_missing_and_writes_the_page(tmp_path, monkeypatch, capsys):
    small = rows.PLANS["digits"]._replace(
        purifiers=("diffpure(t_star=2)", "revpure(t_star=2)"), bpda_images=4, num_steps=2
    )
    monkeypatch.setitem(rows.PLANS, "digits", small)
    workdir, kept = tmp_path / "tables", tmp_path / "kept"
    kept.mkdir()
    wrong = bundled()["cifar10_denoiser"]
    (kept / "of-colours.safetensors").write_bytes(wrong.read_bytes())
    argv = ["--data=digits", "--only=2,3", "--rows=BPDA", f"--checkpoints={kept}"]
    argv += ["--cpu_devices=0", f"--workdir={workdir}"]
    assert command(argv) == 0
    output = capsys.readouterr()
    assert "6 runs, 0 of them done" in output.out and "denoiser evaluations" in output.out
    assert "of-colours" in output.err  # what cannot be done is told, and the rest is done
    text = (workdir / "tables.html").read_text()
    assert "--config.purifier=revpure(t_star=2)" in text
    assert "diffpure(t_star=2), BPDA: " in text and "Of 1 comparison here" in text
    assert "not run: " in text and "of-colours" in text
    with (workdir / "tables.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [(row["table"], row["policy"]) for row in found] == [
        ("2", "fresh"),
        ("2", "replay"),
    ] * 2
    for row in found:
        value = float(row["robust_accuracy_value"])
        assert f"{100 * value:.1f}%" in text and int(row["num_examples"]) == 4
    assert command([*argv, "--page"]) == 0
    assert command(argv) == 0
    assert "6 runs, 4 of them done" in capsys.readouterr().out
    assert len(list(workdir.glob("digits_bpda_replay-*"))) == 4


def test_no_run_begins_with_the_programs_of_the_one_before(monkeypatch):
    """Some thirty runs of them are more mappings than Linux allows a process."""
    found = []
    monkeypatch.setattr(tables.jax, "clear_caches", lambda: found.append("cleared"))
    monkeypatch.setattr(tables.run, "main", lambda *_: found.append("run"))
    for _ in range(2):
        tables._run_one(["--config=digits_bpda_replay"])
    assert found == ["cleared", "run"] * 2
