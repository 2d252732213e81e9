"""`batch_size="auto"` and draws side by side: what fits, and that results stay the same."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from evaluation import toys
from hypothesis import given
from hypothesis import strategies as st

from jaxpure.errors import UserError
from jaxpure.evaluation import fitting, set_up
from jaxpure.keys import map_draws

DEFENSE, ATTACK, EXAMPLES = toys.problem(9, num_steps=2)


@given(st.integers(0, 500), st.integers(1, 60), st.integers(1, 5000), st.integers(1, 300))
def test_the_largest_batch_is_found_where_memory_grows_evenly(base, each, limit, most):
    asked = []

    def planned(images):
        asked.append(images)
        return base + each * images

    found = fitting.largest(planned, limit, most)
    assert found <= most
    if found == 0:
        assert planned(1) > limit
        return
    assert planned(found) <= limit
    assert found == most or planned(found + 1) > limit
    assert len(set(asked)) <= 7


@given(st.integers(1, 2000), st.integers(1, 400), st.floats(1.0, 1.5))
def test_what_is_found_fits_where_memory_grows_unevenly(limit, most, power):
    found = fitting.largest(lambda n: int(3 * n**power), limit, most)
    assert 0 <= found <= most and (found == 0 or int(3 * found**power) <= limit)


def lanes_of(batch_size, memory, folder=None):
    setup = set_up(DEFENSE, ATTACK, ball=toys.BALL, gradient="bpda")
    with mock.patch.object(fitting, "device_memory", lambda device: memory):
        return fitting.lanes_of(batch_size, 1, setup, EXAMPLES, toys.ROOT, folder)


def test_all_images_run_side_by_side_where_memory_is_plenty():
    where = lanes_of("auto", 1 << 40)
    assert where.batch_size == -(-len(EXAMPLES) // len(jax.local_devices()))


def test_no_memory_is_told_with_what_takes_less():
    with pytest.raises(UserError, match="one image takes .* GiB.* take less"):
        lanes_of("auto", 1)


def test_a_batch_size_is_a_number_or_auto():
    for wrong, message in (
        ("big", "expected a whole number, or 'auto'"),
        (0, "at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            lanes_of(wrong, 1 << 40)


def test_what_a_run_was_begun_with_is_kept(tmp_path):
    begun = toys.run(tmp_path, DEFENSE, ATTACK, EXAMPLES, batch_size=3)
    assert begun.about["batch_size"] == 3
    assert lanes_of("auto", 1 << 40, epath.Path(tmp_path)).batch_size == 3
    again = toys.run(tmp_path, DEFENSE, ATTACK, EXAMPLES, batch_size="auto")
    toys.assert_same(again, begun)


def test_devices_have_memory():
    assert fitting.device_memory(jax.devices()[0]) > 1 << 20


# Draws side by side.


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 64])
def test_draws_are_the_same_whatever_runs_side_by_side(at_once):
    keys = jax.random.split(jax.random.key(0), 5)
    draw = jax.jit(
        lambda keys: map_draws(lambda k: jax.random.normal(k, (3,)), keys, at_once)
    )
    expected = jnp.stack([jax.random.normal(k, (3,)) for k in keys])
    np.testing.assert_array_equal(draw(keys), expected)


@pytest.mark.parametrize("policy", ["fresh", "replay"])
def test_an_evaluation_finds_the_same_with_draws_side_by_side(policy):
    one, many = (
        toys.run(None, DEFENSE, ATTACK, EXAMPLES, policy=policy, draws_at_once=n)
        for n in (1, 3)
    )
    for name in ("clean_logits", "logits", "images"):
        np.testing.assert_allclose(getattr(one, name), getattr(many, name), atol=1e-5)
    np.testing.assert_array_equal(one.evaluations, many.evaluations)
    assert one.about["parts"] != many.about["parts"]  # rounding may differ
