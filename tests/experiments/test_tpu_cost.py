"""The cost of a compiled program: counts of a known product, and a chip's peaks."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from benchmarks import tpu
from experiments import tpu_cost
from experiments.tpu_cost import CHIPS, Cost
from jaxpure import models
from jaxpure.errors import UserError

WITHOUT_LIBTPU = importlib.util.find_spec("libtpu") is None


def product(n, k, m):
    return jax.ShapeDtypeStruct((n, k), jnp.float32), jax.ShapeDtypeStruct(
        (k, m), "float32"
    )


def test_cost_of_a_product_is_that_of_its_definition():
    chip = CHIPS["v5e"]
    compiled, seconds = tpu_cost.compiled_for(
        jax.devices("cpu")[0], lambda a, b: a @ b, *product(32, 48, 64)
    )
    cost = tpu_cost.cost(compiled, chip, "bfloat16")
    moved = 4 * (32 * 48 + 48 * 64 + 32 * 64)
    assert seconds > 0
    assert cost.flop == 2 * 32 * 48 * 64
    assert cost.bytes_moved == moved
    assert cost.peak_bytes >= moved + cost.code_bytes
    assert cost.arithmetic_seconds == cost.flop / 197e12
    assert cost.memory_seconds == moved / 819e9
    exact = tpu_cost.cost(compiled, chip, "float32")
    assert exact.arithmetic_seconds == pytest.approx(6 * cost.arithmetic_seconds)
    assert cost.seconds == cost.memory_seconds
    assert cost.efficiency == pytest.approx(cost.flop / 197e12 / (moved / 819e9))


@pytest.mark.parametrize(
    "arithmetic,memory,efficiency", [(3.0, 1.0, 1.0), (1.0, 4.0, 0.25), (0.0, 0.0, 0.0)]
)
def test_efficiency_is_what_memory_leaves_of_the_arithmetic(arithmetic, memory, efficiency):
    cost = Cost(1.0, 1.0, 1, 0, arithmetic, memory)
    assert cost.efficiency == efficiency
    assert cost.seconds == max(arithmetic, memory)


def test_a_chip_goes_by_its_name_or_by_its_topology():
    assert tpu_cost.chip_named("v6e") is tpu_cost.chip_named("v6e:2x2") is CHIPS["v6e"]
    with pytest.raises(UserError, match="unknown chip 'v7'; known: v5e, v5p, v6e"):
        tpu_cost.chip_named("v7")


@pytest.mark.parametrize("most", [0, 1, 3, 64, 100, 5000])
@pytest.mark.parametrize("start", [1, 64])
def test_the_largest_batch_is_found_to_an_eighth(most, start):
    asked = []

    def fits(batch):
        asked.append(batch)
        return batch <= most

    found = tpu.largest(fits, start)
    assert found <= most <= found + max(found // 8, 1)
    assert len(asked) == len(set(asked)) <= 18


def test_what_is_asked_wrongly_is_told_in_a_line(capsys):
    for argument, words in {
        "--chip=v7": "unknown chip 'v7'; known: v5e, v5p, v6e",
        "--program=forwards": "Did you mean 'forward'?",
        "--batch=many": "--batch=many, expected a whole number",
        "--batch=0": "batch=0, expected",
    }.items():
        assert tpu.main([argument]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


@pytest.mark.skipif(not WITHOUT_LIBTPU, reason="libtpu is installed")
def test_without_libtpu_the_way_to_install_it_is_told(capsys):
    assert tpu.main([]) == 2
    assert "pip install -U 'jax[tpu]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(WITHOUT_LIBTPU, reason="libtpu is not installed")
@pytest.mark.parametrize("chip", CHIPS)
def test_a_product_is_compiled_for_a_chip_that_is_not_here(chip):
    peaks = CHIPS[chip]
    compiled, _ = tpu_cost.compiled_for(
        tpu_cost.device(peaks), lambda a, b: a @ b, *product(256, 512, 1024)
    )
    cost = tpu_cost.cost(compiled, peaks, "float32")
    assert cost.flop == pytest.approx(2 * 256 * 512 * 1024, rel=0.01)
    assert cost.peak_bytes > 4 * 256 * 1024
    assert 0 < cost.efficiency <= 1


def test_a_program_that_is_only_priced_is_not_kept(monkeypatch):
    kept = []
    monkeypatch.setattr(
        "jax._src.compilation_cache.put_executable_and_time", lambda *a: kept.append(a[1])
    )
    least = "jax_persistent_cache_min_compile_time_secs"
    usual, shapes = jax.config.values[least], product(3, 5, 7)
    try:
        jax.config.update(least, 0.0)
        tpu_cost.compiled_for(jax.devices()[0], lambda a, b: a @ b, *shapes)
        assert kept == [] and jax.config.values[least] == 0.0
        jax.jit(lambda a, b: a @ b + 1).lower(*shapes).compile()
        assert len(kept) == 1
    finally:
        jax.config.update(least, usual)


@pytest.mark.parametrize("name", tpu.PROGRAMS)
def test_programs_are_traced_for_a_batch(monkeypatch, name):
    small = models.UNet(channels=8, channel_mult=(1,), num_res_blocks=1, num_groups=4)
    subject = tpu.NETWORKS["unet"]._replace(denoiser=small)
    monkeypatch.setitem(tpu.NETWORKS, "unet", subject)
    setup, shape = tpu.set_up_for("unet", "bfloat16"), (2, 32, 32, 3)
    made = tpu.PROGRAMS[name](setup, shape, jax.devices()[0])
    found = jax.tree.leaves(jax.eval_shape(made.function, *made.arguments))
    assert found and all(leaf.shape[:1] == (2,) for leaf in found)
