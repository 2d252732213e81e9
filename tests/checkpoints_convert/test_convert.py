"""Files as people have them: converted by the command, or refused in one sentence."""

import argparse
import dataclasses
import io
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import filled
from safetensors.numpy import save_file

from checkpoints_convert import (
    ConversionError,
    check,
    conversion,
    convert,
    converted_from_hub,
    locate,
)
from checkpoints_convert.__main__ import main
from checkpoints_convert.families import FAMILIES
from checkpoints_convert.published import PUBLISHED, Published
from checkpoints_convert.sources import open_contents
from jaxpure import models, weights
from tests.experiments.commands import ROOT, error_line


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def tensors(golden):
    """A tiny classifier's, as its own code names them."""
    return filled(golden("model_wrn_standard_tiny"))


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "checkpoints_convert", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


def as_torch(torch, tensors, prefix=""):
    return {f"{prefix}{k}": torch.from_numpy(v.copy()) for k, v in tensors.items()}


def assert_same_network(path, expected):
    network = weights.load(path)
    assert network.architecture == expected.architecture
    got, want = (weights.flatten(n.params) for n in (network, expected))
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.fixture
def expected(tmp_path, tensors):
    """The network that the plain safetensors file of these tensors becomes."""
    save_file(tensors, tmp_path / "plain.safetensors")
    convert(str(tmp_path / "plain.safetensors"), tmp_path / "expected.safetensors")
    return weights.load(tmp_path / "expected.safetensors")


def test_the_command_converts_lists_and_checks(tmp_path, tensors):
    source, out = tmp_path / "mine.safetensors", tmp_path / "out.safetensors"
    save_file(tensors, source)
    code, output = command(source, out)
    assert code == 0, output
    assert "robustbench_wrn, wide_resnet(depth=16," in output
    assert "of 691,674 parameters" in output
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["family"] == "robustbench_wrn"
    assert card["source"] == "mine.safetensors"
    assert card["source_bytes"] == source.stat().st_size
    assert "depth=16" in card["architecture"]
    assert card["sha256"] == weights.sha256(out)
    assert {"source_sha256", "licence", "converted", "jaxpure", "input"} <= card.keys()
    code, output = command("--check", out)
    assert code == 0 and "one forward pass gives (10,)" in output
    code, output = command("--list")
    assert code == 0
    assert all(entry.name in output for entry in PUBLISHED)


def test_the_list_names_what_the_field_uses():
    files = {entry.file for entry in PUBLISHED}
    assert files >= {
        "256x256_diffusion_uncond.pt",
        "checkpoint_8.pth",
        "model-790000.ckpt",
        "weights-best.pt",
        "resnet50-0676ba61.pth",
        "wide_resnet50_2-95faca4d.pth",
        "deit_small_patch16_224-cd65a155.pth",
        "origin.t7",
    }
    assert sum(entry.file == "weights-best.pt" for entry in PUBLISHED) == 3
    names = " ".join(entry.name for entry in PUBLISHED)
    assert "google/ddpm-cifar10-32" in names and "RobustBench Standard" in names


@pytest.mark.parametrize("wrapper", ["flat", "state_dict", "module", "legacy", "training"])
def test_wrappers_of_torch_are_taken_off(tmp_path, torch, tensors, expected, wrapper):
    path = tmp_path / "source.pt"
    plain = as_torch(torch, tensors)
    if wrapper == "legacy":
        torch.save(plain, path, _use_new_zipfile_serialization=False)
    else:
        content = {
            "flat": plain,
            "state_dict": {"state_dict": plain, "epoch": 3},
            "module": {"state_dict": as_torch(torch, tensors, "module.")},
            "training": {
                "model_state_dict": as_torch(torch, tensors, "module.0."),
                "unaveraged_model_state_dict": as_torch(torch, tensors, "module.0."),
                "optimizer": {"state": {0: {"step": torch.zeros(())}}},
                "args": argparse.Namespace(lr=0.1),
                "best": np.float64(0.9),
            },
        }[wrapper]
        torch.save(content, path)
    convert(str(path), tmp_path / "out.safetensors")
    assert_same_network(tmp_path / "out.safetensors", expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_half_precision_is_widened(tmp_path, torch, tensors, kind, dtype):
    from safetensors.torch import save_file as save_torch

    path = tmp_path / f"half.{kind}"
    narrow = {k: v.to(getattr(torch, dtype)) for k, v in as_torch(torch, tensors).items()}
    save_torch(narrow, path) if kind == "safetensors" else torch.save(narrow, path)
    convert(str(path), tmp_path / "out.safetensors")
    params = weights.load(tmp_path / "out.safetensors").params
    kernel = params["params"]["conv_in"]["kernel"]
    assert kernel.dtype == jnp.float32
    want = narrow["conv1.weight"].float().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, want)


def test_averaged_weights_come_from_the_ordered_list(tmp_path, torch, golden):
    """score_sde's checkpoint: DataParallel's names, and the average as a bare list."""
    fixture = golden("model_score_sde_tiny")
    tensors = filled(fixture)
    order = [n for n, _, _ in json.loads(str(fixture["tensors"])) if n in tensors]
    raw = {f"module.{name}": torch.zeros(tensors[name].shape) for name in order}
    content = {
        "model": {"module.sigmas": torch.zeros(1000, dtype=torch.float64)} | raw,
        "ema": {
            "decay": 0.9999,
            "num_updates": 7,
            "shadow_params": [torch.from_numpy(tensors[name].copy()) for name in order],
        },
        "optimizer": {"state": {}, "param_groups": []},
        "step": 7,
    }
    path, out = tmp_path / "checkpoint.pth", tmp_path / "out.safetensors"
    torch.save(content, path)
    tiny = {"image_size": "16", "attention_resolutions": "8"}
    card = convert(str(path), out, settings=tiny)
    assert card["family"] == "score_sde"
    assert card["trained"]["schedule"] == "continuous_vp"
    kernel = weights.load(out).params["params"]["conv_in"]["kernel"]
    want = tensors["all_modules.2.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, want)
    content["ema"]["shadow_params"].pop()
    torch.save(content, path)
    with pytest.raises(ConversionError, match="do not match"):
        convert(str(path), out)


def test_the_shadow_order_of_the_published_file_is_that_of_its_names():
    folder = ROOT / "tests/checkpoints_convert/keys"
    lines = (folder / "score_sde_shadow_order.txt").read_text().splitlines()
    listed = (folder / "score_sde_cifar10_ddpmpp_deep.txt").read_text().splitlines()
    names = [line.split("\t")[0] for line in listed]
    assert [line.split("\t")[1] for line in lines] == [n for n in names if n != "sigmas"]


class Module:
    """Stands for the pickled network of somebody's repository."""


def bad_files(torch, tensors):
    """Each kind of file that is not a checkpoint, with what must be said of it."""
    return {
        "pickle.safetensors": (b"\x80\x02}q\x00.", "is named as safetensors and is none"),
        "page.pt": (b"\n<!DOCTYPE html><html>sign in</html>", "is a web page"),
        "empty.pt": (b"", "is empty"),
        "text.pt": (b"hello there, world", "neither safetensors nor a torch checkpoint"),
        "pointer.safetensors": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "git-lfs pointer",
        ),
        "origin.t7": ({"net": Module()}, "pickled Python objects .*Module.*refused"),
        "optimizer.pt": (
            {"state": {0: {"exp_avg": {"a": 1}}}, "param_groups": [{"lr": 0.1}]},
            "optimizer's state and no model",
        ),
        "numbers.pt": ({"a": 1, "b": 2}, "holds no tensors of a model; its keys: a, b"),
        "list.pt": ([1, 2], "holds a list"),
        "other.pt": ({"x.weight": torch.zeros(3)}, "no family has tensors named x.weight"),
        "short.pt": (
            {k: v for k, v in tensors.items() if "fc.bias" not in k},
            "1 parameters that nothing fills: params.logits.bias",
        ),
        "long.pt": (
            tensors | {"block9.layer.0.conv1.weight": torch.zeros(3, 3, 3, 3)},
            "1 tensors that nothing uses: block9.layer.0.conv1.weight",
        ),
        "resnet50-0676ba61.pth": (tensors, "is not what its name says: expected torch"),
    }


NAMES = [
    "pickle.safetensors",
    "page.pt",
    "empty.pt",
    "text.pt",
    "pointer.safetensors",
    "origin.t7",
    "optimizer.pt",
    "numbers.pt",
    "list.pt",
    "other.pt",
    "short.pt",
    "long.pt",
    "resnet50-0676ba61.pth",
]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_a_checkpoint_is_refused(tmp_path, torch, tensors, name):
    content, message = bad_files(torch, as_torch(torch, tensors))[name]
    path, folder = tmp_path / name, tmp_path / "out"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ConversionError, match=message) as caught:
        convert(str(path), folder / "out.safetensors")
    assert "\n" not in str(caught.value)
    assert not folder.exists() or not list(folder.iterdir())


def test_a_checkpoint_whose_name_is_code_is_no_torchscript(tmp_path, torch):
    """torch names the folder inside after the file."""
    torch.save({"x.weight": torch.zeros(3)}, tmp_path / "code.pt")
    assert open_contents(tmp_path / "code.pt").shapes == {"x.weight": (3,)}


@pytest.mark.parametrize("kind", ["pt", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_a_file_cut_short_is_refused(tmp_path, torch, tensors, kind, share):
    path = tmp_path / f"cut.{kind}"
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        zipped = kind == "pt"
        content = as_torch(torch, tensors)
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ConversionError, match="damaged or cut short|not a readable torch"):
        convert(str(path), tmp_path / "out.safetensors")
    assert not list(tmp_path.glob("*out*"))


def test_a_refusal_of_the_command_is_one_line(tmp_path):
    (tmp_path / "page.pt").write_text("<html>")
    code, output = command(tmp_path / "page.pt", tmp_path / "out.safetensors")
    assert code == 2 and "web page" in error_line(output)
    code, output = command(tmp_path / "nothing.pt", tmp_path / "out.safetensors")
    assert code == 2 and "is not a file or folder here" in error_line(output)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "pessar"}, "unknown family 'pessar'.*Did you mean 'pesser'"),
        ({"family": "torchvision_resnet"}, "not a checkpoint of torchvision_resnet"),
        ({"settings": {"dept": "3"}}, "unknown field of WideResNet 'dept'; known: depth"),
        ({"settings": {"depth": "deep"}}, "--set depth=deep: expected a value like 16"),
        ({"settings": {"depth": "17"}}, r"depth=17, expected 6 n \+ 4"),
        ({"settings": {"depth": "22"}}, "parameters that nothing fills"),
    ],
)
def test_options_that_do_not_fit_are_named(tmp_path, tensors, options, message):
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ConversionError, match=message):
        convert(str(tmp_path / "a.safetensors"), tmp_path / "out.safetensors", **options)


def test_a_name_that_is_no_safetensors_is_refused_before_work(tmp_path):
    with pytest.raises(ConversionError, match="ends in .safetensors"):
        convert("nothing", tmp_path / "out.pt")


def test_what_names_do_not_tell_is_asked_for(tmp_path, golden):
    """ViT-B was published with two normalisations: none is guessed."""
    tensors = filled(golden("model_deit_small_tiny"))
    save_file(tensors, tmp_path / "vit.safetensors")
    source, out = str(tmp_path / "vit.safetensors"), tmp_path / "out.safetensors"
    with pytest.raises(ConversionError, match="does not tell mean and std: give --set"):
        convert(source, out)
    half = {"mean": "0.5,0.5,0.5", "std": "0.5,0.5,0.5", "num_heads": "3"}
    card = convert(source, out, settings=half)
    assert "mean=[0.5,0.5,0.5]" in card["architecture"]
    assert "mean [0.5, 0.5, 0.5]" in card["input"]
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    hub = {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "config.json").write_text(json.dumps(hub))
    card = convert(str(folder), out, settings={"num_heads": "3"})
    assert "std=[0.25,0.25,0.25]" in card["architecture"]


def test_of_families_that_know_the_names_the_one_whose_table_fits_is_meant(
    tmp_path, tensors, monkeypatch
):
    save_file(tensors, tmp_path / "net.safetensors")
    source, out = str(tmp_path / "net.safetensors"), tmp_path / "out.safetensors"
    right = FAMILIES["robustbench_wrn"]
    greedy = dataclasses.replace(right, name="greedy", layers=lambda architecture: [])
    monkeypatch.setitem(FAMILIES, "greedy", greedy)
    assert convert(source, out)["family"] == "robustbench_wrn"
    monkeypatch.setitem(FAMILIES, "twin", dataclasses.replace(right, name="twin"))
    with pytest.raises(ConversionError, match="robustbench_wrn and twin alike: choose"):
        convert(source, out)
    monkeypatch.setitem(
        FAMILIES, "robustbench_wrn", dataclasses.replace(greedy, name="robustbench_wrn")
    )
    monkeypatch.delitem(FAMILIES, "twin")
    with pytest.raises(ConversionError, match="fit none: robustbench_wrn: .*greedy: "):
        convert(source, out)


def test_what_a_denoiser_was_trained_on_is_in_the_file_itself(tmp_path, golden):
    save_file(filled(golden("model_pesser_tiny")), tmp_path / "net.safetensors")
    out = tmp_path / "out.safetensors"
    convert(str(tmp_path / "net.safetensors"), out)
    out.with_suffix(".json").unlink()
    trained = weights.load(out).trained
    assert trained == models.Trained("linear", 1000, variance="fixed_large")


def test_a_network_that_was_changed_fails_its_check(tmp_path, tensors):
    source, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    save_file(tensors, source)
    convert(str(source), out)
    assert check(out)["output_shape"] == (10,)
    content = bytearray(out.read_bytes())
    content[-1] ^= 1
    out.write_bytes(content)
    with pytest.raises(weights.WeightsError, match="was changed or cut short"):
        check(out)
    out.with_suffix(".json").unlink()
    with pytest.raises(weights.WeightsError, match="no card"):
        check(out)


@pytest.mark.parametrize("family", ["guided", "score_sde", "deit_small"])
def test_check_runs_every_kind_of_network(tmp_path, golden, family):
    """A class-conditional denoiser is told a class, a classifier no timestep."""
    config = {
        "guided": models.GuidedUNet(
            image_size=16,
            channels=32,
            channel_mult=(1, 2),
            num_res_blocks=1,
            attention_levels=(1,),
            num_classes=7,
        ),
        "score_sde": models.NcsnPp(image_size=8, channels=16, channel_mult=(1,)),
        "deit_small": models.VisionTransformer(
            image_size=16, patch_size=8, features=12, depth=1, num_heads=2, num_classes=3
        ),
    }[family]
    network = models.create(config, jax.random.key(0))
    weights.save(tmp_path / "net.safetensors", network, {})
    shape = (3,) if family == "deit_small" else config.input_shape[:2]
    assert check(tmp_path / "net.safetensors")["output_shape"][: len(shape)] == shape


def test_check_gives_the_loss_that_a_denoisers_card_says(capsys):
    path = weights.bundled()["digits_denoiser"]
    told = float(weights.card(path)["result"].split()[3])
    assert check(path, "digits")["loss"] == pytest.approx(told, abs=2e-5)
    assert check(weights.bundled()["digits_classifier"], "digits")["accuracy"] == 0.992
    main(["--check", str(path), "--data", "digits"])
    assert f"loss {told:.5f} on 500 images" in capsys.readouterr().out


def copied(name, folder):
    """A bundled network in a folder, with its card."""
    for suffix in (".safetensors", ".json"):
        source = weights.bundled()[name].with_suffix(suffix)
        (folder / f"{name}{suffix}").write_bytes(source.read_bytes())
    return folder / f"{name}.safetensors"


def test_what_was_measured_is_written_on_the_card(tmp_path):
    path = copied("digits_classifier", tmp_path)
    main(["--check", str(path), "--data=digits", "--write"])
    assert weights.card(path)["measured"] == {
        "accuracy": 0.992,
        "num_examples": 500,
        "measured_by": "python -m checkpoints_convert --check "
        "digits_classifier.safetensors --data=digits",
    }
    path = copied("digits_denoiser", tmp_path)
    main(["--check", str(path), "--data=digits", "--write"])
    told = weights.card(path)
    found = told["measured"]["loss_by_timestep"]
    assert found.keys() == told["loss_by_timestep"].keys()
    for t, loss in found.items():
        assert loss == pytest.approx(told["loss_by_timestep"][t], abs=2e-4)


def test_what_is_right_after_purification_is_written_on_the_card(tmp_path, capsys):
    path = copied("digits_denoiser", tmp_path)
    before = weights.card(path)
    argv = ["--check", str(path), "--data=digits", "--classifier=digits_classifier"]
    main([*argv, "--t_star=1,2", "--write"])
    found = weights.card(path)
    told = found["purified"]
    assert {k: v for k, v in found.items() if k != "purified"} == {
        k: v for k, v in before.items() if k != "purified"
    }
    assert told["right"].keys() == {"1", "2"}
    assert all(value > 0.98 for value in told["right"].values())
    assert told["measured_by"].endswith(
        "--check digits_denoiser.safetensors --data=digits --classifier=digits_classifier "
        "--t_star=1,2"
    )
    assert f"{100 * told['right']['2']:.1f}% of the first 500" in capsys.readouterr().out
    with pytest.raises(weights.WeightsError, match="not a classifier of images"):
        conversion.purified(path, "digits", "mnist_classifier", [1])
    with pytest.raises(weights.WeightsError, match="not a denoiser"):
        conversion.purified("digits_classifier", "digits", "digits_classifier", [1])


def test_what_an_attack_leaves_is_written_on_the_card(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(conversion.measure, "HELD_OUT", 12)
    monkeypatch.setattr(conversion, "ROBUST_AGAINST", "pgd(num_steps=5,step_size=0.2)")
    path = copied("digits_classifier", tmp_path)
    argv = ["--check", str(path), "--data=digits", "--write"]
    main([*argv, "--ball=linf(128/255)"])
    told = weights.card(path)["robust"]
    command = "python -m checkpoints_convert --check digits_classifier.safetensors "
    assert told == {
        "attack": "pgd(num_steps=5,step_size=0.2)",
        "ball": "linf(128/255)",
        "num_examples": 12,
        "accuracy": 0.0,
        "measured_by": f"{command}--data=digits '--ball=linf(128/255)'",
    }
    assert "0.0% of the first 12 under pgd" in capsys.readouterr().out
    main([*argv, "--ball=linf(0.0001)"])
    assert weights.card(path)["robust"]["accuracy"] == 1
    with pytest.raises(weights.WeightsError, match="not a classifier of images"):
        conversion.robust("digits_denoiser", "digits", "linf(0.1)")
    for wrong in (
        ["--ball=linf(0.1)"],
        ["--data=digits", "--ball=linf(1)", "--classifier=x"],
    ):
        with pytest.raises(SystemExit):
            main(["--check", str(path), *wrong])
        assert "error: --" in capsys.readouterr().err


def test_what_cannot_be_measured_is_told(tmp_path):
    config = models.GuidedUNet(
        image_size=8,
        in_channels=1,
        channels=64,
        channel_mult=(1,),
        attention_levels=(),
        num_classes=7,
    )
    network = models.create(config, jax.random.key(0))
    weights.save(tmp_path / "net.safetensors", network, {})
    with pytest.raises(weights.WeightsError, match="wants a class"):
        check(tmp_path / "net.safetensors", "digits")
    colours = weights.bundled()["cifar10_denoiser"]
    with pytest.raises(weights.WeightsError, match=r"\(32, 32, 3\).*\(8, 8, 1\)"):
        check(colours, "digits")


def test_a_known_url_is_fetched_once_and_verified(tmp_path, tensors, monkeypatch):
    source = tmp_path / "server" / "known.safetensors"
    source.parent.mkdir()
    save_file(tensors, source)
    address = "https://example.org/known.safetensors"
    size = source.stat().st_size
    entry = Published("known", source.name, "robustbench_wrn", address, "MIT", size=size)
    monkeypatch.setattr(locate.published, "PUBLISHED", (entry,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls, real = [], locate.urllib.request.urlopen

    def fetch(url, timeout):
        calls.append(url)
        return real(source.as_uri(), timeout=timeout)

    monkeypatch.setattr(locate.urllib.request, "urlopen", fetch)
    for _ in range(2):
        card = convert(address, tmp_path / "out.safetensors")
        assert card["published_as"] == "known" and card["licence"] == "MIT"
    assert calls == [address]
    with pytest.raises(ConversionError, match="is not a URL of --list"):
        convert("https://example.org/else.pt", tmp_path / "out.safetensors")


@pytest.mark.parametrize("kind", ["short", "other"])
def test_a_download_that_is_not_the_file_is_not_kept(tmp_path, tensors, monkeypatch, kind):
    source = tmp_path / "known.safetensors"
    save_file(tensors, source)
    content = source.read_bytes()
    address = "https://example.org/known.safetensors"
    size = len(content) if kind == "short" else len(content) + 1
    entry = Published("known", source.name, "robustbench_wrn", address, "MIT", size=size)
    monkeypatch.setattr(locate.published, "PUBLISHED", (entry,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    class Response(io.BytesIO):
        headers = {"Content-Length": str(len(content))}

    body = [content[:100] if kind == "short" else content]
    monkeypatch.setattr(
        locate.urllib.request, "urlopen", lambda url, timeout: Response(body[0])
    )
    message = {"short": "cut short: 100 of", "other": "another file than known"}[kind]
    with pytest.raises(ConversionError, match=message):
        convert(address, tmp_path / "out.safetensors")
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    if kind == "short":  # the next try fetches it again
        body[0] = content
        assert convert(address, tmp_path / "out.safetensors")["published_as"] == "known"


def test_what_jaxpure_has_no_network_for_is_refused_by_name(tmp_path, tensors, monkeypatch):
    save_file(tensors, tmp_path / "up.safetensors")
    size = (tmp_path / "up.safetensors").stat().st_size
    entry = Published("up", "up.safetensors", None, "there", size=size, note="an upsampler")
    monkeypatch.setattr(locate.published, "PUBLISHED", (entry,))
    with pytest.raises(
        ConversionError, match="up is no network of jaxpure's: an upsampler"
    ):
        convert(str(tmp_path / "up.safetensors"), tmp_path / "out.safetensors")


def test_accuracy_is_of_a_classifier_with_the_sets_classes(tmp_path):
    for classes, size, message in (
        (7, 8, "has 7 classes, digits has 10"),
        (10, 16, "takes"),
    ):
        config = models.WideResNet(
            depth=10,
            width=1,
            num_classes=classes,
            image_size=size,
            in_channels=1,
            mean=(0.3,),
            std=(0.4,),
        )
        path = tmp_path / f"{classes}-{size}.safetensors"
        network = models.create(config, jax.random.key(0))
        weights.save(path, network, {"input": f"{size} pixels"})
        with pytest.raises(weights.WeightsError, match=message):
            check(path, "digits")
    found = check(weights.find("digits_classifier"), "digits")
    assert found["num_examples"] == 500 and found["accuracy"] > 0.98


def test_a_hub_id_is_converted_once_into_the_cache(tmp_path, tensors, monkeypatch):
    folder = tmp_path / "snapshot"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    calls = []
    monkeypatch.setattr(locate, "_from_hub", lambda hub_id: calls.append(hub_id) or folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first, second = (converted_from_hub("somebody/net") for _ in range(2))
    assert first == second and calls == ["somebody/net"]
    assert weights.load(first).architecture.depth == 16
    assert weights.card(first)["source"] == "hf:somebody/net"
