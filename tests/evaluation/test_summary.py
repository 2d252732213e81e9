"""The summary: what it reads from the records, and what it warns of."""

import dataclasses
import json

import numpy as np
import pytest

from jaxpure.evaluation import Result, statistics
from jaxpure.evaluation.readings import READINGS
from jaxpure.evaluation.summary import KEYS, ranges, summarize, warnings
from tests.fakes import fake_result

SHAPE = (8, 8, 1)
NO_WARNINGS = {
    "nonfinite_examples": [],
    "zero_gradient_examples": [],
    "bad_gradient_examples": [],
    "robust_accuracy_undefended": {"value": 0.1},
}


@pytest.fixture
def undefended() -> Result:
    return fake_result(SHAPE, keys=1, seed=1, survive=0)


def test_every_reading_has_a_published_key():
    assert set(KEYS) == set(READINGS)


def test_every_reading_has_a_clean_and_an_attacked_value(undefended):
    defended = fake_result(SHAPE)
    summary = summarize(defended, undefended)
    assert json.loads(json.dumps(summary)) == summary and summary["version"] == 2
    for logits, headline, unseen in (
        (defended.clean_logits, "clean_accuracy", "clean_accuracy_fresh"),
        (defended.logits, "robust_accuracy", "robust_accuracy_fresh"),
    ):
        right = statistics.correct(logits, defended.labels)
        assert summary[headline]["value"] == pytest.approx(right[:, 0].mean())
        assert summary[unseen]["value"] == pytest.approx(right[:, 1:].mean())
        assert summary[unseen]["low"] < summary[unseen]["value"] < summary[unseen]["high"]
    assert summary["warnings"] == []
    assert summary["norm"] == "linf" and summary["eps"] == 8 / 255
    assert summary["attack"] == "pgd" and summary["num_examples"] == 30


def test_without_an_undefended_evaluation_nothing_is_said_of_it():
    summary = summarize(fake_result(SHAPE))
    assert not [key for key in summary if "undefended" in key]


def test_hashes_tell_experiments_apart_and_what_they_attack():
    parts = {"defense": "d", "ball": "b", "key": "k", "data": "digits", "policy": "replay"}
    one = fake_result(SHAPE, hash="ab12", parts=parts)
    fresh = fake_result(SHAPE, hash="cd34", parts={**parts, "policy": "fresh"})
    weaker = fake_result(SHAPE, hash="ef56", parts={**parts, "defense": "e"})
    changed = dataclasses.replace(one, clean_images=one.clean_images / 2)
    assert summarize(one)["hash"] == "ab12"
    subjects = [summarize(each)["subject_hash"] for each in (one, fresh, weaker, changed)]
    assert subjects[0] == subjects[1] and len(set(subjects)) == 3
    assert "hash" not in summarize(fake_result(SHAPE))  # it does not say of what parts


def test_what_was_spent_is_the_looks_of_the_attack_and_the_judging():
    defended = fake_result(SHAPE, denoiser_evaluations=3, attack_denoiser_evaluations=5)
    looks, judged = int(defended.gradient_evaluations.sum()), 2 * 30 * 4
    summary = summarize(defended)
    assert summary["purifications"] == looks + judged
    assert summary["denoiser_evaluations"] == 5 * looks + 3 * judged
    unknown = summarize(fake_result(SHAPE, denoiser_evaluations=None))
    assert unknown["denoiser_evaluations"] is None


def test_masked_is_what_met_no_other_gradient_than_zero(undefended):
    defended = fake_result(SHAPE)
    first, second = np.flatnonzero(defended.evaluations)[:2]
    zeros = defended.zero_gradients.copy()
    zeros[first] = defended.evaluations[first]
    zeros[second] = 1
    evaluations = defended.evaluations.copy()
    evaluations[second] = 2
    defended = dataclasses.replace(defended, zero_gradients=zeros, evaluations=evaluations)
    summary = summarize(defended, undefended)
    index = int(defended.indices[first])
    assert summary["zero_gradient_examples"] == [index]
    (warning,) = summary["warnings"]
    assert "identically zero at every evaluation" in warning
    assert f"1 image (index {index})" in warning


def test_nothing_to_warn_of():
    assert warnings(NO_WARNINGS) == []


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"nonfinite_examples": [3]}, "not finite on 1 image (index 3). Such draws count"),
        ({"zero_gradient_examples": [3, 4, 5, 9]}, "on 4 images (index 3-5, 9). This is g"),
        ({"zero_gradient_examples": [0]}, "gradient masking: the attack was blind there"),
        ({"bad_gradient_examples": [1, 2]}, "at some step on 2 images (index 1-2). It was"),
        ({"robust_accuracy_undefended": {"value": 0.11}}, "keeps more than 10% under this"),
    ],
)
def test_a_sentence_for_each_thing_to_know(found, expected):
    (warning,) = warnings({**NO_WARNINGS, **found})
    assert expected in warning


def test_many_examples_are_counted():
    (warning,) = warnings({**NO_WARNINGS, "nonfinite_examples": [*range(0, 22, 2)]})
    assert "on 11 images (index 0, 2, 4, 6, 8, 10, 12, 14 and 3 more)." in warning


def test_ranges():
    assert ranges(range(200)) == "0-199"
    assert ranges([9, 3, 7, 8]) == "3, 7-9"
    assert ranges([]) == ""
    assert ranges([0, 2, 4, 5], most=2) == "0, 2 and 2 more"


def test_resubmission_is_read_off_the_attacks_own_draws():
    defended = fake_result(SHAPE)
    assert summarize(defended)["resubmission"] == {}  # one draw
    found = summarize(fake_result(SHAPE, draws=4, policy="fresh"))["resubmission"]
    assert found["draws"] == 4
    assert found["average"]["value"] == pytest.approx(1 - defended.lost.mean())
    assert found["worst_of_n"]["value"] == np.mean(defended.lost == 0)
    assert found["majority_vote"]["value"] == np.mean(~defended.vote_lost)
    silent = dataclasses.replace(fake_result(SHAPE, draws=4), lost=np.full(30, np.nan))
    assert summarize(silent)["resubmission"] == {}


def test_attacks_in_turn_have_a_row_each():
    defended = fake_result(SHAPE, stages=["one", "two"])
    broken = np.flatnonzero((defended.attack_calls > 0) & ~defended.robust[:, 0])
    by = defended.broken_by.astype("<U3")
    by[broken[0]], by[broken[1:]] = "one", "two"
    rows = summarize(dataclasses.replace(defended, broken_by=by))["stages"]
    attacked = int((defended.attack_calls > 0).sum())
    assert [row["tried"] for row in rows] == [attacked, attacked - 1]
    assert [row["broke"] for row in rows] == [1, len(broken) - 1]
