"""GuidedUNet's options against a second hand: numpy in float64, led by openai's names.

The golden files hold one choice of options. The reference here first reproduces those,
and openai's list of tensors; then it tells what the other published networks compute.
"""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import converted, filled, max_error, nhwc, sha256, uniform

from checkpoints_convert.families.guided_diffusion import architecture
from checkpoints_convert.family import Contents
from jaxpure import models

KEYS = pathlib.Path(__file__).parents[1] / "checkpoints_convert/keys"
SMALL: dict[str, Any] = {"image_size": 8, "channels": 32, "channel_mult": (1, 2)}


def guided(**fields):
    return models.GuidedUNet(
        **SMALL | {"num_res_blocks": 1, "attention_levels": (1,)} | fields
    )


OPTIONS = {
    "as the golden file": guided(head_channels=32),
    "four heads": guided(head_channels=0, num_heads=4),
    "queries, keys, values first": guided(head_channels=16, qkv_first=True),
    "classes": guided(num_classes=5),
    "a level of half the width": guided(channels=64, channel_mult=(0.5, 1)),
    "improved-diffusion": guided(resblock_updown=False, head_channels=0),
    "improved-diffusion of LSUN": guided(
        resblock_updown=False, scale_shift=False, head_channels=0, num_heads=1
    ),
    "attention everywhere, two blocks a level": guided(
        attention_levels=(0, 1), num_res_blocks=2, head_channels=16
    ),
    "fixed variance, grey": guided(in_channels=1, out_channels=1),
}


def published_shapes(config):
    """Names and shapes of such a network's tensors in openai's code."""
    shapes, width = {}, config.channels
    widths = [int(width * mult) for mult in config.channel_mult]
    per_level, last = config.num_res_blocks, len(widths) - 1

    def affine(name, inputs, outputs, *size):
        shapes[f"{name}.weight"] = (outputs, inputs, *size)
        shapes[f"{name}.bias"] = (outputs,)

    def norm(name, n):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (n,)

    def block(name, inputs, outputs):
        norm(f"{name}.in_layers.0", inputs)
        affine(f"{name}.in_layers.2", inputs, outputs, 3, 3)
        told = 2 * outputs if config.scale_shift else outputs
        affine(f"{name}.emb_layers.1", 4 * width, told)
        norm(f"{name}.out_layers.0", outputs)
        affine(f"{name}.out_layers.3", outputs, outputs, 3, 3)
        if inputs != outputs:
            affine(f"{name}.skip_connection", inputs, outputs, 1, 1)

    def attention(name, n):
        norm(f"{name}.norm", n)
        affine(f"{name}.qkv", n, 3 * n, 1)
        affine(f"{name}.proj_out", n, n, 1)

    def resize(name, n, conv):
        if config.resblock_updown:
            block(name, n, n)
        else:
            affine(f"{name}.{conv}", n, n, 3, 3)

    affine("time_embed.0", width, 4 * width)
    affine("time_embed.2", 4 * width, 4 * width)
    if config.num_classes:
        shapes["label_emb.weight"] = (config.num_classes, 4 * width)
    affine("input_blocks.0.0", config.in_channels, widths[0], 3, 3)
    n, current, skips = 1, widths[0], [widths[0]]
    for i, outputs in enumerate(widths):
        for _ in range(per_level):
            block(f"input_blocks.{n}.0", current, outputs)
            if i in config.attention_levels:
                attention(f"input_blocks.{n}.1", outputs)
            current, n = outputs, n + 1
            skips.append(current)
        if i < last:
            resize(f"input_blocks.{n}.0", current, "op")
            skips.append(current)
            n += 1
    block("middle_block.0", current, current)
    attention("middle_block.1", current)
    block("middle_block.2", current, current)
    for n in range(len(skips)):
        i, part = last - n // (per_level + 1), 1
        block(f"output_blocks.{n}.0", current + skips.pop(), widths[i])
        current = widths[i]
        if i in config.attention_levels:
            attention(f"output_blocks.{n}.1", current)
            part = 2
        if i and (n + 1) % (per_level + 1) == 0:
            resize(f"output_blocks.{n}.{part}", current, "conv")
    norm("out.0", current)
    affine("out.2", current, config.out_channels, 3, 3)
    return shapes


def silu(x):
    return x / (1 + np.exp(-x))


def doubled(x):
    return x.repeat(2, 0).repeat(2, 1)


def halved(x):
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4


def evaluate(tensors, config, x, t, label=None):
    """The network's output `(H, W, channels)` at one image, in float64."""
    tensors = {name: value.astype(np.float64) for name, value in tensors.items()}

    def dense(name, h):
        weight = tensors[f"{name}.weight"]
        return h @ weight.reshape(weight.shape[:2]).T + tensors[f"{name}.bias"]

    def conv(name, h, stride=1):
        weight = tensors[f"{name}.weight"]
        height, width, _ = h.shape
        h = np.pad(h, ((1, 1), (1, 1), (0, 0)))
        taps = [
            h[i : i + height : stride, j : j + width : stride] @ weight[:, :, i, j].T
            for i in range(3)
            for j in range(3)
        ]
        return sum(taps) + tensors[f"{name}.bias"]

    def norm(name, h):
        groups = h.reshape(*h.shape[:2], 32, -1)
        groups = groups - groups.mean((0, 1, 3), keepdims=True)
        groups = groups / np.sqrt((groups**2).mean((0, 1, 3), keepdims=True) + 1e-5)
        return groups.reshape(h.shape) * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def block(name, h, resample):
        inner = conv(f"{name}.in_layers.2", resample(silu(norm(f"{name}.in_layers.0", h))))
        told = dense(f"{name}.emb_layers.1", silu(emb))
        if config.scale_shift:
            scale, shift = np.split(told, 2)
            inner = norm(f"{name}.out_layers.0", inner) * (1 + scale) + shift
        else:
            inner = norm(f"{name}.out_layers.0", inner + told)
        inner = conv(f"{name}.out_layers.3", silu(inner))
        h = resample(h)
        if f"{name}.skip_connection.weight" in tensors:
            h = dense(f"{name}.skip_connection", h)
        return h + inner

    def attention(name, h):
        qkv = dense(f"{name}.qkv", norm(f"{name}.norm", h)).reshape(-1, 3 * h.shape[-1])
        heads = config.num_heads
        if config.head_channels:
            heads = h.shape[-1] // config.head_channels
        if config.qkv_first:
            each = [np.split(part, heads, -1) for part in np.split(qkv, 3, -1)]
            each = list(zip(*each, strict=True))
        else:
            each = [np.split(part, 3, -1) for part in np.split(qkv, heads, -1)]
        mixed = []
        for query, key, value in each:
            scores = query @ key.T / np.sqrt(query.shape[-1])
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed.append(weights / weights.sum(-1, keepdims=True) @ value)
        mixed = np.concatenate(mixed, -1).reshape(h.shape)
        return h + dense(f"{name}.proj_out", mixed)

    def stage(name, h, resample):
        """A block of openai's: its parts in order; `resample` is of its last one."""
        parts = [0] + [
            k for k in (1, 2) if any(n.startswith(f"{name}.{k}.") for n in tensors)
        ]
        for k in parts:
            part = f"{name}.{k}"
            if f"{part}.qkv.weight" in tensors:
                h = attention(part, h)
            elif f"{part}.op.weight" in tensors:
                h = conv(f"{part}.op", h, stride=2)
            elif f"{part}.conv.weight" in tensors:
                h = conv(f"{part}.conv", doubled(h))
            elif f"{part}.in_layers.0.weight" in tensors:
                resizes = resample is not None and k == parts[-1]
                h = block(part, h, resample if resizes else lambda h: h)
            else:
                h = conv(part, h)
        return h

    half, rhythm = config.channels // 2, config.num_res_blocks + 1
    angles = t * np.exp(-np.log(10000.0) * np.arange(half) / half)
    emb = np.concatenate([np.cos(angles), np.sin(angles)])
    emb = dense("time_embed.2", silu(dense("time_embed.0", emb)))
    if label is not None:
        emb = emb + tensors["label_emb.weight"][label]

    count, h, skips = rhythm * len(config.channel_mult), x.astype(np.float64), []
    for n in range(count):
        h = stage(f"input_blocks.{n}", h, halved if n and n % rhythm == 0 else None)
        skips.append(h)
    h = stage("middle_block", h, None)
    for n in range(count):
        h = np.concatenate([h, skips.pop()], -1)
        grows = (n + 1) % rhythm == 0 and n + 1 < count
        h = stage(f"output_blocks.{n}", h, doubled if grows else None)
    return conv("out.2", silu(norm("out.0", h)))


def fixture_of(config) -> Any:
    """What a golden file would tell of such a network's tensors."""
    listed = [(name, shape, "") for name, shape in published_shapes(config).items()]
    fixture = {"tensors": json.dumps(listed), "seed": 1, "config": "{}"}
    return fixture | {"weights_sha256": sha256(filled(fixture))}


def read(config):
    """The architecture that the converter reads off the names and shapes alone."""
    shapes = published_shapes(config)
    return architecture(Contents(shapes, lambda name: np.zeros(shapes[name])))


def test_the_reference_is_the_golden_file(golden):
    fixture = golden("model_guided_tiny")
    config = guided(image_size=16, head_channels=32)
    x, tensors = nhwc(fixture["input"]), filled(fixture)
    for row, times in enumerate(fixture["t"]):
        for image, t in enumerate(times):
            want = nhwc(fixture["output64"])[row, image]
            assert max_error(evaluate(tensors, config, x[image], t), want) < 1e-9


def test_the_references_tensors_are_openais():
    lines = (KEYS / "openai_guided_256_uncond.txt").read_text().splitlines()
    want = {}
    for line in lines:
        name, shape, _ = line.split("\t")
        want[name] = tuple(int(n) for n in shape.strip("()").split(",") if n.strip())
    assert published_shapes(models.GuidedUNet.imagenet256()) == want


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_the_reference(option):
    config = OPTIONS[option]
    # Names cannot tell these of networks that nobody published.
    names = ("image_size", "head_channels", "num_heads", "qkv_first")
    untold = {name: getattr(config, name) for name in names}
    fixture = fixture_of(config)
    x = uniform("input", -1, 1, config.input_shape)
    label = 3 if config.num_classes else None
    want = evaluate(filled(fixture), config, x, 321.0, label)
    with jax.enable_x64(True):
        net = converted(fixture, "guided_diffusion", np.float64, **untold)
        assert net.architecture == config
        told = () if label is None else (jnp.asarray(label),)
        got = jax.jit(net)(jnp.asarray(x, jnp.float64), jnp.asarray(321.0), *told)
    assert max_error(got, want) < 1e-9


def published(size, mult, attends, **fields):
    return models.GuidedUNet(
        image_size=size, channel_mult=mult, attention_levels=attends, **fields
    )


FOUR_HEADS: dict[str, Any] = {"head_channels": 0, "num_heads": 4}
IMPROVED: dict[str, Any] = {
    "channels": 128,
    "num_res_blocks": 3,
    "resblock_updown": False,
    **FOUR_HEADS,
}
MULT_64, MULT_256 = (1, 2, 3, 4), (1, 1, 2, 2, 4, 4)
PUBLISHED = {  # by the flags of the two READMEs
    "64x64_diffusion": published(
        64,
        MULT_64,
        (1, 2, 3),
        channels=192,
        num_res_blocks=3,
        num_classes=1000,
        qkv_first=True,
    ),
    "128x128_diffusion": published(
        128, (1, 1, 2, 3, 4), (2, 3, 4), num_classes=1000, **FOUR_HEADS
    ),
    "256x256_diffusion": published(256, MULT_256, (3, 4, 5), num_classes=1000),
    "512x512_diffusion": published(
        512, (0.5, 1, 1, 2, 2, 4, 4), (4, 5, 6), num_classes=1000
    ),
    "cifar10_uncond_50M": published(32, (1, 2, 2, 2), (1, 2), **IMPROVED),
    "imagenet64_uncond_100M": published(64, MULT_64, (2, 3), **IMPROVED),
    "imagenet64_cond_270M": published(
        64, MULT_64, (2, 3), **IMPROVED | {"channels": 192, "num_classes": 1000}
    ),
    "lsun_uncond_100M": published(
        256,
        MULT_256,
        (4,),
        channels=128,
        resblock_updown=False,
        scale_shift=False,
        head_channels=0,
        num_heads=1,
    ),
}
NUM_PARAMS = {
    "cifar10_uncond_50M": 52_546_438,
    "imagenet64_uncond_100M": 121_063_942,
    "imagenet64_cond_270M": 273_049_350,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_network_is_told_by_its_widths(name):
    assert read(PUBLISHED[name]) == PUBLISHED[name]
    if name in NUM_PARAMS:  # the last part of the name rounds it
        assert models.num_params(models.abstract(PUBLISHED[name])) == NUM_PARAMS[name]


def test_another_size_leaves_attention_where_it_is():
    config = read(PUBLISHED["cifar10_uncond_50M"])
    at_64 = dataclasses.replace(config, image_size=64)
    assert at_64.attention_levels == (1, 2)
    assert models.num_params(models.abstract(at_64)) == 52_546_438


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="64 channels of attention do not split"):
        models.abstract(guided(head_channels=48))


def test_a_label_is_asked_for_by_classes_alone():
    plain, classes = (models.abstract(guided(num_classes=n)) for n in (0, 5))
    x, t, label = jnp.zeros((8, 8, 3)), jnp.zeros(()), jnp.asarray(3)
    with pytest.raises(ValueError, match="num_classes=0"):
        jax.eval_shape(lambda net: net(x, t, label), plain)
    with pytest.raises(ValueError, match="num_classes=5"):
        jax.eval_shape(lambda net: net(x, t), classes)


@pytest.mark.slow
@pytest.mark.parametrize("lead", [(), (2,), (2, 1)], ids=str)
def test_leading_axes_are_vmap(lead):
    with jax.enable_x64(True):
        fixture = fixture_of(OPTIONS["classes"])
        net = converted(fixture, "guided_diffusion", np.float64, image_size=8)
        x = jnp.asarray(uniform("lead", -1, 1, (*lead, 8, 8, 3)), jnp.float64)
        t = jnp.arange(np.prod(lead, dtype=int), dtype=float).reshape(lead) * 100
        label = (jnp.arange(t.size) % 5).reshape(lead)
        each = net
        for _ in lead:
            each = jax.vmap(each)
        got, want = jax.jit(lambda *args: (net(*args), each(*args)))(x, t, label)
        assert max_error(got, want) < 1e-9
