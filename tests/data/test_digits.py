"""scikit-learn's digits."""

import numpy as np
import pytest

from jaxpure import data


def test_digits_are_images_in_the_unit_interval():
    digits = data.load("digits")
    assert digits.name == "digits"
    assert digits.image_shape == (8, 8, 1)
    assert digits.images.dtype == np.float32
    assert (digits.images.min(), digits.images.max()) == (0, 1)
    assert set(digits.labels) == set(range(10))
    assert digits.num_classes == 10
    assert digits.floats() is digits.images


def test_digits_splits_are_the_whole_set_in_its_order():
    from sklearn.datasets import load_digits

    train, test = data.load("digits", split="train"), data.load("digits", split="test")
    assert (len(train), len(test)) == (1297, 500)
    images = np.concatenate([train.images, test.images])
    np.testing.assert_array_equal(images[..., 0] * 16, load_digits().images)
    np.testing.assert_array_equal(
        np.concatenate([train.labels, test.labels]), load_digits().target
    )
    for split in (train, test):
        np.testing.assert_array_equal(split.indices, np.arange(len(split)))


def test_a_split_that_digits_lack():
    with pytest.raises(data.DataError, match="'valid'; known: train, test"):
        data.Digits(split="valid")
