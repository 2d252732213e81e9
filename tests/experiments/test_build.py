"""From configs to things that run: every config builds, and what does not fit is named."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import build, weights
from experiments import config as configs
from jaxpure import attacks, checkpoints, models, purifiers
from jaxpure.data import Dataset
from jaxpure.errors import UserError

RANDOM_UNET = (
    "random:unet(image_size=8,in_channels=1,out_channels=1,channels=8,channel_mult=1|2,"
    "num_res_blocks=1,attention_resolutions=4,num_groups=4)"
)
RANDOM_UNET_16 = RANDOM_UNET.replace("image_size=8", "image_size=16")


def config_with(**changes):
    """digits_bpda_replay with dotted fields changed ("purifier__t_star")."""
    config = configs.by_name("digits_bpda_replay", configs.RunConfig)
    for path, value in changes.items():
        *parents, name = path.split("__")
        node = config
        for parent in parents:
            node = getattr(node, parent)
        setattr(node, name, value)
    return config


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data__num_examples": 9999}, ("500 examples", "9999")),
        ({"denoiser": "digits_denoizer"}, ("digits_denoizer", "'digits_denoiser'")),
        ({"classifier": "nowhere.safetensors"}, ("nowhere.safetensors", "not exist")),
        (
            {"denoiser": "digits_denoizer.safetensors"},
            ("not exist", "cifar10_denoiser", "Did you mean digits_denoiser?"),
        ),
        ({"policy": "fresh,sideways=replay"}, ("sideways", "forward, reverse")),
        ({"policy": "replay,judging=sometimes"}, ("sometimes", "fresh, fixed, replay")),
        ({"gradient": "bdpa"}, ("bdpa", "'bpda'")),
        ({"gradient": "surrogate"}, ("surrogate(t_star=20)",)),
        ({"gradient": "surrogate(tstar=2)"}, ("tstar", "'t_star'")),
        ({"gradient": "surrogate(t_star=x)"}, ("t_star=x", "int")),
        ({"gradient": "transfer"}, ("transfer(t_star=20)",)),
        ({"gradient": "transfer(name=identity)"}, ("shares no noise", "policy=fresh")),
        ({"attack__name": "pdg"}, ("pdg", "'pgd'")),
        ({"attack__norm": "l7"}, ("l7", "linf, l2")),
        ({"attack__loss": "crossentropy"}, ("crossentropy", "cross_entropy")),
        ({"attack__eps_255": 300.0}, ("eps=",)),
        ({"attack__eot_samples": 0}, ("eot_samples=0",)),
        ({"attack__verify_samples": 5}, ("pgd", "verify_samples")),
        ({"purifier__step_rule": "ddmp"}, ("ddmp", "'ddpm'")),
        ({"purifier__step_rule": "ddim(eta=x)"}, ("eta=x", "float")),
        ({"purifier__step_rule": "ddim(eta=0.5"}, ("closing bracket",)),
        ({"purifier__step_rule": "ddpm(variance=big)"}, ("big", "fixed_large")),
        ({"purifier__t_star": 2000}, ("t_star=2000", "digits_denoiser", "below 1000")),
        ({"purifier__schedule": "cosine"}, ("'cosine'", "digits_denoiser", "'linear'")),
        ({"purifier__image_size": 16}, ("(8, 8, 1)", "(16, 16, 1)", "purifier.image_size")),
        ({"data__image_size": 16}, ("option of data set digits", "image_size")),
        ({"denoiser": "digits_classifier"}, ("digits_classifier is not a denoiser",)),
        ({"classifier": "digits_denoiser"}, ("digits_denoiser is not a classifier",)),
        ({"classifier": "cifar10_classifier"}, ("(32, 32, 3)", "(8, 8, 1)")),
        (
            {"classifier": "random:wide_resnet(image_size=8,in_channels=1,num_classes=7)"},
            ("has 7 classes", "digits has 10"),
        ),
        ({"classifier": "random:resnext"}, ("resnext", "'resnet'")),
        ({"denoiser": RANDOM_UNET + "x"}, ("closing bracket",)),
        (
            {
                "denoiser": "random:guided_unet(image_size=8,in_channels=1,num_classes=3,"
                "channels=32,channel_mult=1|1,num_res_blocks=1,head_channels=32)"
            },
            ("class-conditional",),
        ),
        (
            {
                "denoiser": "random:guided_unet(channels=32,channel_mult=1|1,"
                "attention_levels=1)"
            },
            ("32 channels of attention do not split into heads of head_channels=64",),
        ),
        ({"denoiser": "hf:nobody"}, ("nobody",)),
        ({"purifier__name": "one_shot", "purifier__rounds": 3}, ("one_shot", "rounds")),
        ({"judging_keys": 1}, ("judging_keys=1", "at least 2")),
        ({"attack__eps_255": 0.0}, ("eps_255=0", "nothing to change")),
        ({"attack__eps_255": 256.0}, ("0 to 1",)),
        (
            {"attack__norm": "l2", "attack__eps_255": 2100.0},
            ("eps_255=2100 in l2", "to 2040"),
        ),
        ({"attack__name": "stadv", "attack__flow_bound": 0.0}, ("flow_bound=0 in flow",)),
        (
            {"attack__name": "diffattack", "gradient": "bpda"},
            ("states of the forward and the reverse pass",),
        ),
        ({"attack__name": "apgd", "attack__criterion": "vote"}, ("apgd", "criterion")),
        ({"batch_size": 0}, ("batch_size=0",)),
    ],
)
def test_what_does_not_fit_is_named(changes, expected):
    errors = (configs.ConfigError, UserError, checkpoints.CheckpointError)
    with pytest.raises(errors) as caught:
        build.experiment(config_with(**changes))
    for piece in expected:
        assert piece in str(caught.value)


@pytest.mark.parametrize("name", sorted(configs.names()))
def test_every_config_is_documented(name):
    module = inspect.getmodule(configs.by_name)
    assert module is not None
    assert configs.names()[name].endswith(".")


@pytest.mark.parametrize(
    "name", [n for n in configs.names(configs.RunConfig) if "digits" in n]
)
def test_digits_configs_build(name):
    built = build.experiment(configs.by_name(name, configs.RunConfig))
    assert len(built.dataset) == 200
    assert all(a.max_steps >= 21 for _, a in attacks.stages_of(built.attack))


SHAPES = {"cifar10": (32, 32, 3), "mnist": (28, 28, 1)}


@pytest.mark.parametrize(
    "name",
    [n for n in configs.names(configs.RunConfig) if n.startswith(("cifar", "mnist"))],
)
def test_configs_of_other_sets_build(name, monkeypatch):
    """On made-up images of their shapes; their weights come with the project."""

    def load_data(config, split):
        images = np.zeros((3, *SHAPES[config.name]), np.uint8)
        return Dataset(config.name, images, np.arange(3), np.arange(3), 10)

    monkeypatch.setattr(build, "load_data", load_data)
    built = build.experiment(configs.by_name(name, configs.RunConfig))
    assert all(a.max_steps >= 21 for _, a in attacks.stages_of(built.attack))


def test_a_denoiser_trained_on_other_labels_is_told_them(tmp_path):
    """improved-diffusion numbers the timesteps of 4000 from 0 to 1000."""
    config = models.UNet(
        image_size=8,
        in_channels=1,
        out_channels=1,
        channels=8,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_resolutions=(),
        num_groups=4,
    )
    network = models.create(config, jax.random.key(0))
    path = str(tmp_path / "scaled.safetensors")
    card = {"schedule": "cosine(num_timesteps=4000)", "label_scale": 0.25}
    checkpoints.save(path, network, {"diffusion": card})
    built = build.experiment(
        config_with(denoiser=path, purifier__schedule="cosine(num_timesteps=4000)")
    )
    x = jnp.ones((8, 8, 1))
    got = built.defense.purifier.denoiser(x, jnp.float32(40))
    np.testing.assert_allclose(got, network(x, jnp.float32(10)), atol=1e-6)


def test_a_sampler_that_is_not_the_denoisers_own_is_told(tmp_path, caplog):
    network = weights.load("digits_denoiser")
    path = str(tmp_path / "own.safetensors")
    card = {"schedule": "linear", "variance": "fixed_small", "clip": True}
    checkpoints.save(path, network, {"diffusion": card})
    with caplog.at_level("WARNING"):
        build.experiment(config_with(denoiser=path))
    assert "variance=fixed_small" in caplog.text and "clip=true" in caplog.text
    caplog.clear()
    own = "ddpm(variance=fixed_small,clip=true)"
    with caplog.at_level("WARNING"):
        build.experiment(config_with(denoiser=path, purifier__step_rule=own))
    assert "variance" not in caplog.text


def test_replay_and_fresh_differ_in_the_policy_alone():
    for kind in ("digits_bpda", "digits_pgd", "cifar_bpda"):
        replay, fresh = (
            dataclasses.asdict(configs.by_name(f"{kind}_{policy}", configs.RunConfig))
            for policy in ("replay", "fresh")
        )
        assert {k for k in replay if replay[k] != fresh[k]} == {"policy"}


@pytest.mark.parametrize(
    "changes",
    [
        {"purifier__name": "revpure", "purifier__scale_input": True},
        {"purifier__name": "one_shot"},
        {"purifier__name": "identity", "purifier__t_star": 100},
        {"purifier__step_rule": "ddim(eta=0.5,num_steps=7)"},
        {"purifier__step_rule": "sde", "purifier__rounds": 2},
        {"purifier__step_rule": "ode", "purifier__start": "t_star"},
        {"purifier__schedule": "cosine", "denoiser": RANDOM_UNET},
        {"purifier__image_size": 16, "denoiser": RANDOM_UNET_16},
        {"gradient": "surrogate(t_star=5,step_rule=ddim(num_steps=2))"},
        {"policy": "fresh,forward=replay"},
        {"attack__norm": "l2", "attack__momentum": 0.9, "attack__loss": "dlr"},
    ],
)
def test_options_reach_the_library(changes):
    built = build.experiment(config_with(**{"purifier__t_star": 9, **changes}))
    evaluations = {"one_shot": 1, "identity": 0}.get(changes.get("purifier__name"), 9)
    if "num_steps" in changes.get("purifier__step_rule", ""):
        evaluations = 7
    if "purifier__start" in changes:
        evaluations = 10
    evaluations *= changes.get("purifier__rounds", 1)
    assert built.defense.purifier.denoiser_evaluations == evaluations
    assert built.attack.eps == pytest.approx(0.2)


def test_a_transfer_attack_sees_another_defense_than_judges():
    config = config_with(gradient="transfer(name=identity)", policy="fresh")
    built = build.experiment(config)
    assert isinstance(built.seen.purifier, purifiers.Identity)
    assert built.defense.purifier.denoiser_evaluations == 50
    shorter = build.experiment(config_with(gradient="transfer(t_star=7)", policy="fresh"))
    assert shorter.seen.purifier.denoiser_evaluations == 7


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"attack__name": "diffhammer", "attack__criterion": "vote"}, "DiffHammer"),
        ({"attack__name": "diffattack", "attack__deviation_weight": 2.0}, "Apgd"),
        ({"attack__name": "stadv", "attack__flow_bound": 0.1}, "Stadv"),
        ({"attack__name": "bpda_eot_hill", "attack__verify_samples": 9}, "Pgd"),
        ({"attack__iterate": "last", "attack__criterion": "any"}, "Pgd"),
    ],
)
def test_the_bare_classifier_gets_what_is_left_of_the_attack(changes, kind):
    built = build.experiment(config_with(gradient="exact", **changes))
    assert type(built.bare_attack).__name__ == kind
    assert built.bare_attack.policy.replays_all
    assert getattr(built.bare_attack, "criterion", "most") == "most"


def test_a_denoiser_of_continuous_time_needs_a_rule_of_it(tmp_path):
    config = models.NcsnPp(
        image_size=8, in_channels=1, channels=16, channel_mult=(1, 1), num_res_blocks=1
    )
    network = models.create(config, jax.random.key(0))
    path = str(tmp_path / "ncsnpp.safetensors")
    checkpoints.save(path, network, {"diffusion": {"schedule": "continuous_vp"}})
    with pytest.raises(configs.ConfigError, match="continuous time: use .*sde"):
        build.experiment(config_with(denoiser=path))
    rule = "sde(labels=continuous)"
    built = build.experiment(config_with(denoiser=path, purifier__step_rule=rule))
    assert built.defense.purifier.denoiser_evaluations == 50


def test_specs_nest():
    name, options = configs.parse_spec(
        "surrogate(t_star=5,step_rule=ddim(eta=1,num_steps=2))"
    )
    assert name == "surrogate"
    assert options == {"t_star": "5", "step_rule": "ddim(eta=1,num_steps=2)"}
    assert configs.parse_spec("ddpm") == ("ddpm", {})
    np.testing.assert_array_equal(configs.read_as("1|2|4", (1, 1), "mult"), (1, 2, 4))
