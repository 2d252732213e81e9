"""Every published network against its own code, number by number, through the converter.

Weights come from the filling rule, so a swapped layer, a different eps or another
embedding is an error of at least 7e-5 in these outputs, and float64 leaves no room for
one. Tolerances are the references' own spread between float32 and float64, rounded up.
"""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import converted, l2_error, max_error, nhwc, normal, uniform

from jaxpure import models

BARE = {"mean": (0.0,), "std": (1.0,)}  # the fixture's classifier takes its input as it is


@dataclasses.dataclass(frozen=True)
class Case:
    """A reference network and what its tensors' names cannot tell of the tiny one.

    Attributes:
      family: the converter's.
      published: the architecture that the full one must turn out to be.
      tiny: fields of the tiny one that names do not tell.
      full: likewise of the full one.
      gradient: tolerance of the full gradient in L2: one ReLU whose input rounds to the
        other side of zero moves a patch of it.
    """

    family: str
    published: Any
    tiny: dict[str, Any] = dataclasses.field(default_factory=dict)
    full: dict[str, Any] = dataclasses.field(default_factory=dict)
    gradient: float = 1e-4


CASES = {
    "pesser": Case(
        "pesser",
        models.UNet.cifar10(),
        tiny={"image_size": 16, "attention_resolutions": (8,)},
    ),
    "diffusers": Case("diffusers_unet", models.UNet.cifar10()),
    "guided": Case(
        "guided_diffusion",
        models.GuidedUNet.imagenet256(),
        tiny={"image_size": 16, "head_channels": 32},
    ),
    "score_sde": Case(
        "score_sde",
        models.NcsnPp.cifar10_deep(),
        tiny={"image_size": 16, "attention_resolutions": (8,)},
    ),
    "wrn_standard": Case("robustbench_wrn", models.WideResNet.wrn_28_10(), gradient=3e-2),
    "dm_wrn": Case(
        "deepmind_wrn",
        models.WideResNet.wrn_28_10(
            activation="swish",
            pad_after=True,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2471, 0.2435, 0.2616),
        ),
    ),
    "wrn70_dropout": Case(
        "diffpure_wrn_dropout",
        models.WideResNet(
            depth=70,
            width=16,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2471, 0.2435, 0.2616),
        ),
        gradient=3e-2,
    ),
    "resnet50": Case(
        "torchvision_resnet",
        models.ResNet.resnet50(**BARE),
        tiny={"image_size": 48, **BARE},
        full=BARE,
        gradient=3e-2,
    ),
    "wide_resnet50_2": Case(
        "torchvision_resnet",
        models.ResNet.wide_resnet50_2(**BARE),
        tiny={"image_size": 48, **BARE},
        full=BARE,
        gradient=3e-2,
    ),
    "deit_small": Case(
        "timm_vit",
        models.VisionTransformer.deit_small(**BARE),
        tiny={"num_heads": 3, **BARE},
        full=BARE,
    ),
}
CLASSIFIERS = [name for name, case in CASES.items() if hasattr(case.published, "mean")]
DENOISERS = [name for name in CASES if name not in CLASSIFIERS]
FULL = [f"{name}_full" for name in CASES] + [
    "resnet50_full224",
    "wide_resnet50_2_full224",
]


@pytest.fixture(autouse=True)
def full_precision():
    """Float32 products in float32, also where the accelerator has something faster."""
    with jax.default_matmul_precision("highest"):
        yield


def load(golden, name, dtype=np.float32):
    fixture = golden(f"model_{name}")
    family, _, which = name.rpartition("_")
    case = CASES[family]
    changes = case.tiny if which == "tiny" else case.full
    return fixture, converted(fixture, case.family, dtype, **changes)


@jax.jit
def _classify(net, x, cotangent):
    out, vjp = jax.vjp(lambda x: jax.vmap(net)(x), x)
    return out, vjp(cotangent)[0]


@jax.jit
def _denoise(net, x, t, cotangent):
    def of_row(t, v):
        out, vjp = jax.vjp(lambda x: jax.vmap(net)(x, t), x)
        return out, vjp(v)[0]

    return jax.lax.map(lambda row: of_row(*row), (t, cotangent))


def run(fixture, net, dtype):
    """Output and input gradient, NHWC, under the fixture's input and cotangent."""
    cotangent = normal("cotangent", fixture["output"].shape)
    np.testing.assert_array_equal(cotangent.ravel()[:8], fixture["cotangent_head"])
    low = -1 if fixture["t"].size else 0
    x = jnp.asarray(nhwc(uniform("input", low, 1, fixture["input_shape"])), dtype)
    if not fixture["t"].size:
        return _classify(net, x, jnp.asarray(cotangent, dtype))
    t = jnp.asarray(fixture["t"], dtype)
    return _denoise(net, x, t, jnp.asarray(nhwc(cotangent), dtype))


def expected_output(fixture, name="output"):
    return nhwc(fixture[name]) if fixture["t"].size else fixture[name]


def assert_near(fixture, net, gradient_tolerance):
    assert models.num_params(net) == fixture["n_params"]
    output, gradient = run(fixture, net, jnp.float32)
    want = expected_output(fixture)
    if fixture["t"].size:
        for row, t in enumerate(fixture["t"]):
            tolerance = 1e-4 if t.max() >= 500 else 5e-5
            assert max_error(output[row], want[row]) < tolerance
    else:
        assert max_error(output, want) < 1e-5
    if "grad_crop" in fixture:
        low, high = fixture["grad_crop"]
        gradient = gradient[..., low:high, low:high, :]
    assert l2_error(gradient, nhwc(fixture["grad"])) < gradient_tolerance


def _as_float32(values):
    return tuple(np.asarray(values, np.float32).tolist())


@pytest.mark.slow
@pytest.mark.parametrize("family", CASES)
def test_tiny_network_in_float32(golden, family):
    assert_near(*load(golden, f"{family}_tiny"), 1e-4)


@pytest.mark.parametrize("family", CASES)
def test_tiny_network_in_float64(golden, family):
    with jax.enable_x64(True):
        fixture, net = load(golden, f"{family}_tiny", np.float64)
        if family in CLASSIFIERS:  # the reference's mean and std were float32 once
            rounded = {k: _as_float32(getattr(net.architecture, k)) for k in BARE}
            net = net.replace(**rounded)
        output, gradient = run(fixture, net, jnp.float64)
        assert output.dtype == gradient.dtype == jnp.float64
    assert max_error(output, expected_output(fixture, "output64")) < 1e-9
    assert max_error(gradient, nhwc(fixture["grad64"])) < 1e-9


@jax.jit
def _denoise_only(net, x, t):
    return jax.lax.map(lambda t: jax.vmap(net)(x, t), t)


@pytest.mark.long
def test_a_denoiser_at_its_own_size(golden):
    """The other guided fixture has a quarter of the height; here no gradient is known."""
    fixture, net = load(golden, "guided_full256")
    x = jnp.asarray(nhwc(uniform("input", -1, 1, fixture["input_shape"])))
    output = _denoise_only(net, x, jnp.asarray(fixture["t"], jnp.float32))
    assert max_error(output, nhwc(fixture["output"])) < 1e-4


@pytest.mark.long
@pytest.mark.parametrize("name", FULL)
def test_published_network_in_float32(golden, name):
    fixture, net = load(golden, name)
    case = CASES[name.rpartition("_")[0]]
    assert net.architecture == case.published
    assert_near(fixture, net, case.gradient)


_call = jax.jit(lambda net, *args: net(*args))


@pytest.mark.slow
@pytest.mark.parametrize("family", CLASSIFIERS)
def test_mean_and_std_are_taken_off_inside(golden, family):
    fixture, net = load(golden, f"{family}_tiny")
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    x = nhwc(fixture["input"])[0]
    inside = _call(net.replace(mean=mean, std=std), jnp.asarray(x))
    plain = net.replace(**BARE)
    before = _call(plain, jnp.asarray((x - np.float32(mean)) / np.float32(std)))
    np.testing.assert_allclose(inside, before, rtol=1e-5, atol=2e-5)
    assert np.max(np.abs(inside - _call(plain, jnp.asarray(x)))) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("family", DENOISERS)
def test_a_batch_gives_what_single_images_give(golden, family):
    fixture, net = load(golden, f"{family}_tiny")
    x = jnp.asarray(nhwc(fixture["input"]))
    t = jnp.asarray(fixture["t"], jnp.float32)
    batch = _call(net, jnp.broadcast_to(x, (len(t), *x.shape)), t)
    assert max_error(batch, nhwc(fixture["output"])) < 5e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", CLASSIFIERS)
def test_a_batch_of_a_classifier_gives_what_single_images_give(golden, family):
    fixture, net = load(golden, f"{family}_tiny")
    x = jnp.asarray(nhwc(fixture["input"]))
    batch = _call(net, x[None])
    assert max_error(batch[0], fixture["output"]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", CASES)
def test_bfloat16_runs_and_is_near(golden, family):
    fixture, net = load(golden, f"{family}_tiny")
    net = net.replace(compute_dtype="bfloat16")
    x = jnp.asarray(nhwc(fixture["input"]))
    if fixture["t"].size:
        output = _denoise_only(net, x, jnp.asarray(fixture["t"], jnp.float32))
    else:
        output = jax.vmap(_call, (None, 0))(net, x)
    assert output.dtype == jnp.float32
    error = l2_error(output, expected_output(fixture))
    assert 1e-4 < error < 0.1  # the bound from below: it really was bfloat16


@pytest.mark.parametrize("family", CASES)
def test_the_fixture_is_what_the_rule_draws(golden, family):
    fixture = golden(f"model_{family}_tiny")
    low = -1 if fixture["t"].size else 0
    shape = fixture["input"].shape
    np.testing.assert_array_equal(fixture["input"], uniform("input", low, 1, shape))
    assert json.loads(str(fixture["config"]))
