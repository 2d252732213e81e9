"""`--limit` and `--indices`: which examples a run is about."""

import pytest

from experiments import choice
from experiments.arguments import ArgumentError
from experiments.config import RunConfig
from jaxpure import data
from jaxpure.errors import UserError


def chosen(spec: str, limit=None, indices=None) -> str:
    return choice.chosen(RunConfig(data=spec), limit, indices).data


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("3", (3,)),
        ("3,17,40-43", (3, 17, 40, 41, 42, 43)),
        (" 3 , 7 - 8 ", (3, 7, 8)),
        ("9,0-1", (9, 0, 1)),
        ("5-5", (5,)),
        ("2147483647", (2**31 - 1,)),
    ],
)
def test_a_list_of_numbers_and_ranges_is_read(text, indices):
    assert choice.read_indices(text) == indices


@pytest.mark.parametrize(
    ("spec", "options", "expected"),
    [
        ("digits(num_examples=200)", {"limit": 7}, "digits(num_examples=7)"),
        ("digits", {"limit": 7}, "digits(num_examples=7)"),
        ("digits(train,200)", {"limit": 7}, "digits(split=train,num_examples=7)"),
        ("digits(num_examples=200)", {"indices": "300,3-5"}, "digits(indices=[300,3,4,5])"),
        ("digits(indices=[9,3,4])", {"limit": 2}, "digits(indices=[9,3])"),
        ("digits", {"indices": "3-9", "limit": 2}, "digits(indices=[3,4])"),
        (
            "cifar10(num_examples=64)",
            {"indices": "3,4"},
            "cifar10(indices=[3,4])",
        ),
        (
            "folder(/images,image_size=224)",
            {"limit": 5},
            "folder(path=/images,image_size=224,num_examples=5)",
        ),
        ("digits(num_examples=200)", {}, "digits(num_examples=200)"),
    ],
)
def test_the_choice_becomes_part_of_the_configs_data(spec, options, expected):
    assert data.parse(chosen(spec, **options)) == data.parse(expected)
    assert chosen(spec, **options) == expected


def test_chosen_examples_keep_their_published_indices():
    found = data.load(chosen("digits(num_examples=5)", indices="300,7"))
    whole = data.load("digits")
    assert found.indices.tolist() == [300, 7]
    assert (found.images == data.take(whole, [300, 7]).images).all()


@pytest.mark.parametrize(
    ("spec", "options", "expected"),
    [
        ("digits", {"indices": "9-3"}, r"9-3.*smaller one first"),
        ("digits", {"indices": "-3"}, r"'-3' is no index and no range"),
        ("digits", {"indices": "3-"}, r"'3-' is no index"),
        ("digits", {"indices": "3,,4"}, r"'' is no index"),
        ("digits", {"indices": "3;4"}, r"'3;4' is no index"),
        ("digits", {"indices": "1e3"}, r"'1e3' is no index"),
        ("digits", {"indices": "0x10"}, r"'0x10' is no index"),
        ("digits", {"indices": "²"}, r"'²' is no index"),
        ("digits", {"indices": "3-4-5"}, r"'3-4-5' is no index"),
        ("digits", {"indices": "2147483648"}, r"0 to 2147483647"),
        ("digits", {"indices": "0-2147483647"}, r"more than 1000000 examples"),
        ("digits", {"indices": "3,1-5"}, r"3 is given twice"),
        ("digits(num_examples=5)", {"limit": 6}, r"--limit=6, expected at most 5"),
        ("digits", {"indices": "3,4", "limit": 3}, r"--limit=3, expected at most 2"),
    ],
)
def test_a_bad_choice_is_told(spec, options, expected):
    with pytest.raises((ArgumentError, UserError), match=expected):
        chosen(spec, **options)
