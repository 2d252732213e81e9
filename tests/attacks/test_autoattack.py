"""AutoAttack: its versions are the original's, and its advice on randomised defenses."""

import jax
import pytest

from jaxpure import attacks
from jaxpure.attacks import L1, AutoAttack, cascade
from jaxpure.defenses import PurifiedClassifier
from jaxpure.errors import UserError

from . import toys


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (
            "standard",  # name, loss, restarts, targets
            [
                ("apgd-ce", "cross_entropy", 1, 1),
                ("apgd-t", "targeted_dlr", 1, 9),
                ("fab-t", "targeted_margin", 1, 9),
                ("square", "margin", 1, 1),
            ],
        ),
        (
            "plus",
            [
                ("apgd-ce", "cross_entropy", 5, 1),
                ("apgd-dlr", "dlr", 5, 1),
                ("fab-t", "targeted_margin", 5, 9),
                ("square", "margin", 1, 1),
                ("apgd-t", "targeted_dlr", 1, 9),
            ],
        ),
        ("rand", [("apgd-ce", "cross_entropy", 1, 1), ("apgd-dlr", "dlr", 1, 1)]),
    ],
)
def test_versions_are_the_originals(version, expected):
    policy = toys.policy("fresh")
    stages = cascade(AutoAttack(version), "", toys.DEFENSE, policy)
    assert len(stages) == len(expected)
    for stage, (name, loss, restarts, targets) in zip(stages, expected, strict=True):
        assert stage.name == name
        assert stage.objective.loss == loss and stage.objective.policy == policy
        assert stage.objective.eot_samples == (20 if version == "rand" else 1)
        # Steps of a run: those of the paper, and the looks at the clean image and start.
        looks = {"apgd": 102, "fab-": 101, "squa": 5001}[name[:4]]
        clean = name == "square"
        assert stage.budget.calls == restarts * targets * looks + clean
        assert stage.attack.num_restarts == restarts


def test_options_go_to_the_attacks():
    attack = AutoAttack(num_targets=3, selection="consistent")
    found = dict(attack.attacks())
    assert found["apgd-t"].num_targets == found["fab-t"].num_targets == 3
    assert found["apgd-ce"].selection == found["apgd-t"].selection == "consistent"


def test_there_is_none_in_l1():
    """Square has no queries there; APGD's own L1 version is `apgd`."""
    row = toys.example(0)
    with pytest.raises(UserError, match="attacks in linf, l2, not in l1"):
        attacks.run(AutoAttack(num_targets=2), toys.DEFENSE, *row, ball=L1(1.0))


@pytest.mark.parametrize(
    ("random", "policy", "version", "advised"),
    [
        (True, "fresh", "standard", "use the policy replay, or version=rand"),
        (True, "fixed", "plus", "plus optimises against other noise"),
        (True, "fresh", "rand", None),
        (True, "replay", "standard", None),
        (True, "replay", "rand", "is replayed: version=standard is stronger"),
        (False, "fresh", "rand", "is not there: version=standard is stronger"),
        (False, "fresh", "standard", None),
    ],
)
def test_advice_on_randomised_defenses(random, policy, version, advised):
    purifier = toys.Noisy(0.2 if random else 0.0)
    defense = PurifiedClassifier(purifier, toys.bent_classifier())
    attack, key = AutoAttack(version), jax.random.key(0)
    found = attack.advice(defense, toys.policy(policy), key, toys.image())
    assert (found is None) if advised is None else (advised in found)
