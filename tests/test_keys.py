"""Keys: streams by name, examples by index; which keys are never one."""

import itertools

import jax
import numpy as np
import pytest

from jaxpure.keys import defense_key, example_key, stream

# Streams of the library, of whatever parent.
STREAMS = (
    "example",
    "judge",
    "unseen",
    "advice",
    "attack/start",
    "attack/proposal",
    "attack/gradient",
    "attack/selection",
    "attack/fixed",
    "forward",
    "reverse",
    "train",
    "batch",
    "augment",
    "noise",
    "timestep",
    "loss",
)


def bits(key):
    """A key as plain numbers, which may be looked at as often as one likes."""
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_streams_of_two_names_are_two():
    root = jax.random.key(3)
    named = {bits(stream(jax.random.clone(root), name)) for name in STREAMS}
    assert len(named) == len(STREAMS) and bits(root) not in named


def test_streams_are_not_the_indices_that_are_in_use():
    """A name is a number of 32 bits: none is a small one, as indices are."""
    root = jax.random.key(3)
    indices = np.asarray(
        jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(root, np.arange(4096)))
    )
    named = {bits(stream(jax.random.key(3), name)) for name in STREAMS}
    assert not named & set(map(tuple, indices.tolist()))


def test_a_stream_is_the_same_in_every_process():
    """By the name's checksum, not by Python's hash, which is salted."""
    folded = jax.random.fold_in(jax.random.key(0), 0x11FBC314)  # CRC-32 of "judge"
    assert bits(stream(jax.random.key(0), "judge")) == bits(folded)


def test_an_examples_key_does_not_depend_on_batch_or_order():
    root, indices = jax.random.key(1), np.array([7, 0, 9999, 3])
    many = jax.jit(jax.vmap(example_key, (None, 0)))
    together = np.asarray(jax.random.key_data(many(root, indices)))
    backwards = np.asarray(jax.random.key_data(many(jax.random.clone(root), indices[::-1])))
    np.testing.assert_array_equal(together, backwards[::-1])
    for index, row in zip(indices.tolist(), together.tolist(), strict=True):
        assert bits(example_key(jax.random.key(1), index)) == tuple(row)
    assert len({tuple(row) for row in together.tolist()}) == 4


def test_another_root_is_another_key_for_every_example():
    keys = {
        bits(example_key(jax.random.key(root), index))
        for root, index in itertools.product(range(3), range(3))
    }
    assert len(keys) == 9


@pytest.mark.parametrize("index", [-1, 2**32, 2**40])
def test_an_index_beyond_32_bits_is_no_other_examples(index):
    """It is refused: cut to 32 bits it would be another example's key."""
    with pytest.raises(OverflowError):
        example_key(jax.random.key(0), index)
    largest = bits(example_key(jax.random.key(0), 2**32 - 1))
    assert largest != bits(example_key(jax.random.key(0), 0))


def test_draws_of_the_defense_are_its_own_by_number():
    key = example_key(jax.random.key(0), 4)
    own = [bits(defense_key(jax.random.clone(key), n)) for n in range(5)]
    assert len(set(own)) == 5
    judge = stream(jax.random.clone(key), "judge")
    assert own[2] == bits(jax.random.fold_in(judge, 2))
