"""The U-Net against pesser/pytorch_diffusion and diffusers, number by number.

Both references are the same function under other names; their weights come from the
filling rule, so a swapped layer, a different eps or another embedding is an error of at
least 7e-5 in these outputs, and float64 leaves no room for one.
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

WEIGHTS = [(r"^params\.", ""), (r"\.(kernel|scale)$", ".weight")]

PESSER = [
    *WEIGHTS,
    (r"^time([12])", lambda m: f"temb.dense.{int(m[1]) - 1}"),
    (r"^mid([12])", r"mid.block_\1"),
    (r"^mid_attention", "mid.attn_1"),
    (r"\.blocks\.", ".block."),
    (r"\.attentions\.", ".attn."),
    (r"\.time\.", ".temb_proj."),
    (r"\.shortcut\.", ".nin_shortcut."),
    (r"\.query\.", ".q."),
    (r"\.key\.", ".k."),
    (r"\.value\.", ".v."),
    (r"\.out\.", ".proj_out."),
    (r"^down(.*)\.resize", r"down\1.downsample.conv"),
    (r"^up(.*)\.resize", r"up\1.upsample.conv"),
]

DIFFUSERS = [
    *WEIGHTS,
    (r"^time([12])", r"time_embedding.linear_\1"),
    (r"^norm_out", "conv_norm_out"),
    (r"^mid([12])", lambda m: f"mid_block.resnets.{int(m[1]) - 1}"),
    (r"^mid_attention", "mid_block.attentions.0"),
    (r"^(down|up)\.", r"\1_blocks."),
    (r"\.blocks\.", ".resnets."),
    (r"\.time\.", ".time_emb_proj."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"\.norm\.", ".group_norm."),
    (r"\.query\.", ".to_q."),
    (r"\.key\.", ".to_k."),
    (r"\.value\.", ".to_v."),
    (r"\.out\.", ".to_out.0."),
    (r"^down(.*)\.resize", r"down\1.downsamplers.0.conv"),
    (r"^up(.*)\.resize", r"up\1.upsamplers.0.conv"),
]


def finest_first(levels: int):
    """pesser counts the levels of the way up from the finest; jaxpure as they run."""
    return (r"^up\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}")


CONFIGS = {
    "tiny": models.UNet(
        image_size=16,
        channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(8,),
    ),
    "full": models.UNet.cifar10(),
}

FAMILIES = ("pesser", "diffusers")
TINY = [f"model_{family}_tiny" for family in FAMILIES]
FULL = [f"model_{family}_full" for family in FAMILIES]


@pytest.fixture(autouse=True)
def full_precision():
    """Float32 products in float32, also where the accelerator has something faster."""
    with jax.default_matmul_precision("highest"):
        yield


def load(golden, name, dtype=np.float32):
    fixture = golden(name)
    config = CONFIGS[str(fixture["which"])]
    tensors = filled(fixture)
    assert sha256(tensors) == str(fixture["weights_sha256"])
    if str(fixture["family"]) == "pesser":
        table = [*PESSER, finest_first(len(config.channel_mult))]
    else:
        table = DIFFUSERS
    return fixture, network(config, tensors, table, dtype)


@jax.jit
def forward_and_gradient(net, x, t, cotangent):
    def of_row(t, v):
        out, vjp = jax.vjp(lambda x: jax.vmap(net)(x, t), x)
        return out, vjp(v)[0]

    return jax.vmap(of_row)(t, cotangent)


def run(fixture, net, dtype):
    cotangent = normal("cotangent", fixture["output"].shape)
    np.testing.assert_array_equal(cotangent.ravel()[:8], fixture["cotangent_head"])
    return forward_and_gradient(
        net,
        jnp.asarray(nhwc(fixture["input"]), dtype),
        jnp.asarray(fixture["t"], dtype),
        jnp.asarray(nhwc(cotangent), dtype),
    )


def check_float32(fixture, net):
    assert models.num_params(net) == fixture["n_params"]
    output, gradient = run(fixture, net, jnp.float32)
    for row, t in enumerate(fixture["t"]):
        tolerance = 1e-4 if t.max() >= 500 else 5e-5
        assert max_error(output[row], nhwc(fixture["output"][row])) < tolerance
    assert l2_error(gradient, nhwc(fixture["grad"])) < 1e-4


@pytest.mark.parametrize("name", TINY)
def test_inputs_are_drawn_by_the_rule(golden, name):
    fixture = golden(name)
    shape = fixture["input"].shape
    np.testing.assert_array_equal(fixture["input"], uniform("input", -1, 1, shape))


@pytest.mark.parametrize("name", TINY)
def test_configuration_is_the_references(golden, name):
    fixture = golden(name)
    theirs, ours = json.loads(str(fixture["config"])), CONFIGS["tiny"]
    if "ch" in theirs:
        assert theirs["resolution"] == ours.image_size
        assert theirs["ch"] == ours.channels
        assert tuple(theirs["ch_mult"]) == ours.channel_mult
        assert theirs["num_res_blocks"] == ours.num_res_blocks
        assert tuple(theirs["attn_resolutions"]) == ours.attention_resolutions
    else:
        widths = [ours.channels * m for m in ours.channel_mult]
        assert theirs["sample_size"] == ours.image_size
        assert theirs["block_out_channels"] == widths
        assert theirs["layers_per_block"] == ours.num_res_blocks
        assert theirs["norm_num_groups"] == ours.num_groups


@pytest.mark.parametrize("name", TINY)
def test_output_and_gradient_in_float32(golden, name):
    check_float32(*load(golden, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_published_network_in_float32(golden, name):
    check_float32(*load(golden, name))


@pytest.mark.parametrize("name", TINY)
def test_output_and_gradient_in_float64(golden, name):
    with jax.enable_x64(True):
        fixture, net = load(golden, name, np.float64)
        output, gradient = run(fixture, net, jnp.float64)
        assert output.dtype == gradient.dtype == jnp.float64
    assert max_error(output, nhwc(fixture["output64"])) < 1e-9
    assert max_error(gradient, nhwc(fixture["grad64"])) < 1e-9


def test_a_batch_gives_what_single_images_give(golden):
    fixture, net = load(golden, "model_pesser_tiny")
    x = jnp.asarray(nhwc(fixture["input"]))
    t = jnp.asarray(fixture["t"], jnp.float32)
    batch = jax.jit(lambda net, *args: net(*args))(
        net, jnp.broadcast_to(x, (len(t), *x.shape)), t
    )
    assert max_error(batch, nhwc(fixture["output"])) < 5e-5


def test_bfloat16_runs_and_is_near(golden):
    fixture, net = load(golden, "model_pesser_tiny")
    x = jnp.asarray(nhwc(fixture["input"]))
    t = jnp.asarray(fixture["t"], jnp.float32)
    narrow = net.replace(compute_dtype="bfloat16")
    output = jax.jit(jax.vmap(lambda t: jax.vmap(narrow)(x, t)))(t)
    assert output.dtype == jnp.float32
    error = l2_error(output, nhwc(fixture["output"]))
    assert 1e-4 < error < 0.05  # the bound from below: it really was bfloat16


def test_the_published_cifar10_network_has_as_many_parameters():
    assert models.num_params(models.abstract(models.UNet.cifar10())) == 35_746_307
