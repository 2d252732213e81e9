"""APGD: the worst case where it is known, its schedule, its parts and its runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure.attacks import L1, L2, Apgd, Linf
from jaxpure.attacks.apgd import l2_unit, random_start, sparse_ascend
from jaxpure.attacks.apgd_schedule import check_progress, check_support, new_run, percent
from jaxpure.attacks.verdict import target_class
from jaxpure.defenses import PurifiedClassifier
from jaxpure.errors import UserError
from jaxpure.keys import part
from jaxpure.policy import PRESETS, attack_keys

from . import toys

BALLS = {"linf": Linf, "l2": L2, "l1": L1}


def attacked(attack, defense, ball, x, label=1, seed=0, policy="fresh"):
    return toys.final(attack, defense, ball, jax.random.key(seed), x, label, policy)


@pytest.mark.parametrize(
    ("norm", "loss"), [("linf", "margin"), ("l2", "cross_entropy"), ("l1", "margin")]
)
def test_it_breaks_exactly_what_can_be_broken(norm, loss):
    # Of 12 pixels, L1's updates change two or more: one would be the best.
    needed = 0.2 if norm == "l1" else 0.105
    attack = Apgd(num_steps=60, loss=loss)
    for seed in range(3):
        x, defense, unit = toys.plane(0.1, norm, seed)
        for eps, falls in ((0.095, False), (needed, True)):
            ball = BALLS[norm](eps)
            progress = attacked(attack, defense, ball, x, seed=seed).progress
            assert (int(progress.broken_at) >= 0) == falls
            # The clean image, the start, and 60 updates; to the end of the run.
            assert int(progress.evaluations) == 62
            if not falls and norm != "l1":  # the iterate of highest loss
                found = progress.adversarial
                np.testing.assert_allclose(found, x - eps * unit, atol=2e-3)


# The schedule.


def test_percent_is_the_references_rounding():
    steps = np.arange(1, 1500)
    for share in (3, 4, 6, 22):
        theirs = [max(int(share / 100 * n), 1) for n in steps.tolist()]
        np.testing.assert_array_equal(jax.vmap(percent, (None, 0))(share, steps), theirs)


def test_checkpoints_are_the_papers():
    """p(j+1) = p(j) + max(p(j) - p(j-1) - 0.03, 0.06), from 0 and 0.22 (eq. 3)."""
    run = new_run(jnp.zeros((1, 1, 1)), 0.1, 100, sparse=False)
    check = jax.jit(lambda run: check_progress(run, 0.75, 100)[0])
    places, at = [], 0
    for _ in range(9):
        at += int(run.window)
        places.append(at)
        run = check(run)
    assert places == [22, 41, 57, 70, 80, 87, 93, 99, 105]


def progress_run(**changes):
    run = new_run(jnp.zeros((1, 1, 1)), 0.1, 100, sparse=False)
    numbers = {"best_loss": 2.0, "checked_loss": 1.0, "rises": 20, "shortened": False}
    arrays = {
        name: jnp.asarray(value, getattr(run, name).dtype)
        for name, value in (numbers | changes).items()
    }
    return run._replace(**arrays, since=run.window)


@pytest.mark.parametrize(
    ("changes", "halved"),
    [
        ({}, False),
        ({"rises": 17}, False),  # of 22: more than three in four
        ({"rises": 16}, True),  # condition 1
        ({"best_loss": 1.0}, True),  # condition 2: neither step nor best loss changed
        ({"best_loss": 1.0, "shortened": True}, False),
    ],
)
def test_the_step_is_halved_where_the_loss_does_not_rise(changes, halved):
    run, back = check_progress(progress_run(**changes), 0.75, 100)
    assert bool(back) == bool(run.shortened) == halved
    assert float(run.step_size) == pytest.approx(0.1 if halved else 0.2)
    assert int(run.rises) == int(run.since) == 0
    assert float(run.checked_loss) == float(run.best_loss)


def test_in_l1_the_step_is_long_while_the_change_grows_sparser():
    original = jnp.zeros((10, 10, 1))
    run = new_run(original, 12.0, 100, sparse=True)
    assert int(run.window) == 4 and float(run.step_size) == 12
    sizes = []
    for changed, sparser in ((94, True), (90, False), (90, False), (40, True)):
        best = jnp.where(jnp.arange(100) < changed, 0.1, 0).reshape(original.shape)
        run, back = check_support(run._replace(best=best), original, 12.0)
        assert bool(back) == sparser and float(run.support) == changed
        assert float(run.share) == pytest.approx(changed / 1.5 / 100)
        sizes.append(float(run.step_size))
    np.testing.assert_allclose(sizes, [12, 8, 8 / 1.5, 12], rtol=1e-6)
    for _ in range(20):
        run, _ = check_support(run, original, 12.0)
    assert float(run.step_size) == pytest.approx(1.2)  # never below a tenth of eps


# Its parts.


@pytest.mark.parametrize("exponent", [-35, -20, -6, 0, 20])
def test_the_l2_direction_is_of_unit_length_at_any_size(exponent):
    vector = np.random.default_rng(0).normal(size=(3, 2, 2)).astype(np.float32)
    unit = jax.jit(l2_unit)(jnp.asarray(vector * np.float32(10.0**exponent)))
    np.testing.assert_allclose(unit, vector / np.linalg.norm(vector), rtol=1e-5)
    assert not jax.jit(l2_unit)(jnp.zeros((3, 2, 2))).any()


def test_the_references_addend_is_a_share_of_the_norm_at_most():
    """1e-12, or a millionth of the norm where that is less; or the whole, if so asked."""
    tiny = jnp.full((1, 1, 1), 1e-12)
    unit = jax.jit(l2_unit)
    assert float(unit(tiny, jnp.inf)[0, 0, 0]) == pytest.approx(0.5)
    assert float(unit(tiny, 1e-6)[0, 0, 0]) == pytest.approx(1, rel=1e-5)


def test_targets_are_the_other_classes_by_mean_logit():
    logits = jnp.array([[1.0, 5.0, 3.0, 4.0], [1.0, 5.0, 5.0, 4.0]])
    for label in range(4):
        order = [i for i in (1, 2, 3, 0) if i != label]
        ranks = jax.vmap(target_class, (None, None, 0))
        found = ranks(logits, jnp.int32(label), jnp.arange(3))
        assert found.tolist() == order


def test_a_sparse_step_goes_along_the_largest_gradients():
    """A share of the pixels, all by as much, the whole step as long as it says."""
    x = jnp.full((2, 5, 1), 0.5)
    gradient = jnp.asarray(np.array([3, -9, 1, 0, 8, -2, 7, 4, -6, 5.0])).reshape(2, 5, 1)
    gradient = gradient.astype(jnp.float32)
    step = jax.jit(sparse_ascend)
    for share, changed in ((0.2, [1, 4]), (0.5, [1, 4, 6, 8, 9]), (0.01, [1])):
        moved = np.asarray(step(L1(2.0), x, x, gradient, 0.3, share) - x).ravel()
        assert np.flatnonzero(moved).tolist() == changed
        signs = np.sign(np.asarray(gradient).ravel()[changed])
        np.testing.assert_allclose(moved[changed], 0.3 / len(changed) * signs, atol=1e-6)


@pytest.mark.parametrize("norm", BALLS)
def test_starts_are_on_the_edge_of_the_ball(norm):
    ball, x = BALLS[norm](0.3), jnp.full((3, 2, 2), 0.5)
    keys = jax.random.split(jax.random.key(0), 20)
    points = jax.jit(jax.vmap(random_start, (None, 0, None)))(ball, keys, x)
    lengths = jax.vmap(ball.distance, (0, None))(points, x)
    np.testing.assert_allclose(lengths, 0.3, rtol=1e-5)
    assert len(np.unique(np.asarray(points).reshape(20, -1), axis=0)) > 10


# Its runs.


def coin(key, x):
    """Purified to a 1 or a 0, whatever the image."""
    return jax.random.bernoulli(part(key, "coin"), 0.4) + 0 * x


def first_pixel(x):
    return jnp.stack([jnp.zeros((), x.dtype), 2 * x[0, 0, 0] - 1 + x.sum() * 1e-9])


@pytest.mark.parametrize("selection", ["reference", "consistent"])
def test_the_last_misclassified_iterate_is_kept(selection):
    """Each evaluation falls by its own keys: the last draw's, or most selection draws'."""
    defense = PurifiedClassifier(*map(jax.tree_util.Partial, (coin, first_pixel)))
    x, fresh, ball = jnp.full((1, 1, 2), 0.5), PRESETS["fresh"], Linf(0.1)
    attack = Apgd(num_steps=6, selection=selection, eot_samples=2)
    objective = attack.objective(defense, fresh)
    role = "gradient" if selection == "reference" else "selection"

    def call(state, _):
        key = jax.random.clone(state.example.key)
        keys = attack_keys(fresh, role, key, state.progress.evaluations, 2)
        ones = jax.vmap(lambda k: defense(k, x)[1] > 0)(keys)
        return attack.step(objective, ball, state), (ones, state.x)

    @jax.jit
    @jax.vmap
    def run(seed):
        key = jax.random.key(seed)
        state = attack.init(objective, ball, key, x, jnp.int32(0))
        state, seen = jax.lax.scan(call, state, None, 8)
        return state.progress, seen

    progress, (ones, iterates) = jax.tree.map(np.asarray, run(jnp.arange(20)))
    wrong = ones[..., -1].copy() if selection == "reference" else ones.all(-1)
    wrong[:, 0] = ones[:, 0].all(-1)  # the clean image: else it is not left alone
    fell = 0
    for i, row in enumerate(wrong):
        if row[0]:
            assert progress.broken_at[i] == 0
            continue
        assert progress.broken_at[i] == (np.argmax(row) if row.any() else -1)
        if row.any():
            last = np.flatnonzero(row)[-1]
            np.testing.assert_array_equal(progress.adversarial[i], iterates[i, last])
            fell += last > progress.broken_at[i]
    assert fell >= 1  # and some fell again later


def test_restarts_are_made_until_one_breaks():
    """They begin elsewhere; an image that is wrong from the start is left alone."""
    x, defense, _ = toys.plane(0.1, "linf")
    attack = Apgd(num_steps=60, loss="margin", num_restarts=3)
    for eps, label, looks in ((0.05, 1, 3 * 62), (0.3, 1, 62), (0.3, 0, 1)):
        progress = attacked(attack, defense, Linf(eps), x, label).progress
        assert int(progress.evaluations) == looks
        assert (int(progress.broken_at) >= 0) == (eps > 0.1)
        if label == 0:
            np.testing.assert_array_equal(progress.adversarial, x)


def test_where_there_is_one_draw_both_rules_of_selection_are_one():
    key, x, label = toys.example(7)
    found = []
    for rule in ("reference", "consistent"):
        attack = Apgd(num_steps=8, selection=rule, eot_samples=3)
        state = toys.final(
            attack, toys.DEFENSE, Linf(0.1), jax.random.clone(key), x, label, "replay"
        )
        found.append(state.progress.adversarial)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("options", "classes", "message"),
    [
        ({"loss": "targeted_dlr", "num_targets": 2}, 3, "at least 4 classes, got 3"),
        ({"loss": "dlr"}, 2, "at least 3 classes, got 2; use margin"),
        ({"loss": "targeted_dlr", "num_targets": 5}, 5, "num_targets=5 is more than the w"),
    ],
)
def test_losses_that_need_more_classes_say_so(options, classes, message):
    defense = toys.undefended(toys.bent_classifier(classes=classes))
    attack = Apgd(**options)
    objective = attack.objective(defense, PRESETS["replay"])
    with pytest.raises(UserError, match=message):
        attack.init(objective, Linf(0.1), jax.random.key(0), toys.image(), jnp.int32(0))
