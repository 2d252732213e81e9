"""Attacks in turn: each on what stands, one outcome an image, killed or not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from jaxpure import attacks, data, randomness
from jaxpure.attacks import Pgd, Sequence, Square, autoattack
from jaxpure.attacks.autoattack import advice
from jaxpure.defenses import PurifiedClassifier
from jaxpure.evaluation import engine, evaluate, load
from jaxpure.purifiers import Identity

REPLAY, FRESH = randomness.PRESETS["replay"], randomness.PRESETS["fresh"]
BALL = {"eps": 0.06, "norm": "linf"}


def linear(weights, x):
    return jnp.tanh(3 * (x.reshape(-1) - 0.5)) @ weights


def noisy(key, x):
    return x + 0.2 * randomness.noise_at(key, 0, x)


def setting(n=12, purifier=Identity()):  # noqa: B008  (it has no state)
    random = np.random.default_rng(0)
    images = random.uniform(size=(n, 4, 4, 1)).astype(np.float32)
    weights = random.normal(size=(16, 5)).astype(np.float32)
    labels = np.argmax(np.tanh(3 * (images.reshape(n, -1) - 0.5)) @ weights, -1)
    labels[0] = (labels[0] + 1) % 5  # wrong before any attack
    dataset = data.Dataset("toy", images, labels.astype(np.int32), np.arange(n), 5)
    classifier = jax.tree_util.Partial(linear, jnp.asarray(weights))
    return PurifiedClassifier(purifier, classifier), dataset


def run(folder, defense, attack, dataset, **options):
    return evaluate(
        epath.Path(folder),
        defense,
        attack,
        dataset,
        root=jax.random.key(0),
        judging_keys=2,
        batch_size=4,
        mesh=engine.local_mesh(jax.devices()[:1]),
        **options,
    )


def weak_then_strong(defense):
    weak = Pgd.create(
        defense, REPLAY, step_size=0.01, num_steps=1, random_start=False, **BALL
    )
    strong = dataclasses.replace(weak, step_size=0.02, num_steps=20)
    queries = Square.create(defense, REPLAY, num_queries=20, **BALL)
    return Sequence((("weak", weak), ("strong", strong), ("square", queries)))


def test_each_attack_goes_on_with_what_stands(tmp_path):
    defense, dataset = setting()
    attack = weak_then_strong(defense)
    result = run(tmp_path / "all", defense, attack, dataset)
    alone = run(tmp_path / "weak", defense, attack.stages[0][1], dataset)
    both = run(tmp_path / "strong", defense, attack.stages[1][1], dataset)
    assert result.broken_by[0] == "" and result.attack_calls[0] == 0
    assert not result.robust[0, 0]
    fell_first = ~alone.robust[:, 0]
    fell_first[0] = False
    np.testing.assert_array_equal(result.broken_by == "weak", fell_first)
    assert set(result.broken_by) >= {"weak", "strong", ""}
    np.testing.assert_array_equal(
        result.robust[:, 0], both.robust[:, 0] & ~np.isin(result.broken_by, ["square"])
    )
    np.testing.assert_array_equal(result.images[fell_first], alone.images[fell_first])
    stood = result.robust[:, 0]
    tried = result.attack_calls
    assert (tried[fell_first] == alone.attack_calls[fell_first]).all()
    assert (tried[stood] > 21).all()  # all three went to their end
    # Of square alone: the clean image, its start, and 20 queries.
    assert (result.forward_evaluations[stood] == 22).all()
    later = result.broken_by == "strong"
    assert (result.broken_at[later] >= alone.evaluations[later]).all()
    assert (result.linf <= 0.06 + 1e-6).all()


class Killed(Exception):
    pass


def test_killed_at_any_image_it_ends_the_same(tmp_path):
    defense, dataset = setting()
    attack = weak_then_strong(defense)
    whole = run(tmp_path / "whole", defense, attack, dataset)
    calls = []

    def kill(*progress):
        calls.append(progress)
        if len(calls) in (2, 5, 9, 14, 20):
            raise Killed

    for _ in range(5):
        with pytest.raises(Killed):
            run(tmp_path / "killed", defense, attack, dataset, progress=kill)
    run(tmp_path / "killed", defense, attack, dataset, progress=kill)
    again = load(epath.Path(tmp_path / "killed"), dataset)
    for field in dataclasses.fields(whole):
        one, other = getattr(whole, field.name), getattr(again, field.name)
        np.testing.assert_array_equal(one, other, err_msg=field.name)


def test_progress_never_says_more_than_there_is(tmp_path):
    defense, dataset = setting()
    said = []
    attack = weak_then_strong(defense)
    run(tmp_path, defense, attack, dataset, progress=lambda *a: said.append(a))
    assert {stage for stage, *_ in said} >= {"clean", "attack weak", "attack strong"}
    assert all(done <= total == 12 for _, done, total, *_ in said)
    assert said[-1][1] == 12


@pytest.mark.parametrize(
    ("version", "names"),
    [
        ("standard", ["apgd-ce", "apgd-t", "fab-t", "square"]),
        ("plus", ["apgd-ce", "apgd-dlr", "fab-t", "square", "apgd-t"]),
        ("rand", ["apgd-ce", "apgd-dlr"]),
    ],
)
def test_versions_are_the_originals(version, names):
    defense, _ = setting()
    found = autoattack(defense, FRESH, version=version, num_targets=4, **BALL)
    assert [name for name, _ in found.stages] == names
    assert found.policy == FRESH and found.norm == "linf" and found.eps == 0.06
    draws = found.stages[0][1].objective.eot_samples
    assert draws == (20 if version == "rand" else 1)


def test_what_makes_no_sequence_is_refused():
    defense, _ = setting()
    with pytest.raises(ValueError, match="version='rnd', expected one of standard"):
        autoattack(defense, REPLAY, version="rnd", **BALL)
    with pytest.raises(ValueError, match="use apgd for l1"):
        autoattack(defense, REPLAY, eps=1.0, norm="l1")
    small = Square.create(defense, REPLAY, eps=0.01)
    large = Square.create(defense, REPLAY, eps=0.02)
    with pytest.raises(ValueError, match="share ball and policy"):
        Sequence((("a", small), ("b", large)))


def test_advice_on_randomised_defenses():
    noised, dataset = setting(purifier=jax.tree_util.Partial(noisy))
    plain, _ = setting()
    key, x = jax.random.key(0), jnp.asarray(dataset.images[0])
    assert "use the policy replay" in str(advice(noised, FRESH, "standard", key, x))
    assert advice(noised, REPLAY, "standard", key, x) is None
    assert advice(noised, FRESH, "rand", key, x) is None
    assert "is replayed" in str(advice(noised, REPLAY, "rand", key, x))
    assert "is not there" in str(advice(plain, FRESH, "rand", key, x))
    assert advice(plain, FRESH, "standard", key, x) is None


def test_stages_of_a_single_attack():
    defense, _ = setting()
    single = Square.create(defense, REPLAY, **BALL)
    assert attacks.stages_of(single) == (("", single),)
