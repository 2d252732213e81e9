"""What a run would cost on a slice: compiled for this machine's CPU in a chip's place."""

from unittest import mock

import jax
import pytest

from experiments import arguments, config, dry_run, overrides, run, tpu_cost
from experiments.build import experiment
from experiments.tpu_cost import Cost
from jaxpure.errors import UserError

TINY = (
    "random:unet(image_size=8,in_channels=1,out_channels=1,channels=8,channel_mult=[1],"
    "num_res_blocks=1,attention_resolutions=[],num_groups=4)"
)


def told(place, monkeypatch, **options):
    """The seconds that are told of a run of 11 digits."""
    monkeypatch.setattr(tpu_cost, "device", lambda chip: jax.devices("cpu")[0])
    usual = {
        "data.num_examples": "11",
        "batch_size": "4",
        "denoiser": TINY,
        "judging_keys": "2",
        "purifier.t_star": "2",
        "attack.num_steps": "3",
    }
    given = [
        arguments.Override(tuple(name.split(".")), value)
        for name, value in (usual | options).items()
    ]
    named = config.by_name("digits_bpda_replay", config.RunConfig)
    return dry_run.announce(experiment(overrides.apply(named, given)), place)


def costing(seconds, peak_bytes=1):
    return Cost(1.0, 1.0, peak_bytes, 0, seconds, 0.0)


@pytest.fixture
def priced(monkeypatch):
    """Purifying takes 1 s an evaluation, its derivative 10, a step of the attack 100."""
    prices = {dry_run.purify: costing(1.0), dry_run.differentiate: costing(10.0)}
    monkeypatch.setattr(
        dry_run, "_compiled", lambda chip, dtype, f, *_: prices.get(f, costing(100.0))
    )
    return monkeypatch


def test_cost_is_that_of_the_parts_times_how_often_they_run(priced, capsys):
    # 3 batches of 4: judging is of 2 keys, clean and attacked, by chains of 2 evaluations;
    # an attack is 4 steps (3 and the start), each with one more evaluation than is counted.
    judging, steps = 3 * 2 * 2 * 2 * 1.0, 3 * 4
    assert told("v5e", priced) == judging + steps * (100 + 1)
    assert "4 at once on each of 1 x v5e, in 3 batches" in capsys.readouterr().out
    assert told("v5e:2x2", priced) == (judging + steps * (100 + 1)) / 3
    exact = told("v5e", priced, gradient="exact")
    assert exact == judging + steps * (100 + 10)
    longer = told("v5e", priced, **{"purifier.t_star": "5"})
    assert longer == judging * 5 / 2 + steps * (100 + 4)
    drawn = {"attack.eot_samples": "3", "policy": "fresh"}
    # Of each draw a gradient, and a look of 2 evaluations to choose an iterate by.
    assert told("v5e", priced, **drawn) == judging + steps * 3 * (100 + 1 + 2)
    two = told("v5e", priced, **drawn, draws_at_once="2")  # two draws, and one, in two goes
    assert two == judging + steps * (2 * 100 + 3 * (1 + 2))


def test_a_batch_that_does_not_fit_is_told(priced):
    priced.setattr(dry_run, "_compiled", lambda *_: costing(1.0, peak_bytes=int(17e9)))
    with pytest.raises(UserError, match=r"batch_size=4 takes 17.0 GB .* has 16"):
        told("v5e", priced)


def test_a_program_that_the_compiler_cannot_place_is_told(monkeypatch):
    def refuse(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 20 GB of 16")

    monkeypatch.setattr(tpu_cost, "compiled_for", refuse)
    with pytest.raises(UserError, match="does not fit a chip of 16 GB"):
        told("v5e", monkeypatch)


@pytest.mark.slow
def test_the_programs_of_a_run_compile_for_another_device(monkeypatch):
    assert 0 < told("v5e", monkeypatch, gradient="exact") < 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:2x2", "unknown chip 'v9'; known: v5e, v5p, v6e"),
        ("v5e:", "expected a chip as in v5e"),
        ("v5e:0x2", "expected a chip as in v5e"),
        ("v5e:2x2;rm", "expected a chip as in v5e"),
    ],
)
def test_a_place_that_is_none_is_told_before_anything_is_built(capsys, name, message):
    named = ["--config=digits_bpda_replay", "--cpu_devices=0"]
    with mock.patch.object(run, "experiment", side_effect=AssertionError):
        assert run.command([*named, f"--dry_run={name}"]) == 2
    assert message in capsys.readouterr().err


def test_here_needs_no_name():
    flags = run.FLAGS
    assert arguments.parse(["--dry_run"], flags).dry_run == dry_run.HERE
    assert arguments.parse([], flags).dry_run is None
    assert arguments.parse(["--dry_run=v6e"], flags).dry_run == "v6e"
    assert dry_run.chips_in("v5e") == 1 and dry_run.chips_in("v5p:2x2x4") == 16
    assert "--dry_run[=TEXT]" in arguments.usage(flags)
