"""What holds for every registered source."""

import dataclasses

import numpy as np
import pytest
from data.cases import CASES

from jaxpure import data, specs

ARRAYS = ("images", "labels", "indices")


@pytest.fixture(scope="module", params=sorted(CASES))
def source(request, tmp_path_factory):
    return CASES[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def whole(source):
    return source()


def assert_same(got, expected):
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
    assert got.num_classes == expected.num_classes


def test_every_registered_source_has_a_case():
    assert set(CASES) == set(data.SOURCES)
    data.SOURCES.check()


def test_it_is_of_its_registered_class(source):
    assert type(source) in data.SOURCES.names


def test_it_is_frozen_and_hashable(source):
    with pytest.raises(dataclasses.FrozenInstanceError):
        source.num_examples = 3
    same = dataclasses.replace(source, indices=[4, 2])
    assert hash(same) == hash(dataclasses.replace(source, indices=(4, 2)))


def test_it_passes_check_and_has_the_types_of_a_dataset(whole):
    data.check(whole)
    assert len(whole) >= 6
    assert whole.images.dtype in (np.uint8, np.float32)
    assert whole.labels.dtype == np.int32 and whole.indices.dtype == np.int64


def test_published_indices_increase_and_are_in_range(whole):
    assert (np.diff(whole.indices) > 0).all()
    assert 0 <= whole.indices[0] and whole.indices[-1] < 2**31


def test_it_is_the_same_every_time(source, whole):
    assert_same(source(), whole)


def test_num_examples_takes_the_first(source, whole):
    first = dataclasses.replace(source, num_examples=3)()
    assert_same(first, data.take(whole, slice(3)))


def test_indices_are_taken_in_the_order_asked_for(source, whole):
    wanted = whole.indices[[4, 0, 5]]
    assert_same(data.load(source, indices=wanted), data.take(whole, [4, 0, 5]))


def test_an_index_that_is_not_there_is_named(source, whole):
    missing = int(whole.indices[-1]) + 1
    with pytest.raises(data.DataError, match=f"has no example {missing}; its .* 0 to"):
        dataclasses.replace(source, indices=(0, missing))()


def test_more_examples_than_there_are_is_an_error(source, whole):
    many = len(whole) + 1
    with pytest.raises(data.DataError, match=f"has {len(whole)} examples, {many} were"):
        dataclasses.replace(source, num_examples=many)()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_examples": 3, "indices": (1,)}, "one of num_examples and indices"),
        ({"num_examples": 0}, "num_examples=0, expected a whole number of at least 1"),
        ({"num_examples": 2.5}, "num_examples=2.5, expected a whole number"),
        ({"num_examples": True}, "num_examples=True, expected a whole number"),
        ({"indices": ()}, "indices is empty"),
        ({"indices": (3, 1, 3)}, "indices: 3 is given twice"),
        ({"indices": (1, -1)}, "indices: -1, expected"),
        ({"indices": (2**31,)}, "indices: 2147483648, expected"),
        ({"indices": (1.5,)}, "indices: 1.5, expected"),
    ],
)
def test_a_choice_that_is_none_is_refused_before_loading(source, options, message):
    with pytest.raises(data.DataError, match=message):
        dataclasses.replace(source, **options)


@pytest.mark.parametrize("options", [{}, {"num_examples": 3}, {"indices": (5, 2)}])
def test_its_spec_builds_its_equal(source, options):
    changed = dataclasses.replace(source, **options)
    text = specs.spec_of(changed, data.SOURCES)
    assert specs.build(data.SOURCES, text) == changed
    assert data.parse(text) == changed
