"""What the stronger attacks are made of, against the truth where it is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from jaxpure import randomness
from jaxpure.attacks import NORMS, Apgd, Fab, Pgd, Square
from jaxpure.attacks.apgd import l2_unit, percent
from jaxpure.attacks.fab import to_hyperplane
from jaxpure.attacks.square import HALVINGS, change_l2, tiles, two_bumps, window_size
from jaxpure.attacks.verdict import rival
from jaxpure.defenses import PurifiedClassifier
from jaxpure.purifiers import Identity

REPLAY, FRESH = (randomness.PRESETS[name] for name in ("replay", "fresh"))
SHAPE, SIZE = (3, 2, 2), 12


def affine(weights, bias, x):
    """Two classes; the second's margin is affine in the image."""
    margin = weights @ x.ravel() + bias
    return jnp.stack([jnp.zeros_like(margin), margin])


def plane(distance, norm, seed=0, shape=SHAPE):
    """`(image, defense, unit)`: label 1 there, class 0 beyond `distance` along -unit.

    `unit` is the steepest direction of unit length in the norm.
    """
    random = np.random.default_rng(seed)
    x = random.uniform(0.4, 0.6, shape).astype(np.float32)
    weights = random.normal(size=x.size).astype(np.float32)
    unit = {
        "linf": np.sign(weights),
        "l2": weights / np.linalg.norm(weights),
        "l1": np.sign(weights) * (np.abs(weights) == np.abs(weights).max()),
    }[norm]
    bias = np.float32(distance * (weights @ unit) - weights @ x.ravel())
    classifier = jax.tree_util.Partial(affine, jnp.asarray(weights), bias)
    return x, PurifiedClassifier(Identity(), classifier), unit.reshape(shape)


@jax.jit
def run(attack, key, x, label):
    state = attack.init(key, x, label)
    return jax.lax.while_loop(lambda s: ~s.done, attack.step, state)


def attacked(attack, x, label=1, seed=0):
    return run(attack, jax.random.key(seed), jnp.asarray(x), jnp.int32(label))


# Linear classifiers: the worst case in a ball, and the way to the boundary, are known.


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_apgd_breaks_exactly_what_can_be_broken(norm, loss):
    # Of 12 pixels, L1's updates change two or more: one would be the best.
    needed = 0.2 if norm == "l1" else 0.105
    for seed in range(3):
        x, defense, unit = plane(0.1, norm, seed)
        for eps, falls in ((0.095, False), (needed, True)):
            attack = Apgd.create(
                defense, FRESH, eps=eps, num_steps=60, norm=norm, loss=loss
            )
            state = attacked(attack, x, seed=seed)
            assert (int(state.broken_at) >= 0) == falls
            if not falls and norm != "l1":  # the iterate of highest loss
                np.testing.assert_allclose(state.adversarial, x - eps * unit, atol=2e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_fab_finds_the_nearest_point_of_a_hyperplane(norm):
    for seed in range(3):
        x, defense, unit = plane(0.1, norm, seed)
        options = {"num_steps": 20, "norm": norm, "num_targets": 1}
        state = attacked(Fab.create(defense, FRESH, eps=0.2, **options), x)
        assert 0.1 <= float(state.distance) < 0.1 * 1.01
        np.testing.assert_allclose(state.nearest, x - 0.1 * unit, atol=5e-3)
        np.testing.assert_array_equal(state.nearest, state.adversarial)
        # A ball that does not reach it holds nothing but the image.
        state = attacked(Fab.create(defense, FRESH, eps=0.09, **options), x)
        np.testing.assert_array_equal(state.adversarial, x)
        assert int(state.broken_at) == -1 and np.isfinite(state.distance)


def test_square_breaks_what_is_far_enough_from_the_edge():
    """Its windows never end at the last row or column: it does not reach every corner."""
    x, defense, _ = plane(0.1, "linf", shape=(8, 8, 1))
    for eps, falls in ((0.095, False), (0.3, True)):
        attack = Square.create(defense, REPLAY, eps=eps, num_queries=500)
        assert (int(attacked(attack, x).broken_at) >= 0) == falls


def test_pgd_in_l1_goes_up_one_pixel():
    x, defense, unit = plane(0.1, "l1")
    attack = Pgd.create(defense, FRESH, eps=0.05, step_size=0.02, num_steps=4, norm="l1")
    np.testing.assert_allclose(attacked(attack, x).x, x - 0.05 * unit, atol=0.02)


# APGD.


def test_percent_is_the_references_rounding():
    steps = np.arange(1, 1500)
    for share in (3, 4, 6, 22):
        theirs = [max(int(share / 100 * n), 1) for n in steps.tolist()]
        ours = jax.vmap(percent, (None, 0))(share, steps)
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("exponent", [-35, -20, -6, 0, 20])
def test_the_l2_direction_is_of_unit_length_at_any_size(exponent):
    vector = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    unit = l2_unit(jnp.asarray(vector * np.float32(10.0**exponent)))
    np.testing.assert_allclose(unit, vector / np.linalg.norm(vector), rtol=1e-5)
    assert not l2_unit(jnp.zeros(SHAPE)).any()


def test_the_last_misclassified_iterate_is_kept():
    """Noise that lets through every image alike: each evaluation falls by its own key."""

    def coin(key, x):
        return jax.random.bernoulli(randomness.part(key, "coin"), 0.3) + 0 * x

    def logits(x):
        return jnp.stack([jnp.zeros((), x.dtype), 2 * x[0, 0, 0] - 1 + x.sum() * 1e-9])

    defense = PurifiedClassifier(*map(jax.tree_util.Partial, (coin, logits)))
    x = jnp.full(SHAPE, 0.5)
    for selection in ("reference", "consistent"):
        attack = Apgd.create(
            defense, FRESH, eps=0.1, num_steps=6, selection=selection, eot_samples=2
        )
        role = "gradient" if selection == "reference" else "selection"

        @jax.jit
        def draws(key, number, x, role=role):
            keys = randomness.attack_keys(FRESH, role, key, number, 2)
            return jax.vmap(lambda k: defense(k, x)[1] > 0)(keys)

        step = jax.jit(attack.step)
        for seed in range(4):
            key = jax.random.key(seed)
            state = attack.init(key, x, jnp.int32(0))
            kept, first = None, -1
            while not state.done:
                ones = np.asarray(draws(key, state.step, x))
                wrong = ones[-1] if selection == "reference" else ones.mean() > 0.5
                clean, number = int(state.iteration) < 0, int(state.step)
                if clean and ones.all():
                    wrong, kept = True, np.asarray(x)  # left alone
                elif clean:
                    wrong = False
                elif wrong:
                    kept = np.asarray(state.x)
                first = number if wrong and first < 0 else first
                state = step(state)
            assert int(state.broken_at) == first
            if kept is not None:
                np.testing.assert_array_equal(state.adversarial, kept)


def test_targets_are_the_other_classes_by_logit():
    logits = jnp.array([[1.0, 5.0, 3.0, 4.0], [1.0, 5.0, 5.0, 4.0]])
    for label in range(4):
        order = [i for i in (1, 2, 3, 0) if i != label]  # by mean logit
        got = [int(rival(logits, jnp.int32(label), jnp.int32(r))) for r in range(3)]
        assert got == order


# FAB's projection, against a general solver.


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), reach=st.floats(-1.3, 1.3), sparse=st.booleans())
@pytest.mark.parametrize("norm", NORMS)
def test_the_way_to_a_hyperplane_is_the_shortest(norm, seed, reach, sparse):
    random = np.random.default_rng(seed)
    x = random.uniform(size=SIZE)
    x[:3] = random.integers(0, 2, 3)
    normal = random.normal(size=SIZE) * (random.random(SIZE) < 0.7 if sparse else 1)
    sign = np.sign(reach)
    corner = np.where(sign * normal > 0, 1 - x, -x) * (normal != 0)
    most = normal @ corner  # what the box allows
    gap = abs(reach) * most

    with jax.enable_x64(True):
        args = (jnp.asarray(a.reshape(SHAPE)) for a in (x, normal))
        way = to_hyperplane(norm, *args, jnp.asarray(gap))
        way = np.asarray(way).ravel()
        length = float(NORMS[norm].distance(jnp.asarray(way), jnp.zeros(SIZE)))
    assert np.all((x + way >= -1e-12) & (x + way <= 1 + 1e-12))
    if abs(reach) >= 1 or not normal.any():
        np.testing.assert_allclose(way, corner if reach else 0 * corner, atol=1e-9)
        return
    assert normal @ way == pytest.approx(gap, abs=1e-9)
    assert length <= shortest(norm, x, normal, gap) + 1e-6


def shortest(norm, x, normal, gap):
    """Least norm of a change in the box that gains `gap`, by linear programs or SLSQP."""
    if norm == "l2":
        found = optimize.minimize(
            lambda d: d @ d,
            np.zeros(SIZE),
            jac=lambda d: 2 * d,
            bounds=list(zip(-x, 1 - x, strict=True)),
            constraints={"type": "eq", "fun": lambda d: normal @ d - gap},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return np.sqrt(found.fun) if found.success else np.inf
    # Up and down parts, and a bound on all of them for the largest.
    up_down = np.concatenate([normal, -normal])
    rooms = [*zip(0 * x, 1 - x, strict=True), *zip(0 * x, x, strict=True)]
    if norm == "l1":
        found = optimize.linprog(
            np.ones(2 * SIZE), A_eq=[up_down], b_eq=[gap], bounds=rooms
        )
        return found.fun
    found = optimize.linprog(
        [*np.zeros(2 * SIZE), 1],
        A_ub=np.column_stack([np.eye(2 * SIZE), -np.ones(2 * SIZE)]),
        b_ub=np.zeros(2 * SIZE),
        A_eq=[[*up_down, 0]],
        b_eq=[gap],
        bounds=[*rooms, (0, None)],
    )
    return found.fun


# Square's windows and bumps.


def test_windows_shrink_as_the_schedule_says():
    halvings = np.searchsorted(HALVINGS, np.arange(10000))
    sides = np.sqrt(0.8 / 2.0**halvings * 28 * 32).round()
    got = jax.vmap(lambda i: window_size(0.8, i, (28, 32, 3)))(jnp.arange(10000))
    np.testing.assert_array_equal(got, np.clip(sides, 1, 28))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8])
def test_bumps_are_sums_of_nested_rectangles(size):
    """Of heights 1, 1/4, 1/9, ... around the middle of each half (the paper's eta)."""

    def half(rows):
        total, middle = np.zeros((rows, size)), (rows // 2, size // 2)
        for k in range(max(rows // 2, size // 2) + 1):
            up, left = (max(m - k, 0) for m in middle)
            down, right = (m + k + 1 for m in middle)
            total[up:down, left:right] += 1 / (k + 1) ** 2
        return total / np.linalg.norm(total) if rows else total

    want = np.concatenate([half(size // 2), -half(size - size // 2)])
    want /= np.linalg.norm(want)
    place = jnp.arange(12) - 2  # the window begins at 2; around it all is 0
    got = np.asarray(two_bumps(place[:, None], place[None], jnp.int32(size), 9))
    np.testing.assert_allclose(got[2 : 2 + size, 2 : 2 + size], want, atol=1e-6)
    assert np.linalg.norm(got) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("side", [3, 8, 14])
def test_l2_proposals_are_on_the_sphere_for_any_size(side):
    """Those too at which the reference's first grid does not fit (14)."""
    x = jnp.full((side, side + 2, 3), 0.5)
    first = jax.jit(tiles)(jax.random.key(0), x, 0.2)
    assert float(jnp.linalg.norm(first - x)) == pytest.approx(0.2, rel=1e-4)
    change = jax.jit(change_l2)
    for seed in range(3):
        size = jnp.int32(3 + 2 * seed)
        moved = change(jax.random.key(seed), x, first, size, 0.2)
        assert float(jnp.linalg.norm(moved - x)) == pytest.approx(0.2, rel=1e-4)
        assert (moved != first).any()


# The L1 ball.


def test_random_points_are_uniform_in_the_l1_ball():
    centre, eps, n = jnp.full(SHAPE, 0.5), 0.2, 4000
    keys = jax.random.split(jax.random.key(0), n)
    draw = jax.jit(jax.vmap(NORMS["l1"].random_point, (0, None, None)))
    deltas = np.asarray(draw(keys, centre, eps) - 0.5, np.float64).reshape(n, SIZE)
    lengths = np.abs(deltas).sum(1) / eps
    assert lengths.max() <= 1 + 1e-5
    assert stats.kstest(lengths**SIZE, "uniform").pvalue > 1e-3
    shares = np.abs(deltas) / np.abs(deltas).sum(1, keepdims=True)
    for pixel in range(SIZE):  # of a point of the simplex
        assert stats.kstest(shares[:, pixel], stats.beta(1, SIZE - 1).cdf).pvalue > 1e-3
        assert stats.binomtest(int((deltas[:, pixel] > 0).sum()), n).pvalue > 1e-3


@settings(deadline=None, max_examples=30)
@given(values=st.lists(st.integers(-5, 5), min_size=SIZE, max_size=SIZE))
def test_l1_ascent_is_the_steepest_direction(values):
    gradient = np.array(values, np.float32).reshape(SHAPE)
    direction = np.asarray(NORMS["l1"].ascent(jnp.asarray(gradient)))
    assert np.abs(direction).sum() == (1 if gradient.any() else 0)
    assert np.sum(direction * gradient) == np.abs(gradient).max()
