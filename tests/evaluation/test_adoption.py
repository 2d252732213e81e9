"""No evaluation takes another's records for its own: each is refused, with what differs.

Refused before anything is compiled: the calls of this file attack nothing.
"""

import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest
from etils import epath
from evaluation import toys

from jaxpure import attacks, data
from jaxpure.evaluation import lanes, records
from jaxpure.evaluation.identity import describe, identify
from jaxpure.evaluation.setup import set_up
from jaxpure.purifiers import Identity

DEFENSE, ATTACK, EXAMPLES = toys.problem(5, num_steps=2)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with clean rows of the first three examples, as a kill would leave it."""
    place = tmp_path_factory.mktemp("begun")
    folder = epath.Path(place)
    setup = set_up(
        DEFENSE,
        ATTACK,
        ball=toys.BALL,
        policy="replay",
        gradient="bpda",
        judging_keys=toys.KEYS,
    )
    where = lanes.Lanes(lanes.local_mesh(), 4)
    identity = identify(setup, toys.ROOT, where, EXAMPLES)
    records.claim(folder, identity, describe(setup, toys.ROOT, where))
    rows = [
        {"index": 100 + i, "logits": np.zeros((toys.KEYS, 5), np.float32)} for i in range(3)
    ]
    records.append(folder / "clean", rows, identity)
    return place


def weights_changed(by):
    classifier = DEFENSE.classifier
    changed = jax.tree.map(lambda w: w.at[0, 0].add(by), classifier)
    return dataclasses.replace(DEFENSE, classifier=changed)


def data_changed(position, by=0.0, label=0):
    images, labels = EXAMPLES.images.copy(), EXAMPLES.labels.copy()
    images[position, 0, 0, 0] = np.abs(images[position, 0, 0, 0] - by)
    labels[position] = (labels[position] + label) % 5
    return dataclasses.replace(EXAMPLES, images=images, labels=labels)


def with_options(attack, **options):
    return dataclasses.replace(attack, **options)


OTHERS = {
    "weights": ({"defense": weights_changed(1e-6)}, "defense"),
    "a purifier of more noise": (
        {"defense": toys.purified(DEFENSE.classifier, 0.21)},
        "defense",
    ),
    "another purifier": (
        {"defense": dataclasses.replace(DEFENSE, purifier=Identity())},
        "defense",
    ),
    "a seed": ({"key": jax.random.key(4)}, "key"),
    "a key's kind": ({"key": jax.random.key(3, impl="rbg")}, "key"),
    "a step size": ({"attack": with_options(ATTACK, step_size=0.03)}, "attack"),
    "a number of steps": ({"attack": with_options(ATTACK, num_steps=3)}, "attack"),
    "a number of draws": ({"attack": with_options(ATTACK, eot_samples=1)}, "attack"),
    "a loss": ({"attack": with_options(ATTACK, loss="margin")}, "attack"),
    "an attack": ({"attack": attacks.Apgd(num_steps=2)}, "attack, stages"),
    "eps": ({"ball": attacks.Linf(0.0800001)}, "ball"),
    "a norm": ({"ball": attacks.L2(0.08)}, "ball"),
    "a policy": ({"policy": "fresh"}, "policy"),
    "a policy by parts": ({"policy": "replay,judging=fresh"}, "policy"),
    "a gradient rule": ({"gradient": "exact"}, "gradient, seen defense"),
    "more judging keys": ({"judging_keys": toys.KEYS + 1}, "judging_keys"),
    "a batch size": ({"batch_size": 5}, "batch_size"),
    "a data set": ({"dataset": dataclasses.replace(EXAMPLES, name="toys")}, "data"),
    "an image with a row": ({"dataset": data_changed(0, 1e-3)}, "example 100"),
    "an image without a row": ({"dataset": data_changed(4, 1e-3)}, "example 104"),
    "a label": ({"dataset": data_changed(3, label=1)}, "example 103"),
    "images in another order": (
        {"dataset": dataclasses.replace(EXAMPLES, images=EXAMPLES.images[::-1])},
        r"example 100 \(4 in all\)",
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_records_of_another_evaluation_are_refused(begun, what):
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
    changes, differs = OTHERS[what]
    usual = {"defense": DEFENSE, "attack": ATTACK, "dataset": EXAMPLES}
    given = usual | changes
    with (
        mock.patch.object(lanes, "judge", side_effect=AssertionError("work was begun")),
        pytest.raises(records.RecordError, match=differs) as raised,
    ):
        toys.run(
            begun, given.pop("defense"), given.pop("attack"), given.pop("dataset"), **given
        )
    assert "\n" not in str(raised.value) and "choose another folder" in str(raised.value)
    after = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
    assert before == after


@pytest.mark.parametrize(
    "dataset",
    [
        EXAMPLES,
        data.take(EXAMPLES, [4, 1]),
        dataclasses.replace(EXAMPLES, images=(EXAMPLES.images + 0.0)),
    ],
    ids=["the same", "fewer of them", "a copy"],
)
def test_the_evaluation_itself_goes_on(begun, dataset):
    with (
        mock.patch.object(lanes, "judge", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),  # it came to the work
    ):
        toys.run(begun, DEFENSE, ATTACK, dataset)
