"""Data sets of one's own arrays, and what is checked of every one."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure import data
from jaxpure.errors import UserError


def handmade(images, labels):
    indices = np.arange(100, 100 + len(labels))
    return data.Dataset("handmade", images, np.array(labels, np.int32), indices, 10)


GOOD = handmade(np.full((4, 2, 3, 1), 0.5, np.float32), [0, 1, 2, 3])


@pytest.mark.parametrize("value", [-0.01, 1.01, 255, np.nan, np.inf, -np.inf])
def test_check_names_the_first_image_out_of_range(value):
    images = np.zeros((4, 2, 2, 1), np.float32)
    images[2, 1, 0, 0] = images[3, 0, 0, 0] = value
    with pytest.raises(data.DataError, match=r"image 102 of handmade .* \[0, 1\]"):
        data.check(handmade(images, [0, 1, 2, 3]))


@pytest.mark.parametrize("label", [-1, 10])
def test_check_names_the_first_label_out_of_range(label):
    images = np.zeros((3, 2, 2, 1), np.uint8)
    with pytest.raises(data.DataError, match=f"label {label} of example 101 of handmade"):
        data.check(handmade(images, [0, label, label]))


def test_check_accepts_what_is_in_range():
    data.check(handmade(np.array([0, 1], np.float32).reshape(2, 1, 1, 1), [0, 9]))
    data.check(handmade(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1), [0, 9]))
    data.check(dataclasses.replace(GOOD, indices=np.array([2**31 - 1, 0, 7, 3])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indices": np.array([5, 6, 5, 7])}, "index 5 of handmade is given 2 times"),
        ({"indices": np.array([5, 6, -1, 7])}, "index -1 of handmade is outside"),
        (
            {"indices": np.array([5, 6, 2**31, 7])},
            "index 2147483648 of handmade is outside",
        ),
        ({"indices": np.array([5.0, 6, 1, 7])}, "indices of handmade are float64"),
        ({"indices": np.arange(3)}, r"indices of handmade have shape \(3,\), .*\(4,\)"),
        (
            {"labels": np.array([0.0, 1, 2, 3])},
            "labels of handmade are float64, .*integers",
        ),
        ({"labels": np.array([True] * 4)}, "labels of handmade are bool"),
        ({"labels": np.arange(5)}, r"labels of handmade have shape \(5,\), .*\(4,\)"),
        ({"labels": np.eye(4, dtype=int)}, r"labels of handmade have shape \(4, 4\)"),
        ({"images": GOOD.images[..., 0]}, r"shape \(4, 2, 3\), .*images\[..., None\]"),
        ({"images": GOOD.images[..., None]}, r"shape \(4, 2, 3, 1, 1\), expected \(n, h"),
        ({"images": GOOD.images.astype(float)}, "are float64, expected float32 or uint8"),
        ({"images": GOOD.images.astype(int)}, "are int64, expected float32"),
        ({"images": np.zeros((4, 3, 8, 8), np.uint8)}, r"images.transpose\(0, 2, 3, 1\)"),
        ({"images": np.zeros((4, 8, 0, 3), np.uint8)}, "holds no pixels"),
        ({"num_classes": 3}, r"label 3 of example 103 .* outside \[0, 3\)"),
    ],
)
def test_check_names_what_is_wrong(changes, message):
    with pytest.raises(data.DataError, match=message) as error:
        data.check(dataclasses.replace(GOOD, **changes))
    assert isinstance(error.value, UserError)


def test_an_empty_set_is_refused():
    with pytest.raises(data.DataError, match="handmade has no examples"):
        data.check(data.take(GOOD, slice(0)))


@pytest.mark.parametrize(
    "positions", [slice(1, None, 2), [1, 3], np.array([False, True, False, True])]
)
def test_take_keeps_labels_and_indices_with_their_images(positions):
    dataset = dataclasses.replace(GOOD, images=np.arange(4 * 6).reshape(4, 2, 3, 1))
    taken = data.take(dataset, positions)
    assert taken.labels.tolist() == [1, 3] and taken.indices.tolist() == [101, 103]
    np.testing.assert_array_equal(taken.images, dataset.images[1::2])
    assert (taken.name, taken.num_classes) == ("handmade", 10)


def test_arrays_become_a_data_set():
    images = jnp.full((3, 4, 5, 2), 0.25)
    dataset = data.from_arrays(images, [2, 0, 1], name="mine", num_classes=7)
    assert dataset.name == "mine" and dataset.num_classes == 7 and len(dataset) == 3
    assert dataset.image_shape == (4, 5, 2)
    assert dataset.images.dtype == np.float32 and (dataset.images == 0.25).all()
    assert dataset.labels.dtype == np.int32 and dataset.labels.tolist() == [2, 0, 1]
    assert dataset.indices.dtype == np.int64 and dataset.indices.tolist() == [0, 1, 2]


def test_classes_are_counted_and_indices_kept():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    dataset = data.from_arrays(images, np.array([2, 0, 1], np.uint8), indices=[9, 4, 5])
    assert dataset.num_classes == 3 and dataset.images.dtype == np.uint8
    assert dataset.indices.tolist() == [9, 4, 5]


def test_floats_of_any_precision_are_taken():
    for kind in (np.float16, np.float64):
        images = np.full((2, 2, 2, 1), 0.5, kind)
        assert data.from_arrays(images, [0, 1]).images.dtype == np.float32


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (np.zeros((2, 3, 3)), [0, 1], {}, r"shape \(2, 3, 3\)"),
        (np.zeros((2, 3, 3, 1), int), [0, 1], {}, "are int64"),
        (np.full((2, 3, 3, 1), 255.0), [0, 1], {}, "outside .0, 1. or not finite; scale"),
        (np.zeros((2, 3, 3, 1)), [0.0, 1.0], {}, "labels of arrays are float64"),
        (np.zeros((2, 3, 3, 1)), [0, 1, 1], {}, r"labels of arrays have shape \(3,\)"),
        (np.zeros((2, 3, 3, 1)), [0, -1], {}, "label -1 of example 1"),
        (np.zeros((2, 3, 3, 1)), [0, 2**40], {"num_classes": 5}, "label 1099511627776"),
        (np.zeros((2, 3, 3, 1)), [0, 1], {"indices": [2**32, 1]}, "index 4294967296"),
        (np.zeros((0, 3, 3, 1)), [], {}, "arrays has no examples"),
        ("digits", [0], {}, r"images of arrays have shape \(\)"),
    ],
)
def test_arrays_of_another_form_are_refused(images, labels, options, message):
    with pytest.raises(data.DataError, match=message):
        data.from_arrays(images, labels, **options)
