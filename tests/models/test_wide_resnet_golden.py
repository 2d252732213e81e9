"""The wide residual network against RobustBench's, number by number.

BatchNorm runs on its stored statistics, eps 1e-5; with 1e-6 the float64 output would
move by more than 2e-5.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import (
    filled,
    l2_error,
    max_error,
    network,
    nhwc,
    normal,
    sha256,
    uniform,
)

from jaxpure import models

CONFIGS = {
    "tiny": models.WideResNet(depth=16, width=2),
    "full": models.WideResNet.wrn_28_10(),
}


def table(config):
    per_group = (config.depth - 4) // 6
    return [
        (r"^(params|stats)\.", ""),
        (r"\.(kernel|scale)$", ".weight"),
        (r"\.(mean|var)$", r".running_\1"),
        (r"norm([12])", r"bn\1"),
        (r"^norm_out", "bn1"),
        (r"^conv_in", "conv1"),
        (r"^logits", "fc"),
        (r"\.shortcut\.", ".convShortcut."),
        (
            r"^blocks\.(\d+)",
            lambda m: f"block{int(m[1]) // per_group + 1}.layer.{int(m[1]) % per_group}",
        ),
    ]


@pytest.fixture(autouse=True)
def full_precision():
    """Float32 products in float32, also where the accelerator has something faster."""
    with jax.default_matmul_precision("highest"):
        yield


def load(golden, which, dtype=np.float32):
    fixture = golden(f"model_wrn_standard_{which}")
    config = CONFIGS[which]
    tensors = filled(fixture)
    assert sha256(tensors) == str(fixture["weights_sha256"])
    return fixture, network(config, tensors, table(config), dtype)


@jax.jit
def forward_and_gradient(net, x, cotangent):
    out, vjp = jax.vjp(lambda x: jax.vmap(net)(x), x)
    return out, vjp(cotangent)[0]


def run(fixture, net, dtype):
    cotangent = normal("cotangent", fixture["output"].shape)
    np.testing.assert_array_equal(cotangent.ravel()[:8], fixture["cotangent_head"])
    x = jnp.asarray(nhwc(fixture["input"]), dtype)
    return forward_and_gradient(net, x, jnp.asarray(cotangent, dtype))


def test_the_fixture_is_what_the_test_says(golden):
    fixture = golden("model_wrn_standard_tiny")
    shape = fixture["input"].shape
    np.testing.assert_array_equal(fixture["input"], uniform("input", 0, 1, shape))
    theirs, ours = json.loads(str(fixture["config"])), CONFIGS["tiny"]
    assert theirs["depth"] == ours.depth
    assert theirs["widen_factor"] == ours.width
    assert theirs["num_classes"] == ours.num_classes


def test_output_and_gradient_in_float32(golden):
    fixture, net = load(golden, "tiny")
    assert models.num_params(net) == fixture["n_params"]
    output, gradient = run(fixture, net, jnp.float32)
    assert max_error(output, fixture["output"]) < 1e-5
    assert l2_error(gradient, nhwc(fixture["grad"])) < 1e-5


def test_output_and_gradient_in_float64(golden):
    with jax.enable_x64(True):
        fixture, net = load(golden, "tiny", np.float64)
        output, gradient = run(fixture, net, jnp.float64)
        assert output.dtype == gradient.dtype == jnp.float64
    assert max_error(output, fixture["output64"]) < 1e-9
    assert max_error(gradient, nhwc(fixture["grad64"])) < 1e-9


@pytest.mark.slow
def test_published_network_in_float32(golden):
    fixture, net = load(golden, "full")
    assert models.num_params(net) == fixture["n_params"] == 36_479_194
    output, gradient = run(fixture, net, jnp.float32)
    assert max_error(output, fixture["output"]) < 1e-5
    # One ReLU whose input rounds to the other side of zero moves a patch of the
    # gradient: the reference's own float32 is 6e-3 away from its float64.
    assert l2_error(gradient, nhwc(fixture["grad"])) < 3e-2


def test_mean_and_std_are_taken_off_inside(golden):
    fixture, net = load(golden, "tiny")
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    x = nhwc(fixture["input"])[0]
    inside = net.replace(mean=mean, std=std)(jnp.asarray(x))
    before = net(jnp.asarray((x - np.float32(mean)) / np.float32(std)))
    np.testing.assert_allclose(inside, before, rtol=1e-5, atol=1e-5)
    assert np.max(np.abs(inside - net(jnp.asarray(x)))) > 0.01


def test_bfloat16_runs_and_is_near(golden):
    fixture, net = load(golden, "tiny")
    x = jnp.asarray(nhwc(fixture["input"]))
    output = jax.jit(jax.vmap(net.replace(compute_dtype="bfloat16")))(x)
    assert output.dtype == jnp.float32
    error = l2_error(output, fixture["output"])
    assert 1e-4 < error < 0.1  # the bound from below: it really was bfloat16
