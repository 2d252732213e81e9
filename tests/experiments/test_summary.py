"""The summary: what it reads from the records, and what it warns of."""

import dataclasses
import json

import numpy as np
import pytest
from jaxpure.randomness import PRESETS

from experiments import config as configs
from experiments.build import Experiment
from experiments.summary import summarize, warnings
from jaxpure import data, purifiers
from jaxpure.attacks import Pgd
from jaxpure.defenses import PurifiedClassifier
from jaxpure.evaluation import Result, statistics
from tests.experiments.fakes import fake_result

NO_WARNINGS = {
    "nonfinite_examples": [],
    "zero_gradient_examples": [],
    "bad_gradient_examples": [],
    "robust_accuracy_undefended": {"value": 0.1},
}


def summary_of(
    bare: Result, defended: Result, policy="replay", eot_samples=1, gradient="bpda"
):
    """The summary of records under an experiment without networks."""
    config = configs.RunConfig(judging_keys=defended.logits.shape[1], gradient=gradient)
    dataset = data.Dataset(
        "digits", defended.images, defended.labels, defended.indices, num_classes=10
    )
    defense = PurifiedClassifier(purifiers.Identity(), None)
    ball = {"eps": 8 / 255, "step_size": 2 / 255}
    attack = Pgd.create(defense, PRESETS[policy], **ball, eot_samples=eot_samples)
    made = Experiment(config, dataset, defense, defense, attack, defense, attack)
    return summarize(made, "fake", bare, defended, seconds=10.0)


@pytest.fixture
def bare() -> Result:
    return fake_result((8, 8, 1), keys=1, seed=1, survive=0)


def test_every_reading_has_a_clean_and_an_attacked_value(bare):
    defended = fake_result((8, 8, 1))
    summary = summary_of(bare, defended)
    assert json.loads(json.dumps(summary)) == summary
    for logits, single, unseen in (
        (defended.clean_logits, "clean_accuracy", "clean_accuracy_fresh"),
        (defended.logits, "robust_accuracy", "robust_accuracy_fresh"),
    ):
        right = statistics.correct(logits, defended.labels)
        assert summary[single]["value"] == pytest.approx(right[:, 0].mean())
        assert summary[unseen]["value"] == pytest.approx(right[:, 1:].mean())
        assert summary[unseen]["low"] < summary[unseen]["value"] < summary[unseen]["high"]
    assert summary["warnings"] == []


def test_masked_is_what_met_no_other_gradient_than_zero(bare):
    defended = fake_result((8, 8, 1))
    first, second = np.flatnonzero(defended.evaluations)[:2]
    zeros = defended.zero_gradients.copy()
    zeros[first] = defended.evaluations[first]
    zeros[second] = 1
    evaluations = defended.evaluations.copy()
    evaluations[second] = 2
    defended = dataclasses.replace(defended, zero_gradients=zeros, evaluations=evaluations)
    summary = summary_of(bare, defended)
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


def test_resubmission_is_read_off_the_attacks_own_draws(bare):
    defended = fake_result((8, 8, 1))
    assert summary_of(bare, defended)["resubmission"] == {}  # one draw, all replayed
    fresh = summary_of(bare, defended, policy="fresh", eot_samples=4)["resubmission"]
    assert fresh["draws"] == 4
    assert fresh["average"]["value"] == pytest.approx(1 - defended.fooled.mean())
    assert fresh["worst_of_n"]["value"] == np.mean(defended.fooled == 0)
    assert fresh["majority_vote"]["value"] == np.mean(~defended.outvoted)
    transfer = summary_of(bare, defended, "fresh", 4, "transfer(t_star=3)")
    assert transfer["resubmission"] == {}  # its draws are another defense's
    silent = dataclasses.replace(defended, fooled=np.full(30, np.nan))
    assert summary_of(bare, silent, "fresh", 4)["resubmission"] == {}
