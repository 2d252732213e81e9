"""What APGD, FAB and Square promise alike: the ball, the image left alone, the key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxpure.attacks.norms import NORMS

from jaxpure import randomness
from jaxpure.attacks import REGISTRY
from jaxpure.defenses import PurifiedClassifier

SHAPE, CLASSES, SIZES = (4, 4, 2), 5, {"linf": 0.1, "l2": 0.5, "l1": 2.0}
BUDGETS = {
    "apgd": {"num_steps": 8},
    "fab": {"num_steps": 4, "num_targets": 3},
    "square": {"num_queries": 25},
}
CASES = [
    (name, norm)
    for name, norms in (
        ("apgd", ("linf", "l2", "l1")),
        ("fab", ("linf", "l2", "l1")),
        ("square", ("linf", "l2")),
    )
    for norm in norms
]


def noisy(key, x):
    return x + 0.1 * randomness.noise_at(key, 0, x)


def linear(weights, x):
    return jnp.tanh(2 * x.reshape(-1) - 1) @ weights


def defense(seed=0, purifier=noisy):
    weights = np.random.default_rng(seed).normal(size=(32, CLASSES)).astype(np.float32)
    classifier = jax.tree_util.Partial(linear, jnp.asarray(weights))
    return PurifiedClassifier(jax.tree_util.Partial(purifier), classifier)


def create(name, norm, policy, *, eps=None, seed=0, **options):
    ball = {"norm": norm, "eps": SIZES[norm] if eps is None else eps}
    options = {**BUDGETS[name], **options}
    policy = randomness.parse_policy(policy)
    return REGISTRY[name](defense(seed), policy, **ball, **options)


@jax.jit
def run(attack, key, x, label):
    state = attack.init(key, x, label)
    return jax.lax.while_loop(lambda s: ~s.done, attack.step, state)


def example(seed):
    """An image, and the label that the defense gives it under the replayed key."""
    x = jnp.asarray(np.random.default_rng(seed).uniform(size=SHAPE).astype(np.float32))
    key = randomness.example_key(jax.random.key(0), seed)
    return key, x, predicted(key, x)


def predicted(key, x):
    judging = randomness.judging_keys(randomness.PRESETS["replay"], key, 1)
    return jnp.argmax(defense()(judging[0], x)).astype(jnp.int32)


@pytest.mark.parametrize("policy", ["replay", "fresh"])
@pytest.mark.parametrize(("name", "norm"), CASES)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.01, 1.0, 8.0]))
def test_every_image_lies_in_its_ball_and_in_the_range(name, norm, policy, seed, share):
    eps = min(share * SIZES[norm], 1.0)
    key, x, label = example(seed)
    attack = create(name, norm, policy, eps=eps, eot_samples=2)
    state = run(attack, key, x, label)
    found = np.asarray(state.adversarial, np.float64)
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1
    distance = float(NORMS[norm].distance(jnp.asarray(found), x))
    assert distance <= eps * (1 + 1e-5) + 1e-6
    assert int(state.step) <= attack.max_steps


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_what_is_misclassified_is_left_alone(name, norm):
    key, x, label = example(3)
    state = run(create(name, norm, "replay"), key, x, (label + 1) % CLASSES)
    np.testing.assert_array_equal(state.adversarial, x)
    assert state.done and int(state.broken_at) == 0


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_a_ball_of_no_size_changes_nothing(name, norm):
    key, x, label = example(4)
    state = run(create(name, norm, "replay", eps=0.0), key, x, label)
    np.testing.assert_allclose(state.adversarial, x, atol=1e-7)
    assert int(state.broken_at) == -1


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_the_key_decides_and_neighbours_do_not(name, norm):
    attack = create(name, norm, "fixed")
    rows = [example(seed) for seed in range(4)]
    keys, x, labels = (jnp.stack(column) for column in zip(*rows, strict=True))
    batch = jax.jit(jax.vmap(run, (None, 0, 0, 0)))(attack, keys, x, labels)
    again = jax.jit(jax.vmap(run, (None, 0, 0, 0)))(attack, keys, x, labels)
    np.testing.assert_array_equal(batch.adversarial, again.adversarial)
    for i in range(4):
        alone = run(attack, *rows[i])
        np.testing.assert_allclose(alone.adversarial, batch.adversarial[i], atol=2e-5)
        assert int(alone.broken_at) == int(batch.broken_at[i])


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_a_finished_state_stays(name, norm):
    key, x, label = example(5)
    attack = create(name, norm, "replay", eps=8 * SIZES[norm] if norm != "linf" else 0.8)
    state = run(attack, key, x, label)
    after = jax.jit(lambda a, s: a.step(s))(attack, state)
    same = jax.tree.map(lambda a, b: bool((_raw(a) == _raw(b)).all()), state, after)
    assert all(jax.tree.leaves(same))


def _raw(x):
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if is_key else x


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_a_replaying_attack_breaks_what_judges_it(name, norm):
    """What it calls broken is broken under the very key, and a large ball breaks all."""
    broken = 0
    for seed in range(4):
        key, x, label = example(seed)
        eps = min(6 * SIZES[norm], 0.6 if norm == "linf" else 50.0)
        state = run(create(name, norm, "replay", eps=eps), key, x, label)
        says = int(state.broken_at) >= 0
        assert says == (int(predicted(key, state.adversarial)) != int(label))
        broken += says
    assert broken >= 3


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_draws_of_a_replayed_key_are_one(name, norm):
    key, x, label = example(6)
    one, many = (create(name, norm, "replay", eot_samples=n) for n in (1, 5))
    assert one.purifications_per_step == many.purifications_per_step
    np.testing.assert_array_equal(
        run(one, key, x, label).adversarial, run(many, key, x, label).adversarial
    )


def test_selection_rules_of_apgd_agree_where_there_is_one_draw():
    key, x, label = example(7)
    found = [
        run(create("apgd", "linf", "replay", selection=rule), key, x, label).adversarial
        for rule in ("reference", "consistent")
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("apgd", {"norm": "l3"}, "l3.*linf, l2, l1"),
        ("fab", {"norm": "l3"}, "l3.*linf, l2, l1"),
        ("square", {"norm": "l1"}, "l1.*linf, l2"),
        ("apgd", {"eps": 2.0}, r"eps=2.0, expected 0 to 1"),
        ("apgd", {"eps": -1.0}, "eps"),
        ("apgd", {"loss": "dlrr"}, "loss='dlrr', expected one of"),
        ("apgd", {"selection": "best"}, "selection='best', expected one of"),
        ("apgd", {"num_restarts": 0}, "num_restarts=0, expected at least 1"),
        ("fab", {"num_targets": 0}, "num_targets=0, expected at least 1"),
        ("square", {"num_queries": -1}, "num_queries=-1, expected at least 0"),
    ],
)
def test_what_makes_no_sense_is_named(name, options, message):
    ball = {"norm": "linf", "eps": 0.1, **options}
    policy = randomness.PRESETS["replay"]
    with pytest.raises(ValueError, match=message):
        REGISTRY[name](defense(), policy, **ball)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"loss": "targeted_dlr", "num_targets": 2},
            "at least 4 classes, got 3; use margin",
        ),
        ({"loss": "dlr"}, "needs at least"),
        (
            {"loss": "targeted_dlr", "num_targets": 9},
            "num_targets=9 is more than the wrong",
        ),
    ],
)
def test_losses_that_need_more_classes_say_so(options, message):
    classes = {2: 3, 9: 5}.get(options.get("num_targets"), 2)
    few = jax.tree_util.Partial(lambda x: x.reshape(-1)[:classes])
    seen = PurifiedClassifier(jax.tree_util.Partial(noisy), few)
    policy = randomness.PRESETS["replay"]
    attack = REGISTRY["apgd"](seen, policy, eps=0.1, norm="linf", **options)
    key, x, _ = example(0)
    with pytest.raises(ValueError, match=message):
        attack.step(attack.init(key, x, jnp.int32(0)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), eps=st.sampled_from([0.1, 1.0, 5.0]))
def test_the_l1_projection_is_the_nearest_point_of_ball_and_box(seed, eps):
    random = np.random.default_rng(seed)
    centre = jnp.asarray(random.uniform(size=SHAPE))
    far = jnp.asarray(random.normal(size=SHAPE) * 2)
    near = NORMS["l1"].project(far, centre, eps)
    assert float(jnp.abs(near - centre).sum()) <= eps * (1 + 1e-5) + 1e-6
    assert near.min() >= 0 and near.max() <= 1
    np.testing.assert_allclose(NORMS["l1"].project(near, centre, eps), near, atol=1e-5)
    # No other feasible point is nearer: the angle to every one of them is obtuse.
    for _ in range(20):
        other = np.clip(centre + random.laplace(size=SHAPE) * 0.3, 0, 1) - np.asarray(
            centre
        )
        other *= min(1.0, eps / np.abs(other).sum())
        step = centre + other - near
        assert float(jnp.vdot(far - near, step)) <= 1e-4
