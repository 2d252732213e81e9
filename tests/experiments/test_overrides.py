"""The command line: what it changes of a config, and every mistake in one line."""

import pytest

from experiments import (
    check_gradient,
    cli,
    compare,
    devices,
    interrupts,
    judge,
    listing,
    overrides,
    program,
    run,
    table,
    train,
)
from experiments import config as configs
from experiments.arguments import parse

RUN = "--config=digits_bpda_replay"


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """No command of these tests comes so far as to need devices or its own signals."""
    monkeypatch.setattr(devices, "use", lambda *args, **kwargs: None)
    monkeypatch.setattr(program, "prepare_jax", lambda *_: None)
    monkeypatch.setattr(interrupts, "install", lambda: None)


def changed(*argv: str, name="digits_bpda_replay", kind=configs.RunConfig):
    found = parse(argv, (), takes_config=True)
    return overrides.apply(configs.by_name(name, kind), found.overrides)


def test_a_spec_is_replaced_and_one_option_of_it_is_changed():
    config = changed("--config.attack=apgd(num_restarts=5)", "--config.attack.rho=0.5")
    assert config.attack == "apgd(num_restarts=5,rho=0.5)"
    assert changed("--config.attack.num_steps=3").attack == (
        "pgd(step_size=8.5/255,num_steps=3)"
    )
    assert changed("--config.ball.eps=4/255").ball == "linf(eps=4/255)"


def test_the_order_of_overrides_is_of_no_importance():
    given = ("--config.attack.num_steps=3", "--config.attack=apgd")
    assert changed(*given) == changed(*reversed(given))
    assert changed(*given).attack == "apgd(num_steps=3)"


def test_an_option_of_a_nested_spec_is_changed_by_its_path():
    config = changed("--config.purifier.step_rule.clip=true")
    assert config.purifier == "diffpure(t_star=50,step_rule=ddpm(clip=true))"
    config = changed(
        "--config.purifier.image_size=64",
        "--config.purifier.purifier.t_star=9",
        name="imagenet_bpda_replay",
    )
    assert "t_star=9" in config.purifier and config.purifier.endswith("image_size=64)")
    config = changed("--config.gradient.other.t_star=9", name="digits_surrogate_fresh")
    assert config.gradient.startswith("transfer(other=diffpure(t_star=9,")


def test_data_by_the_name_of_a_tfds_set_have_its_options():
    config = changed("--config.data.num_examples=3", name="cifar_bpda_replay")
    assert config.data == "cifar10(num_examples=3)"
    assert changed("--config.data=mnist(train)").data == "mnist(train)"
    assert changed("--config.data=mnist(train)", "--config.data.split=test").data == (
        "mnist(split=test)"
    )


def test_plain_fields_are_read_as_their_type():
    config = changed("--config.seed=4294967295", "--config.compute_dtype", "bfloat16")
    assert config.seed == 2**32 - 1 and config.compute_dtype == "bfloat16"
    config = changed(
        "--config.flip=true",
        "--config.learning_rate=1/8",
        "--config.data.num_examples=7",
        name="digits_classifier",
        kind=configs.TrainConfig,
    )
    assert config.flip is True and config.learning_rate == 0.125
    assert config.data.num_examples == 7 and config.data.split == "train"


BAD_RUNS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    ((), ("--config=NAME is needed", "--list")),
    (("--config=",), ("''", "digits_bpda_replay")),
    (("--config",), ("--config needs a value",)),
    (("--config=digits_bpda_repla",), ("digits_bpda_repla", "'digits_bpda_replay'")),
    (("--config=digits_classifier",), ("unknown config 'digits_classifier'",)),
    ((RUN, RUN), ("--config is given twice",)),
    ((RUN, "--workdir"), ("--workdir needs a value",)),
    ((RUN, "--workdir="), ("--workdir is empty",)),
    ((RUN, "--workdir=a", "--workdir=b"), ("--workdir is given twice, a and b",)),
    ((RUN, "--wordkir=a"), ("--wordkir", "Did you mean --workdir?")),
    ((RUN, "--list=maybe"), ("--list=maybe",)),
    ((RUN, "surplus"), ("unexpected argument 'surplus'",)),
    ((RUN, "--judge_seed=-1"), ("--judge_seed=-1", "0 to 4294967295")),
    ((RUN, "--judge_seed=4294967296"), ("--judge_seed=4294967296",)),
    ((RUN, "--judge_seed=1.5"), ("--judge_seed=1.5", "whole number")),
    ((RUN, "--cpu_devices=-1"), ("--cpu_devices=-1",)),
    ((RUN, "--cpu_devices=two"), ("--cpu_devices=two", "whole number")),
    (
        (RUN, "--config.batch_size=4", "--config.batch_size=8"),
        ("is given twice, 4 and 8",),
    ),
    ((RUN, "--config.batch_size="), ("--config.batch_size is empty",)),
    ((RUN, "--config.batch_size"), ("--config.batch_size needs a value",)),
    ((RUN, "--config.batch_size=ten"), ("--config.batch_size=ten", "whole number")),
    ((RUN, "--config.batch_size=1e3"), ("--config.batch_size=1e3", "whole number")),
    ((RUN, "--config.batch_size=8.0"), ("--config.batch_size=8.0", "whole number")),
    ((RUN, "--config.batch_size=0"), ("config.batch_size=0", "at least 1")),
    ((RUN, "--config.judging_keys=1"), ("config.judging_keys=1", "at least 2")),
    ((RUN, "--config.seed=-1"), ("config.seed=-1", "modulo 2**32")),
    ((RUN, "--config.seed=4294967296"), ("config.seed=4294967296", "modulo 2**32")),
    ((RUN, "--config.seed=nan"), ("--config.seed=nan", "whole number")),
    ((RUN, "--config.compute_dtype=float16"), ("compute_dtype", "float32, bfloat16")),
    ((RUN, "--config.batchsize=4"), ("'batchsize'", "'batch_size'")),
    ((RUN, "--config..=4"), ("expected --config.FIELD=VALUE",)),
    ((RUN, "--config.batch_size.x=4"), ("config.batch_size has no options",)),
    ((RUN, "--config.denoiser.depth=4"), ("config.denoiser has no options",)),
    ((RUN, "--config.purifier.tstar=3"), ("purifier diffpure", "'tstar'", "'t_star'")),
    ((RUN, "--config.purifier.t_star=abc"), ("--config.purifier.t_star=abc", "whole")),
    ((RUN, "--config.purifier.t_star=0"), ("--config.purifier.t_star=0", "at least 1")),
    ((RUN, "--config.purifier.t_star=2000"), ("config.purifier", "below 1000")),
    ((RUN, "--config.purifier.t_star.x=2"), ("'t_star' has no options of its own",)),
    ((RUN, "--config.purifier=difpure"), ("--config.purifier=difpure", "'diffpure'")),
    ((RUN, "--config.purifier=diffpure(t_star=50"), ("character 9", "not closed")),
    ((RUN, "--config.purifier=diffpure)"), ("closes nothing",)),
    ((RUN, "--config.purifier=3"), ("unknown purifier '3'",)),
    ((RUN, "--config.purifier=diffpure(step_rule=ddmp)"), ("'ddmp'", "'ddpm'")),
    ((RUN, "--config.purifier=diffpure(step_rule=ddim(eta=x))"), ("eta=x", "number")),
    ((RUN, "--config.purifier=diffpure(schedule=cosine)"), ("config.purifier", "trained")),
    ((RUN, "--config.purifier=resized(purifier=diffpure)"), ("needs image_size",)),
    ((RUN, "--config.purifier.image_size=64"), ("resized(purifier=...",)),
    ((RUN, "--config.attack=pdg"), ("--config.attack=pdg", "'pgd'")),
    (
        (RUN, "--config.attack=pgd(num_steps=3,num_steps=4)"),
        ("is given twice",),
    ),
    ((RUN, "--config.attack=pgd(,)"), ("nothing between two commas",)),
    ((RUN, "--config.attack=pgd(num_steps=)"), ("'num_steps' has no value",)),
    ((RUN, "--config.attack=pgd(num_steps=3)x"), ("after the closing bracket",)),
    ((RUN, "--config.attack=pgd(loss='margin)"), ("quote at character",)),
    ((RUN, "--config.attack=()"), ("expected a name",)),
    (
        (RUN, "--config.attack.num_steps=-3"),
        ("--config.attack.num_steps=-3", "num_steps=-3"),
    ),
    ((RUN, "--config.attack.momentum=nan"), ("momentum=nan", "finite")),
    ((RUN, "--config.attack.step_size=inf"), ("step_size=inf", "finite")),
    ((RUN, "--config.attack.step_size=1/0"), ("step_size=1/0", "number")),
    ((RUN, "--config.attack.eot_samples=0"), ("eot_samples=0",)),
    ((RUN, "--config.attack.loss=crossentropy"), ("crossentropy", "cross_entropy")),
    ((RUN, "--config.attack.criterion=all"), ("criterion", "most")),
    ((RUN, "--config.attack.verify_samples=5"), ("'verify_samples'", "attack pgd")),
    ((RUN, "--config.attack.eps_255=8"), ("--config.ball='linf(8/255)'",)),
    ((RUN, "--config.attack.name=apgd"), ("--config.attack=NAME",)),
    ((RUN, "--config.attack=apgd(criterion=vote)"), ("attack apgd", "'criterion'")),
    ((RUN, "--config.attack=diffattack"), ("states of the forward and the reverse",)),
    ((RUN, "--config.ball=linf"), ("ball linf needs eps", "linf(eps=...)")),
    ((RUN, "--config.ball=l7(1)"), ("unknown ball 'l7'", "linf")),
    ((RUN, "--config.ball=8/255"), ("unknown ball '8/255'",)),
    ((RUN, "--config.ball=linf(0)"), ("nothing to change",)),
    ((RUN, "--config.ball=linf(300)"), ("--config.ball=linf(300)", "at most 1")),
    ((RUN, "--config.ball=linf(-8/255)"), ("at least 0",)),
    ((RUN, "--config.ball=l2(2100)"), ("to 8",)),
    ((RUN, "--config.ball=flow(0.05)"), ("pgd attacks in", "not in flow")),
    ((RUN, "--config.policy=replya"), ("replya", "fresh, fixed, replay")),
    ((RUN, "--config.policy=fresh,sideways=replay"), ("sideways", "forward, reverse")),
    ((RUN, "--config.gradient=bdpa"), ("--config.gradient=bdpa", "'bpda'")),
    ((RUN, "--config.gradient=bpda(1)"), ("gradient bpda", "no options")),
    ((RUN, "--config.gradient=surrogate"), ("gradient surrogate needs cheap",)),
    ((RUN, "--config.gradient=surrogate(diffpure(tstar=2))"), ("'tstar'", "'t_star'")),
    ((RUN, "--config.gradient=transfer(identity)"), ("shares no noise", "fresh")),
    ((RUN, "--config.gradient=surrogate(diffpure(t_star=2000))"), ("below 1000",)),
    ((RUN, "--config.data=digits(num_examples=9999)"), ("500 examples", "9999")),
    ((RUN, "--config.data=digits(split=validation)"), ("'validation'", "train, test")),
    ((RUN, "--config.data.image_size=16"), ("'image_size'", "digits")),
    ((RUN, "--config.data=folder:/nowhere"), ("folder",)),
    ((RUN, "--config.data=folder(/nowhere)"), ("/nowhere",)),
    ((RUN, "--config.data.name=mnist"), ("--config.data=NAME",)),
    ((RUN, "--config.denoiser=digits_denoizer"), ("config.denoiser", "'digits_denoiser'")),
    ((RUN, "--config.denoiser=digits_classifier"), ("is not a denoiser",)),
    ((RUN, "--config.denoiser=model.pt"), ("checkpoints_convert",)),
    ((RUN, "--config.classifier=digits_denoiser"), ("is not a classifier",)),
    ((RUN, "--config.classifier=cifar10_classifier"), ("(32, 32, 3)", "(8, 8, 1)")),
    ((RUN, "--config.classifier=nowhere.safetensors"), ("does not exist",)),
    ((RUN, "--config.classifier=random:resnext"), ("resnext", "'resnet'")),
]
BAD_OTHERS = [
    (compare.command, ("only_one",), ("usage:", "compare DIR DIR")),
    (compare.command, ("nothing", "nowhere"), ("nothing holds no finished run",)),
    (compare.command, ("", "nowhere"), ("name is empty",)),
    (table.command, (), ("usage:", "table DIR")),
    (table.command, ("nothing",), ("nothing holds no finished run",)),
    (table.command, ("nothing", "--out="), ("--out is empty",)),
    (judge.command, (), ("usage:",)),
    (judge.command, ("nothing",), ("nothing holds no run",)),
    (judge.command, ("nothing", "--keys=0"), ("--keys=0", "at least 1")),
    (judge.command, ("nothing", "--seed=-1"), ("--seed=-1",)),
    (check_gradient.command, (RUN, "--example=-1"), ("--example=-1",)),
    (check_gradient.command, (RUN, "--example=200"), ("--example=200", "0 to 199")),
    (listing.command, ("atack",), ("unknown kind 'atack'", "'attack'")),
    (cli.main, ("rnu",), ("unknown command 'rnu'", "'run'")),
    (train.command, ("--config=digits_bpda_replay",), ("unknown config",)),
    (train.command, ("--config=digits_classifier", "--config.task=x"), ("'x'", "classif")),
    (
        train.command,
        ("--config=digits_classifier", "--config.data=mnist"),
        ("fields of its own", "--config.data.name"),
    ),
    (
        train.command,
        ("--config=digits_classifier", "--config.flip=yes"),
        ("--config.flip=yes", "true or false"),
    ),
    (
        train.command,
        ("--config=digits_classifier", "--config.learning_rate=nan"),
        ("--config.learning_rate=nan", "finite"),
    ),
]


def refuses(command, argv, expected, capsys):
    assert command(list(argv)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for piece in expected:
        assert piece in line


@pytest.mark.parametrize(("argv", "expected"), BAD_RUNS, ids=lambda v: " ".join(v))
def test_a_bad_run_is_refused_in_one_line(argv, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuses(run.command, argv, expected, capsys)
    assert not list(tmp_path.iterdir())  # a typing error claims no directory


@pytest.mark.parametrize(("command", "argv", "expected"), BAD_OTHERS)
def test_other_bad_commands_too(command, argv, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuses(command, argv, expected, capsys)


def test_help_shows_the_fields_of_a_config(capsys):
    assert run.command(["--help", RUN]) == 0
    shown = capsys.readouterr().out
    assert "--config.attack='pgd(step_size=8.5/255,num_steps=20)'" in shown
    assert "--judge_seed=N" in shown and "The main job" in shown


def test_the_list_of_a_kind_shows_every_option(capsys):
    assert listing.command(["attack"]) == 0
    assert "apgd(num_steps=100, eot_samples=1" in capsys.readouterr().out
    assert listing.command([]) == 0
    shown = capsys.readouterr().out
    assert "digits_bpda_replay" in shown and "diffpure, revpure" in shown


def test_arguments_of_a_change_are_applied_to_that_change():
    name = "cifar10_denoiser"
    config = configs.by_name(name, configs.TrainConfig)
    config.data.num_examples, config.data.data_dir = 7, "somewhere"
    config.learning_rate, config.flip = 0.5, False
    argv = overrides.arguments_of(name, config)
    assert argv[0] == "--config=cifar10_denoiser" and len(argv) == 4
    given = parse(argv, (), takes_config=True)
    again = overrides.apply(configs.by_name(name, configs.TrainConfig), given.overrides)
    config.data.data_dir = ""
    assert again == config
    assert (
        overrides.arguments_of(name, configs.by_name(name, configs.TrainConfig)) == argv[:1]
    )
