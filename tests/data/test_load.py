"""From a spec, a source or a data set to examples."""

import dataclasses

import numpy as np
import pytest

from jaxpure import data, specs
from jaxpure.data import Digits, Folder, Tfds
from jaxpure.errors import UserError


@pytest.mark.parametrize(
    ("spec", "options", "expected"),
    [
        ("digits", {}, Digits()),
        ("digits(split=train)", {}, Digits("train")),
        ("digits(train,5)", {}, Digits("train", 5)),
        ("digits(train,5)", {"split": "test"}, Digits("test", 5)),
        ("digits(train,num_examples=5)", {"num_examples": 7}, Digits("train", 7)),
        ("digits(num_examples=5)", {"num_examples": None}, Digits()),
        ("digits(indices=[3,7])", {}, Digits(indices=(3, 7))),
        ("digits", {"indices": np.array([3, 7])}, Digits(indices=(3, 7))),
        ("cifar10", {}, Tfds("cifar10")),
        ("cifar10(train,64)", {}, Tfds("cifar10", "train", 64)),
        ("tfds(name=cifar10,num_examples=64)", {}, Tfds("cifar10", num_examples=64)),
        (
            "cifar10(data_dir=~/sets)",
            {"split": "train"},
            Tfds("cifar10", "train", None, "~/sets"),
        ),
        ("cifar10_corrupted/fog_1:1.0.0", {}, Tfds("cifar10_corrupted/fog_1:1.0.0")),
        ("folder(/path/to/imgs,image_size=224)", {}, Folder("/path/to/imgs", None, 224)),
        ("folder('/a, b (c)')", {}, Folder("/a, b (c)")),
        ("folder", {"path": "imgs"}, Folder("imgs")),
        ("folder(imgs,3,224)", {"num_examples": 2}, Folder("imgs", 2, 224)),
        (specs.parse("digits(split=train)"), {}, Digits("train")),
        (Digits("train", 5), {"split": "test"}, Digits("test", 5)),
    ],
)
def test_a_spec_names_a_source_and_options_override_it(spec, options, expected):
    assert data.parse(spec, **options) == expected


def test_load_is_the_source_called():
    expected = Digits("train", 4)()
    for loaded in (
        data.load("digits(train,4)"),
        data.load("digits", split="train", num_examples=4),
        data.load(Digits("train", 4)),
        data.load(Digits("train"), num_examples=4),
        data.load(lambda: expected),
    ):
        np.testing.assert_array_equal(loaded.images, expected.images)
        np.testing.assert_array_equal(loaded.indices, expected.indices)


def test_a_data_set_is_returned_as_it_is():
    dataset = Digits(num_examples=3)()
    assert data.load(dataset) is dataset
    with pytest.raises(data.DataError, match="takes no options .num_examples.*data.take"):
        data.load(dataset, num_examples=2)


def test_whatever_comes_is_checked():
    dataset = Digits(num_examples=3)()
    wrong = dataclasses.replace(dataset, indices=np.zeros(3, np.int64))
    for thing in (wrong, lambda: wrong):
        with pytest.raises(data.DataError, match="index 0 of digits is given 3 times"):
            data.load(thing)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("digits(", {}, "'digits(': '(' at character 7 is not closed; expected ')'"),
        ("", {}, "expected a name"),
        ("digits(splt=train)", {}, "unknown option of data set digits 'splt'.*'split'?"),
        ("digits", {"data_dir": "x"}, "unknown option of data set digits 'data_dir'"),
        (Digits(), {"splt": "test"}, "unknown option of data set digits 'splt'"),
        ("digits(split=valid)", {}, "unknown value 'valid'; known: train, test"),
        ("digits", {"split": "valid"}, "unknown split of digits 'valid'"),
        ("digits(test,1,[2],4)", {}, "4 values without a name, but it takes split"),
        ("digits(train,split=test)", {}, "'split' is given twice"),
        ("digits(num_examples=few)", {}, "num_examples=few, expected a whole number"),
        ("digits(num_examples=2.5)", {}, "num_examples=2.5, expected a whole number"),
        ("digits(num_examples=0)", {}, "num_examples=0, expected a whole number of at"),
        ("digits(indices=3)", {}, "indices=3, expected a list, as in [1,2]"),
        ("digits(indices=[3,x])", {}, "indices=x, expected a whole number"),
        ("digits(3,indices=[3])", {}, "unknown value '3'"),
        ("digits(num_examples=3)", {"indices": [1]}, "one of num_examples and indices"),
        ("folder", {}, "data set folder needs path"),
        ("folder()", {}, "data set folder needs path"),
        ("folder('')", {}, "path is empty"),
        ("folder:/imgs", {}, "unknown data set 'folder:/imgs'; .* is folder(/imgs)"),
        ("/imgs/val", {}, "a folder of images is folder(/imgs/val)"),
        ("~/imgs", {}, "a folder of images is folder(~/imgs)"),
        ("cifar10(image_size=0)", {}, "image_size=0, expected at least 1"),
        (3, {}, "a int is no data set; expected a spec such as 'digits(split=train)'"),
        (None, {}, "a NoneType is no data set"),
        (Digits, {}, "a type is no data set"),
        ((np.zeros((2, 3, 3, 1)), [0, 1]), {}, "data.from_arrays makes of arrays"),
        (lambda: 3, {}, "gave int, expected a data.Dataset"),
        (lambda: 3, {"split": "x"}, "takes no options"),
    ],
)
def test_what_is_no_data_set_gets_one_clear_line(spec, options, message):
    with pytest.raises(UserError) as error:
        data.load(spec, **options)
    text, place = str(error.value), 0
    for part in message.split(".*"):
        assert part in text[place:], text
        place = text.index(part, place) + len(part)
    assert "\n" not in text
