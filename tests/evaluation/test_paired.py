"""Two evaluations paired on the examples that they share."""

import dataclasses

import numpy as np
import pytest

from jaxpure.errors import UserError
from jaxpure.evaluation import statistics
from jaxpure.evaluation.paired import compare
from tests.fakes import fake_result

SHAPE = (8, 8, 1)


def some(result, positions):
    """The examples at these positions, in this order."""
    arrays = {
        field.name: getattr(result, field.name)[positions]
        for field in dataclasses.fields(result)
        if field.name != "about"
    }
    return dataclasses.replace(result, **arrays)


def test_the_gap_is_that_of_the_shared_examples_in_whatever_order():
    fresh, replay = fake_result(SHAPE, policy="fresh"), fake_result(SHAPE, survive=0.1)
    replay = dataclasses.replace(replay, labels=fresh.labels)
    found = compare(some(fresh, np.arange(20)), some(replay, np.arange(29, 9, -1)))
    np.testing.assert_array_equal(found.indices, np.arange(110, 120))
    rows = slice(10, 20)
    a = statistics.correct(fresh.logits, fresh.labels)[rows, 0]
    b = statistics.correct(replay.logits, fresh.labels)[rows, 0]
    assert found.gap == statistics.paired_gap(a, b)
    assert found.readings["robust accuracy"].first == statistics.wilson(a)
    assert "policy fresh" in str(found) and "10 examples in both" in str(found)


def test_a_gap_that_excludes_zero_says_which_policy_keeps_less():
    strong, weak = (
        fake_result(SHAPE, survive=1, policy="fresh"),
        fake_result(SHAPE, survive=0),
    )
    assert "Under policy replay the defense keeps" in str(compare(strong, weak))
    assert "No clear difference" in str(compare(strong, strong))


def test_other_examples_are_refused():
    one = fake_result(SHAPE)
    with pytest.raises(UserError, match="no example in common"):
        compare(one, dataclasses.replace(one, indices=one.indices + 500))
    with pytest.raises(UserError, match="digits, the other of mnist"):
        compare(one, fake_result(SHAPE, data="mnist"))
    with pytest.raises(
        UserError, match=r"example 100 of digits \(30 of 30 .* not the same"
    ):
        compare(one, dataclasses.replace(one, labels=(one.labels + 1) % 10))


def test_other_images_under_the_same_name_and_labels_are_refused():
    one = fake_result(SHAPE)
    images = one.clean_images.copy()
    images[[7, 20], 0, 0] += np.float32(1e-6)
    other = dataclasses.replace(one, clean_images=images)
    with pytest.raises(UserError, match=r"example 107 of digits \(2 of 30 .* not the same"):
        compare(one, other)
    before = some(other, np.arange(7))  # those of them that are as they were
    assert len(compare(one, before).indices) == 7
