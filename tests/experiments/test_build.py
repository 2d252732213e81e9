"""From configs to things that run: every config builds, and what does not fit is named."""

import dataclasses
import json

import numpy as np
import PIL.Image
import pytest

from experiments import build
from experiments import config as configs
from jaxpure import attacks, data, purifiers, specs
from jaxpure.attacks import ATTACKS
from jaxpure.errors import UserError

RANDOM_UNET = (
    "random:unet(image_size=8,in_channels=1,out_channels=1,channels=8,channel_mult=[1,2],"
    "num_res_blocks=1,attention_resolutions=[4],num_groups=4)"
)
RANDOM_UNET_16 = RANDOM_UNET.replace("image_size=8", "image_size=16")
FEW = {"data": "digits(num_examples=3)", "purifier": "diffpure(t_star=9)"}


def config_with(**changes):
    """digits_bpda_replay of few examples and steps, with fields changed."""
    config = configs.by_name("digits_bpda_replay", configs.RunConfig)
    return dataclasses.replace(config, **FEW | changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"purifier": "resized(purifier=diffpure(t_star=9),image_size=16)"},
            ("config.denoiser=digits_denoiser", "(8, 8, 1)", "(16, 16, 1)", "resized("),
        ),
        (
            {"classifier": "random:wide_resnet(image_size=8,in_channels=1,num_classes=7)"},
            ("has 7 classes", "digits has 10"),
        ),
        ({"denoiser": RANDOM_UNET + "x"}, ("after the closing bracket",)),
        (
            {
                "denoiser": "random:guided_unet(image_size=8,in_channels=1,num_classes=3,"
                "channels=32,channel_mult=[1,1],num_res_blocks=1,head_channels=32)"
            },
            ("class-conditional",),
        ),
        ({"denoiser": "hf:nobody"}, ("config.denoiser=hf:nobody",)),
        ({"attack": "stadv"}, ("stadv attacks in flow", "linf")),
        ({"data": "digits(num_examples=0)"}, ("config.data", "at least 1")),
    ],
)
def test_what_does_not_fit_is_named(changes, expected):
    with pytest.raises(UserError) as caught:
        build.experiment(config_with(**changes))
    for piece in expected:
        assert piece in str(caught.value)


@pytest.mark.parametrize("name", sorted(configs.names()))
def test_every_config_is_documented(name):
    assert configs.names()[name].endswith(".")
    assert f"--config={name}" in configs.about(name)


SHAPES = {"cifar10": (32, 32, 3), "mnist": (28, 28, 1), "digits": (8, 8, 1)}
BUILT = [n for n in configs.names(configs.RunConfig) if n.split("_")[0] != "imagenet"]


@pytest.mark.parametrize("name", BUILT)
def test_configs_build(name, monkeypatch):
    """On made-up images of their shapes; their weights come with the project."""

    def load(spec, data_dir=None):
        del data_dir
        what = specs.parse(spec).name
        images = np.zeros((3, *SHAPES[what]), np.uint8)
        labels, indices = np.arange(3, dtype=np.int32), np.arange(3)
        return data.Dataset(what, images, labels, indices, 10)

    monkeypatch.setattr(build, "load", load)
    config = configs.by_name(name, configs.RunConfig)
    built = build.experiment(config)
    assert all(int(stage.budget.calls) >= 21 for stage in built.setup.stages)
    assert built.undefended_setup.policy.replays_all
    assert isinstance(built.undefended.purifier, purifiers.Identity)


@pytest.mark.parametrize(
    ("name", "attack"),
    [
        ("digits_square_replay", attacks.Square(num_queries=1000, loss="margin")),
        ("digits_bpda_eot_hill", attacks.BpdaEotHill(12.75 / 255, 50, 15, 150)),
        ("cifar_diffattack_fresh", attacks.DiffAttack(100, 20)),
        ("cifar_diffhammer_fresh", attacks.DiffHammer(1 / 255, 150, 10)),
        ("digits_stadv_replay", attacks.Stadv(num_steps=20, loss="margin")),
        ("cifar_bpda_replay", attacks.Pgd(2 / 255, 50)),
    ],
)
def test_papers_numbers_are_what_runs(name, attack):
    config = configs.by_name(name, configs.RunConfig)
    assert specs.build(ATTACKS, config.attack) == attack


def test_the_photographs_that_the_denoiser_never_saw_are_attacked(tmp_path):
    """Every tenth of a folder of classes, for networks of a thousand."""
    for i in range(1000):
        folder = tmp_path / f"n{i:08d}"
        folder.mkdir()
        if i % 10 == 0:
            PIL.Image.new("RGB", (8, 8), (i % 256, 0, 0)).save(folder / "0.png")
    trained = configs.by_name("imagenet_samples_denoiser", configs.TrainConfig).data
    assert trained.test_every == 10
    config = configs.by_name("imagenet_samples_bpda_replay", configs.RunConfig)
    unseen = [10 * i for i in range(64)]
    assert json.loads(specs.parse(config.data).options["indices"]) == unseen
    small = ",".join(str(i) for i in range(64))  # of the hundred that are here
    folder = f"folder({tmp_path},image_size=224,indices=[{small}])"
    config = dataclasses.replace(
        config,
        data=folder,
        denoiser="random:naf_unet(image_size=224,widths=[8],blocks=[1],any_size=true)",
        classifier="random:efficientnet_lite(num_classes=1000)",
    )
    built = build.experiment(config)
    assert built.dataset.image_shape == (224, 224, 3)
    np.testing.assert_array_equal(built.dataset.labels, 10 * np.arange(64))


def test_replay_and_fresh_differ_in_the_policy_alone():
    for kind in ("digits_bpda", "digits_pgd", "cifar_bpda", "imagenet_samples_bpda"):
        replay, fresh = (
            dataclasses.asdict(configs.by_name(f"{kind}_{policy}", configs.RunConfig))
            for policy in ("replay", "fresh")
        )
        assert {k for k in replay if replay[k] != fresh[k]} == {"policy"}


@pytest.mark.parametrize(
    ("changes", "evaluations"),
    [
        ({"purifier": "revpure(t_star=9,scale_input=true)"}, 9),
        ({"purifier": "one_shot(t_star=9)"}, 1),
        ({"purifier": "identity"}, 0),
        ({"purifier": "diffpure(t_star=9,step_rule=ddim(eta=0.5,num_steps=7))"}, 7),
        ({"purifier": "diffpure(t_star=9,step_rule=sde,rounds=2)"}, 18),
        ({"purifier": "diffpure(t_star=9,step_rule=ode,start=t_star)"}, 10),
        ({"purifier": "diffpure(t_star=9,schedule=cosine)", "denoiser": RANDOM_UNET}, 9),
        (
            {
                "purifier": "resized(purifier=diffpure(t_star=9),image_size=16)",
                "denoiser": RANDOM_UNET_16,
            },
            9,
        ),
        ({"gradient": "surrogate(diffpure(t_star=5,step_rule=ddim(num_steps=2)))"}, 9),
        ({"policy": "fresh,forward=replay"}, 9),
        ({"attack": "pgd(momentum=0.9,loss=dlr)", "ball": "l2(0.5)"}, 9),
    ],
)
def test_options_reach_the_library(changes, evaluations):
    built = build.experiment(config_with(**changes))
    assert built.defense.purifier.denoiser_evaluations == evaluations


def test_a_transfer_attack_sees_another_defense_than_judges():
    built = build.experiment(config_with(gradient="transfer(identity)", policy="fresh"))
    assert isinstance(built.setup.seen.purifier, purifiers.Identity)
    assert built.defense.purifier.denoiser_evaluations == 9
    shorter = config_with(gradient="transfer(diffpure(t_star=7))", policy="fresh")
    seen = build.experiment(shorter).setup.seen
    assert seen.purifier.denoiser_evaluations == 7


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"attack": "diffhammer(criterion=vote)"}, "DiffHammer"),
        ({"attack": "diffattack(deviation_weight=2.0)"}, "Apgd"),
        ({"attack": "stadv", "ball": "flow(0.1)"}, "Stadv"),
        ({"attack": "bpda_eot_hill(verify_samples=9)"}, "Pgd"),
        ({"attack": "pgd(iterate=last,criterion=any)"}, "Pgd"),
    ],
)
def test_the_undefended_classifier_gets_what_is_left_of_the_attack(changes, kind):
    built = build.experiment(config_with(gradient="exact", **changes))
    (stage,) = built.undefended_setup.stages
    assert type(stage.attack).__name__ == kind
    assert getattr(stage.attack, "criterion", "most") == "most"


def test_the_data_folder_reaches_the_sources_that_look_somewhere(tmp_path):
    assert build.load("digits(num_examples=2)", str(tmp_path)).name == "digits"
    with pytest.raises(UserError, match=str(tmp_path)):
        build.load("cifar10(num_examples=2)", str(tmp_path))
