"""An evaluation: what is judged, what counts as broken, and what is refused before work."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from evaluation import toys
from evaluation.toys import KEYS, ROOT, assert_same, problem, run

from jaxpure import attacks, data
from jaxpure.attacks.verdict import judge_draws
from jaxpure.defenses import PurifiedClassifier
from jaxpure.errors import UserError
from jaxpure.evaluation import (
    AttackError,
    UnfinishedError,
    lanes,
    records,
    set_up,
    settle,
    statistics,
)
from jaxpure.evaluation.identity import identify
from jaxpure.keys import example_key


def relabelled(dataset, labels):
    return dataclasses.replace(dataset, labels=np.asarray(labels, np.int32))


# What is left alone, and what is never right.


def test_what_is_wrong_to_begin_with_is_left_alone():
    defense, attack, dataset = problem(8)
    wrong = relabelled(dataset, (dataset.labels + 1) % 5)
    found = run(None, defense, attack, wrong)
    alone = ~found.clean[:, 0]
    assert alone.any()
    np.testing.assert_array_equal(found.images[alone], dataset.images[alone])
    assert (found.attack_calls[alone] == 0).all() and (found.broken_at[alone] == 0).all()
    assert (found.lost[alone] == 1).all() and found.vote_lost[alone].all()
    assert not found.robust[alone, 0].any()


def test_under_fresh_noise_only_the_hopeless_are_left_alone():
    """Wrong under every judging key; under replay, wrong under the one that judges."""
    defense, attack, dataset = problem(40, sigma=1.0)  # so much noise that draws differ
    fresh, replay = (
        run(None, defense, attack, dataset, policy=policy) for policy in ("fresh", "replay")
    )
    np.testing.assert_array_equal(fresh.attack_calls == 0, ~fresh.clean.any(1))
    np.testing.assert_array_equal(replay.attack_calls == 0, ~replay.clean[:, 0])
    assert 0 < (fresh.attack_calls == 0).sum() < (replay.attack_calls == 0).sum() < 40
    for found in (fresh, replay):
        alone = found.attack_calls == 0
        np.testing.assert_array_equal(found.images[alone], dataset.images[alone])
        # The same image under the same keys.
        np.testing.assert_array_equal(found.logits[alone], found.clean_logits[alone])
        assert not found.evaluations[alone].any() and not found.linf[alone].any()
    np.testing.assert_array_equal(fresh.clean_logits, replay.clean_logits)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_never_robust(bad):
    weights = np.ones((16, 5), np.float32)
    weights[:, 2] = bad
    classifier = jax.tree_util.Partial(toys.linear, jnp.asarray(weights))
    defense, attack, dataset = problem(5, classifier=classifier)
    found = run(None, defense, attack, dataset)
    assert not found.robust.any() and not found.clean.any()
    assert found.nonfinite.tolist() == dataset.indices.tolist()
    assert np.isfinite(found.images).all()
    for name, estimate in found.robust_readings.items():
        assert estimate.value == 0, name


def thresholded(x):
    """A classifier that makes logits of anything, of NaN too."""
    return jnp.where(x.reshape(-1)[:5] > 0.5, 1.0, 0.0)


def broken_above(limit, key, x):
    del key
    return jnp.where(jnp.mean(x) > limit, jnp.nan, x)


def test_a_purifier_that_returns_nan_is_never_robust():
    """Though the classifier makes something of it, and what it makes would be right."""
    _, _, dataset = problem(6)
    zeros = relabelled(dataset, 0 * dataset.labels)  # what the classifier makes of NaN
    limit = float(np.median(dataset.images.mean((1, 2, 3))))
    purifier = jax.tree_util.Partial(broken_above, limit)
    defense = PurifiedClassifier(purifier, jax.tree_util.Partial(thresholded))
    attack = attacks.Pgd(step_size=1e-5, num_steps=2)
    found = run(None, defense, attack, zeros, ball=attacks.Linf(1e-4))
    bad = np.isin(found.indices, found.nonfinite)
    assert 0 < bad.sum() < 6
    assert not found.clean[bad].any() and not found.robust[bad].any()


def test_a_draw_that_is_not_finite_is_a_wrong_vote():
    """90 of 100 draws NaN, the others right: nobody would call that robust."""
    logits = np.full((1, 100, 3), np.nan)
    logits[:, :10] = np.eye(3)[1]
    label = np.array([1])
    assert not statistics.majority_vote(logits, label)[0]
    logits[:, 10:49] = np.eye(3)[1]
    assert not statistics.majority_vote(logits, label)[0]  # 49 of 100
    logits[:, 49:51] = np.eye(3)[1]
    assert statistics.majority_vote(logits, label)[0]  # 51 of 100


def failing_above(weights, bright, x):
    return jnp.where(x[0, 0, 0] > bright, jnp.nan, toys.linear(weights, x))


def test_where_a_defense_fails_the_others_do_not_notice():
    dataset, sound = toys.examples(12)
    images = dataset.images.copy()
    images[:, 0, 0] = np.where(np.arange(12)[:, None] % 3 == 0, 1.0, 0.0)
    dataset = dataclasses.replace(dataset, images=images)
    well, ill = [], []
    for bright, results in ((2.0, well), (0.5, ill)):
        classifier = jax.tree_util.Partial(failing_above, *sound.args, bright)
        defense, attack, _ = problem(12, classifier=classifier, sigma=0.02)
        results.append(run(None, defense, attack, dataset, policy="fresh"))
    (well,), (ill,) = well, ill
    failed = np.arange(12) % 3 == 0
    assert well.nonfinite.tolist() == []
    assert ill.nonfinite.tolist() == dataset.indices[failed].tolist()
    assert not ill.robust[failed].any()
    np.testing.assert_array_equal(well.images[~failed], ill.images[~failed])
    np.testing.assert_array_equal(well.robust[~failed], ill.robust[~failed])


# What an attack may do.


@pytest.mark.parametrize(
    ("shift", "brightness", "message"),
    [
        (0.05, 1.0, r"example 10\d is 0\.0\d+ outside L-inf 20.4/255"),
        (-0.02, 0.01, r"example 10\d .*outside \[0, 1\]"),  # in the ball, but below 0
        (float("nan"), 1.0, r"iterates for example 10\d were not finite"),
        (float("inf"), 1.0, r"iterates for example 10\d were not finite"),
    ],
)
def test_an_attack_that_goes_where_it_may_not_is_an_error(shift, brightness, message):
    defense, _, dataset = problem(4)
    dark = dataclasses.replace(dataset, images=dataset.images * np.float32(brightness))
    labels = np.argmax([defense.classifier(jnp.asarray(x)) for x in dark.images], -1)
    with pytest.raises(AttackError, match=message):
        run(None, defense, toys.Nudge(shift), relabelled(dark, labels), policy="fresh")


def test_what_was_left_the_ball_is_refused_on_every_later_start(tmp_path):
    """The attacked rows are on disk when it is noticed; that must not make them good."""
    defense, _, dataset = problem(4)
    for _ in range(2):
        with pytest.raises(AttackError, match="outside"):
            run(tmp_path, defense, toys.Nudge(0.05), dataset, policy="fresh")


def test_a_flow_beyond_its_bound_is_refused():
    defense, _, dataset = problem(4)
    stadv = attacks.Stadv(num_steps=3)
    fine = run(None, defense, stadv, dataset, policy="fresh", ball="flow(0.4)")
    assert fine.linf.max() > 0.01
    moved = toys.Nudge(0.3, calls=1)
    with pytest.raises(AttackError, match="outside Flow|outside flow"):
        run(None, defense, moved, dataset, policy="fresh", ball="flow(0.1)")


def test_what_the_attacks_own_draws_said_is_recorded():
    """The most draws that any iterate lost, as a plain loop over its steps finds it."""
    defense, attack, dataset = problem(9, num_steps=5)
    found = run(None, defense, attack, dataset, policy="fresh")
    setup = set_up(defense, attack, ball=toys.BALL, policy="fresh", gradient="bpda")
    ((_, _, objective),) = setup.stages
    step = jax.jit(lambda state: attack.step(objective, toys.BALL, state))
    for i, index in enumerate(dataset.indices):
        if found.attack_calls[i] == 0:  # wrong under every key to begin with
            assert found.lost[i] == 1 and found.vote_lost[i]
            continue
        key, label = example_key(ROOT, int(index)), dataset.labels[i]
        state = attack.init(objective, toys.BALL, key, dataset.floats()[i], label)
        lost, votes = [], []
        for number in range(6):
            logits = objective.selection_logits(jax.random.clone(key), number, state.x)
            lost.append(np.mean(np.asarray(logits).argmax(1) != label))
            votes.append(bool(judge_draws(logits, label).vote_lost))
            state = step(state)
        assert found.lost[i] == pytest.approx(max(lost))
        assert found.vote_lost[i] == any(votes)
    assert 0 < np.mean(found.lost > 0.5) and np.mean(found.lost < 1) > 0


def test_a_cascade_settles_on_what_broke_or_what_came_nearest():
    defense, attack, dataset = problem(12)
    gentle = attacks.Pgd(step_size=0.01, num_steps=2, random_start=False)
    both = run(None, defense, toys.InTurn(gentle, attack), dataset)
    first, second = (run(None, defense, each, dataset) for each in (gentle, attack))
    untouched = ~both.clean[:, 0]
    by_first = both.clean[:, 0] & ~first.robust[:, 0]
    by_second = both.clean[:, 0] & ~by_first & ~second.robust[:, 0]
    expected = np.where(by_first, "first", np.where(by_second, "second", ""))
    assert both.broken_by.tolist() == expected.tolist()
    np.testing.assert_array_equal(both.images[by_first], first.images[by_first])
    np.testing.assert_array_equal(both.images[by_second], second.images[by_second])
    # Where it stands: of both attempts the one of larger margin under judging key 0.
    for i in np.flatnonzero(~untouched & ~by_first & ~by_second):
        label = dataset.labels[i]
        margins = [statistics.margin(r.logits[i, 0], label) for r in (first, second)]
        nearest = (first, second)[int(np.argmax(margins))]
        np.testing.assert_array_equal(both.images[i], nearest.images[i])
        assert both.evaluations[i] == first.evaluations[i] + second.evaluations[i]
    assert by_first.any() and by_second.any()


# What does not fit is told before any work.


def odd_purifier(key, x):
    del key
    return x[:2]


def few_logits(x):
    return x.reshape(-1)[:3]


def batch_logits(x):
    return x.reshape(1, -1)[:, :5]


def with_labels(labels):
    return lambda dataset: dataclasses.replace(dataset, labels=labels(dataset.labels))


MISFITS = {
    "label 7 of example 10. of toy is outside": with_labels(lambda y: y + 7 - y[0]),
    "labels of toy are float32, expected integers": with_labels(
        lambda y: y.astype(np.float32)
    ),
    "image 100 of toy has values outside": lambda d: dataclasses.replace(
        d, images=d.images * 255
    ),
    "image 100 of toy has values outside .* or not finite": lambda d: dataclasses.replace(
        d, images=d.images * np.float32(np.nan)
    ),
    "index 100 of toy is given 4 times": lambda d: dataclasses.replace(
        d, indices=0 * d.indices + 100
    ),
    r"index 2147483648 of toy is outside \[0, 2\*\*31\)": lambda d: dataclasses.replace(
        d, indices=d.indices + 2**31 - 100
    ),
    "toy has no examples": lambda d: data.take(d, slice(0)),
}


@pytest.mark.parametrize("message", MISFITS)
def test_examples_that_do_not_fit_are_named_before_any_work(tmp_path, message):
    defense, attack, dataset = problem(4)
    with pytest.raises(UserError, match=message):
        run(tmp_path / "run", defense, attack, MISFITS[message](dataset))
    assert not (tmp_path / "run" / "clean").exists()


PROTOCOLS = {
    "gives 3 logits": {"classifier": few_logits},
    r"logits \(classes,\)": {"classifier": batch_logits},
    "expected the same shape": {"purifier": odd_purifier},
    "judging_keys=0, expected": {"judging_keys": 0},
    "batch_size=0, expected": {"batch_size": 0},
    "nothing to change": {"ball": "linf(0)"},
    "every image is within reach": {"ball": "l2(100)"},
    "pgd attacks in linf, l2, l1, not in flow": {"ball": "flow(0.1)"},
    "unknown policy": {"policy": "replays"},
    "unknown attack 'pdg'": {"attack": "pdg(num_steps=3)"},
    "num_steps=0, expected": {"attack": "pgd(num_steps=0)"},
    "finite number": {"attack": "pgd(momentum=nan)"},
    "shares no noise": {"gradient": "transfer(identity)"},
}


@pytest.mark.parametrize("message", PROTOCOLS)
def test_protocols_that_do_not_fit_are_named_before_any_work(tmp_path, message):
    defense, attack, dataset = problem(4)
    options = dict(PROTOCOLS[message])
    for part in ("classifier", "purifier"):
        if part in options:
            function = jax.tree_util.Partial(options.pop(part))
            defense = dataclasses.replace(defense, **{part: function})
            options["gradient"] = "exact"
    with pytest.raises(UserError, match=message):
        run(tmp_path / "run", defense, options.pop("attack", attack), dataset, **options)
    assert not (tmp_path / "run" / "clean").exists()


# What an evaluation hands back.


def test_an_unfinished_run_says_what_is_missing(tmp_path):
    defense, attack, dataset = problem(4)
    options = {"ball": toys.BALL, "gradient": "bpda", "judging_keys": KEYS}
    setup = set_up(defense, attack, **options)
    identity = identify(setup, ROOT, lanes.Lanes(lanes.local_mesh(), 4), dataset)
    folder = epath.Path(tmp_path)
    with (
        mock.patch.object(lanes, "judge", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        run(tmp_path, defense, attack, dataset)
    with pytest.raises(UnfinishedError, match="example 100 has no clean record"):
        settle.load(folder, dataset, setup, identity)
    with (
        mock.patch.object(lanes, "attack", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        run(tmp_path, defense, attack, dataset)
    with pytest.raises(UnfinishedError, match="example 10. has no pgd attacked record"):
        settle.load(folder, dataset, setup, identity)


def test_progress_is_told_to_the_end():
    defense, attack, dataset = problem(6)
    told = []
    found = run(None, defense, attack, dataset, progress=lambda *each: told.append(each))
    assert told[0][:3] == ("clean", 4, 6)
    stage, done, total, clean, robust = told[-1]
    assert (stage, done, total) == ("attack pgd", 6, 6)
    assert clean == pytest.approx(found.clean[:, 0].mean())
    assert robust == pytest.approx(found.robust[:, 0].mean())


class Killed(Exception):
    pass


@pytest.mark.parametrize("where", ["before", "after"])
def test_killed_at_every_write_and_resumed_is_the_same(tmp_path, where):
    """Just before or just after each file of records is written."""
    defense, attack, dataset = problem(7)
    whole = run(None, defense, attack, dataset, policy="fresh")
    folder, append, kills = tmp_path / "killed", records.append, []

    def interrupted(folder, rows, identity):
        if not rows:
            return
        kills.append(folder.name)
        if where == "before" and len(kills) % 2:
            raise Killed
        append(folder, rows, identity)
        if where == "after":
            raise Killed

    with mock.patch.object(records, "append", interrupted):
        for _ in range(100):
            try:
                resumed = run(folder, defense, attack, dataset, policy="fresh")
                break
            except Killed:
                continue
    assert_same(whole, resumed)
    assert len(kills) > 5 and set(kills) == {"clean", "attacked", "judged"}


def test_files_cut_short_cost_only_time(tmp_path):
    """The last file of every folder, all of them at once."""
    defense, attack, dataset = problem(13, num_steps=8)
    whole = run(None, defense, attack, dataset, policy="fresh")
    for share in (0.1, 0.5, 0.99):
        folder = tmp_path / str(share)
        run(folder, defense, attack, dataset, policy="fresh")
        stage = folder / "stages" / "0-pgd"
        places = (folder / "clean", stage / "attacked", stage / "judged")
        for path in (max(place.glob("part-*.jsonl")) for place in places):
            content = path.read_bytes()
            path.write_bytes(content[: int(share * len(content))])
        resumed = run(folder, defense, attack, dataset, policy="fresh")
        assert_same(whole, resumed)


def test_an_attack_without_a_spec_goes_on_in_another_process(tmp_path):
    """Its name in the records is not its place in memory."""

    class Plain:
        """Neither registered nor a dataclass."""

        def __init__(self):
            self.inner = attacks.Pgd(step_size=0.02, num_steps=2)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    jax.tree_util.register_pytree_node(
        Plain, lambda plain: ((plain.inner,), None), lambda _, leaves: _made(Plain, leaves)
    )
    defense, _, dataset = problem(4)
    first = run(tmp_path, defense, Plain(), dataset)
    assert_same(first, run(tmp_path, defense, Plain(), dataset))
    assert first.about["stages"] == ["Plain"]
    assert "0x" not in first.about["attack"]


def _made(kind, leaves):
    plain = object.__new__(kind)
    (plain.inner,) = leaves
    return plain
