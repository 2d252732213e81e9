"""All attacks of the registry alike, under every norm and policy; the losses and norms
against numpy; and the truth where it is known, for linear classifiers.
"""

import inspect
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxpure.randomness import attack_keys, judging_keys, noise_at, parse_policy, part
from scipy import special, stats

from jaxpure import attacks
from jaxpure.attacks import LOSSES, Objective, Pgd
from jaxpure.attacks.verdict import judge_draws
from jaxpure.defenses import PurifiedClassifier
from jaxpure.purifiers import Identity
from jaxpure.types import Attack

# Those that take one step after another from where they are; test_stronger.py has the rest.
REGISTRY = {name: attacks.REGISTRY[name] for name in ("pgd", "bpda_eot_hill")}
NORMS = {name: attacks.NORMS[name] for name in ("linf", "l2")}

SHAPE = (3, 2, 2)
SIZE = 12
CLASSES = 4
POLICIES = ("fresh", "fixed", "replay", "fresh,forward=replay", "replay,judging=fresh")

PARTS = ("forward", "reverse")


def noisy(strength, key, x):
    """A purifier of the least kind, with two parts of noise."""
    forward, backward = (noise_at(part(key, name), 0, x) for name in PARTS)
    return x + strength * (forward + x * backward)


def linear_logits(weights, bias, x):
    return weights @ x.ravel() + bias


def linear_classifier(scale=1.0, seed=0, classes=CLASSES):
    rng = np.random.default_rng(seed)
    weights = jnp.asarray(scale * rng.normal(size=(classes, SIZE)), jnp.float32)
    return jax.tree_util.Partial(linear_logits, weights, jnp.zeros(classes))


PURIFIER = jax.tree_util.Partial(noisy, 0.05)
DEFENSE = PurifiedClassifier(PURIFIER, linear_classifier())
UNDEFENDED = PurifiedClassifier(Identity(), linear_classifier())


def build(name, policy="fresh", defense=DEFENSE, **options):
    """A registry's entry; small numbers for the options that it has."""
    usual = {"eps": 0.1, "step_size": 0.03, "num_steps": 3, "verify_samples": 3}
    usual["eot_samples"] = 2
    taken = inspect.signature(REGISTRY[name]).parameters
    arguments = {k: v for k, v in (usual | options).items() if k in taken}
    return REGISTRY[name](defense, parse_policy(policy, PARTS), **arguments)


traces = []


@jax.jit
def run(attack, limit, key, x, label):
    """The state in which the attack ends, within `limit` calls of its step."""
    traces.append(attack)

    def going(carry):
        state, calls = carry
        return ~state.done & (calls < limit)

    def body(carry):
        state, calls = carry
        return attack.step(state), calls + 1

    return jax.lax.while_loop(going, body, (attack.init(key, x, label), 0))


def attacked(attack, x, label, seed=0):
    """The final state, checked to be one; `seed` is the example's."""
    key = jax.random.key(seed)
    label = jnp.asarray(label, jnp.int32)
    state, calls = run(attack, attack.max_steps, key, jnp.asarray(x), label)
    assert bool(state.done) and int(calls) <= attack.max_steps
    return state


def image(seed=0, low=0.0, high=1.0):
    return np.random.default_rng(seed).uniform(low, high, SHAPE).astype(np.float32)


def predicted(x, defense=UNDEFENDED):
    return int(np.argmax(defense(jax.random.key(0), jnp.asarray(x))))


def assert_inside(attack, adversarial, x, eps):
    delta = np.asarray(adversarial, np.float64) - x
    length = {"linf": np.abs(delta).max(), "l2": np.linalg.norm(delta)}[attack.norm]
    assert np.all(np.isfinite(adversarial))
    assert length <= eps * (1 + 1e-6) + SIZE**0.5 * 2**-24  # a rounding of each pixel
    assert np.min(adversarial) >= 0 and np.max(adversarial) <= 1


every_attack = pytest.mark.parametrize("name", REGISTRY)
every_norm = pytest.mark.parametrize("norm", NORMS)


def combinations():
    """Every attack under every norm and policy; compiling them all takes its time."""
    for name in REGISTRY:
        for norm in NORMS:
            for policy in POLICIES:
                quick = name == "pgd" and norm == "linf" or policy == POLICIES[3]
                marks = [] if quick or policy == "fresh" else [pytest.mark.slow]
                yield pytest.param(name, norm, policy, marks=marks)


floats = partial(st.floats, width=32, allow_subnormal=False)
pixels = st.sampled_from([0.0, 1.0]) | floats(0, 1)
images = st.lists(pixels, min_size=SIZE, max_size=SIZE).map(
    lambda values: np.array(values, np.float32).reshape(SHAPE)
)


# What holds for every attack.


@pytest.mark.parametrize(("name", "norm", "policy"), list(combinations()))
def test_adversarial_images_lie_in_the_ball_and_in_the_box(name, norm, policy):
    """And nothing is compiled again for another image, key, eps or step size."""
    before = len(traces)

    @settings(deadline=None, max_examples=15)
    @given(images, floats(0, 1), st.integers(0, 2**31), st.integers(0, 3))
    def check(x, eps, seed, label):
        attack = build(name, policy, norm=norm, eps=eps, step_size=eps / 2 + 0.01)
        state = attacked(attack, x, label, seed)
        assert_inside(attack, state.adversarial, x, eps)
        assert 1 <= int(state.step) <= attack.num_steps + 1
        assert -1 <= int(state.broken_at) < int(state.step)
        again = attacked(attack, x, label, seed)
        chex.assert_trees_all_equal(without_key(state), without_key(again))
        if eps == 0:
            np.testing.assert_array_equal(state.adversarial, x)

    check()
    assert len(traces) == before + 1


def without_key(state):
    return state._replace(key=())


@every_attack
@every_norm
@pytest.mark.parametrize("policy", ["fresh", "replay"])
def test_a_ball_without_radius_leaves_the_image(name, norm, policy):
    attack = build(name, policy, norm=norm, eps=0.0, step_size=0.5)
    for seed in range(3):
        x = image(seed)
        np.testing.assert_array_equal(attacked(attack, x, 0, seed).adversarial, x)


@every_attack
def test_one_trace_for_all_numbers(name):
    chex.clear_trace_counter()

    def advance(attack, state):
        return attack.step(state)

    step, x = jax.jit(chex.assert_max_traces(advance, n=1)), jnp.asarray(image())
    for eps, step_size, num_steps in ((0.1, 0.02, 3), (0.2, 0.05, 7), (0.0, 0.0, 0)):
        numbers = {"eps": eps, "step_size": step_size, "num_steps": num_steps}
        attack = build(name, "fresh", UNDEFENDED, **numbers)
        state = jax.eval_shape(attack.init, jax.random.key(0), x, jnp.int32(0))
        state = jax.tree.map(
            lambda leaf: jnp.ones(leaf.shape, leaf.dtype), without_key(state)
        )
        step(attack, step(attack, state._replace(key=jax.random.key(0))))


@pytest.mark.parametrize(("name", "norm"), list(zip(REGISTRY, NORMS, strict=False)))
def test_neighbours_do_not_matter(name, norm):
    """The same row among others is the same to the bit, in any place of the batch."""
    attack = build(name, norm=norm)

    @jax.jit
    def batch(attack, seeds, x, labels):
        states = jax.vmap(attack.init)(jax.vmap(jax.random.key)(seeds), x, labels)
        step = jax.vmap(attack.step)
        return without_key(jax.lax.fori_loop(0, 3, lambda _, s: step(s), states))

    n, ours = 4, (image(100), 2, 100)

    def among(seed, place):
        x = np.stack([image(seed + i) for i in range(n)])
        labels = np.arange(n, dtype=np.int32) % CLASSES
        seeds = seed + np.arange(n)
        x[place], labels[place], seeds[place] = ours
        states = batch(attack, seeds, x, labels)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[place], states)

    first = among(0, 0)
    for seed, place in ((0, 3), (20, 1), (40, 0)):
        chex.assert_trees_all_equal(among(seed, place), first)


@every_attack
def test_attacks_are_attacks(name):
    assert isinstance(build(name), Attack)
    attack = build(name)
    state = attack.init(jax.random.key(0), jnp.asarray(image()), jnp.int32(1))
    stepped = jax.eval_shape(attack.step, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, stepped)
    assert not state.done and int(state.broken_at) == -1
    assert attack.norm in NORMS and float(attack.eps) == pytest.approx(0.1)


@every_attack
@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"norm": "l7"}, "norm='l7'.*linf"),
        ({"eps": -0.1}, "eps=-0.1"),
        ({"eps": 8.0}, "eps=8.0.*0 to 1"),
        ({"step_size": -1.0}, "step_size=-1.0"),
        ({"num_steps": -1}, "num_steps=-1"),
        ({"eot_samples": 0}, "eot_samples=0"),
        ({"loss": "hinge"}, "loss='hinge'.*margin"),
        ({"average": "median"}, "average='median'.*logits"),
    ],
)
def test_bad_options_are_named(name, options, culprit):
    if not set(options) <= set(inspect.signature(REGISTRY[name]).parameters):
        options = {"norm": "l7"}
        culprit = "norm='l7'"
    with pytest.raises(ValueError, match=culprit):
        build(name, **options)


def failing(kind, x):
    """Logits in one of four ways of being of no use to an attack; right for label 0."""
    sound = jnp.arange(CLASSES, 0, -1, dtype=x.dtype)
    kinds = [
        lambda: sound * jnp.nan * jnp.mean(x),
        lambda: sound * jnp.inf * jnp.mean(x),
        lambda: sound + jnp.sqrt(jnp.abs(x - jax.lax.stop_gradient(x))).sum(),
        lambda: sound + 0 * x.sum(),
    ]
    return jax.lax.switch(kind, kinds)


FAILURES = ("nan", "infinite", "infinite slope", "flat")


def failing_defense(kind):
    number = jnp.int32(FAILURES.index(kind))
    return PurifiedClassifier(Identity(), jax.tree_util.Partial(failing, number))


def sometimes_nan(weights, x):
    logits = weights @ x.ravel()
    return jnp.where(jnp.sum(x) > SIZE / 2, jnp.nan, logits)


@every_attack
@every_norm
@pytest.mark.parametrize("kind", FAILURES[:3])
def test_bad_gradients_are_counted_and_go_nowhere(name, norm, kind):
    attack = build(name, "fresh", failing_defense(kind), norm=norm)
    x = image()
    state = attacked(attack, x, 0)
    assert_inside(attack, state.adversarial, x, attack.eps)
    assert int(state.bad_gradients) == int(state.step) == attack.num_steps + 1
    assert int(state.zero_gradients) == 0
    assert int(state.broken_at) == -1
    start = attack.init(jax.random.key(0), jnp.asarray(x), jnp.int32(0)).x
    np.testing.assert_allclose(state.adversarial, start, rtol=0, atol=1e-7)


@every_attack
@every_norm
def test_zero_gradients_are_counted(name, norm):
    attack = build(name, "fresh", failing_defense("flat"), norm=norm)
    state = attacked(attack, image(), 0)
    assert int(state.zero_gradients) == int(state.step) == attack.num_steps + 1
    assert int(state.bad_gradients) == 0


@every_attack
def test_sound_gradients_are_not_counted(name):
    state = attacked(build(name), image(), 0)
    assert int(state.zero_gradients) == int(state.bad_gradients) == 0


@every_attack
def test_images_where_the_defense_fails_are_survived(name):
    """A defense that is not finite in half of the ball: never broken by a NaN."""
    weights = linear_classifier().args[0]
    classifier = jax.tree_util.Partial(sometimes_nan, weights)
    defense = PurifiedClassifier(Identity(), classifier)
    attack = build(name, "fresh", defense, eps=0.3, step_size=0.1, num_steps=6)
    for seed in range(4):
        x = image(seed, 0.35, 0.65)
        label = predicted(x)
        state = attacked(attack, x, label, seed)
        assert_inside(attack, state.adversarial, x, attack.eps)
        if int(state.broken_at) >= 0:
            logits = classifier(state.adversarial)
            assert np.all(np.isfinite(logits)) and np.argmax(logits) != label


# Replay and expectation over transformation.


@pytest.mark.parametrize(("norm", "average"), [("linf", "loss"), ("l2", "logits")])
def test_samples_of_a_replayed_defense_are_one_sample(norm, average):
    x, label = image(3), 1
    states = [
        attacked(
            build("pgd", "replay", norm=norm, average=average, eot_samples=n), x, label
        )
        for n in (1, 5)
    ]
    chex.assert_trees_all_equal(*map(without_key, states))
    one, many = (build("pgd", "replay", eot_samples=n) for n in (1, 5))
    assert one.purifications_per_step == many.purifications_per_step == 1


def test_the_mean_of_replayed_logits_is_hills_too():
    """A power of two of the same logits, whose mean rounds nothing."""
    states = [
        attacked(build("bpda_eot_hill", "replay", eot_samples=n), image(3), 1)
        for n in (1, 4)
    ]
    np.testing.assert_array_equal(states[0].adversarial, states[1].adversarial)
    assert int(states[0].broken_at) == int(states[1].broken_at)


@pytest.mark.parametrize(
    ("policy", "samples", "purifications"),
    [
        ("fresh", 3, 6),
        ("fixed", 3, 3),
        ("replay", 3, 1),
        ("replay,selection=fresh", 3, 4),
        ("fixed,selection=replay", 3, 4),
        ("fresh,forward=replay", 3, 6),
    ],
)
def test_what_a_step_costs(policy, samples, purifications):
    """Counted where the defense is called, every loop run in Python."""
    calls = []

    def counting(x):
        calls.append(1)
        return jnp.stack([x.sum(), x.mean()])

    defense = PurifiedClassifier(Identity(), jax.tree_util.Partial(counting))
    options = {"eot_samples": samples, "random_start": False}
    attack = build("pgd", policy, defense, **options)
    state = attack.init(jax.random.key(0), jnp.asarray(image()), jnp.int32(0))
    with jax.disable_jit():
        attack.step(state)
    assert len(calls) == attack.purifications_per_step == purifications


@pytest.mark.parametrize(("norm", "random_start"), [("linf", True), ("l2", False)])
def test_for_a_deterministic_defense_all_policies_are_one(norm, random_start):
    """Where nothing breaks; where something does, replay may stop at once."""
    for seed in range(3):
        x = image(seed, 0.3, 0.7)
        label = predicted(x)
        for eps, breaks in ((0.005, False), (0.9, True)):
            states = [
                attacked(
                    build(
                        "pgd",
                        policy,
                        UNDEFENDED,
                        norm=norm,
                        eps=2 * eps if norm == "l2" else eps,
                        step_size=eps / 2,
                        num_steps=8,
                        eot_samples=1,
                        random_start=random_start,
                    ),
                    x,
                    label,
                    seed,
                )
                for policy in ("fresh", "fixed", "replay")
            ]
            assert len({int(state.broken_at) for state in states}) == 1
            assert (int(states[0].broken_at) >= 0) == breaks
            same = states[:2] if breaks else states
            chex.assert_trees_all_equal(*[state.adversarial for state in same])
            steps = [int(state.step) for state in states]
            assert steps[:2] == [9, 9]
            assert steps[2] == (int(states[2].broken_at) + 1 if breaks else 9)


@every_attack
def test_a_replaying_attack_breaks_what_will_judge_it(name):
    """Broken under replay is misclassified under judging key 0, not only in its eyes."""
    attack = build(name, "replay", eps=0.3, step_size=0.1, num_steps=6)
    broken = 0
    for seed in range(6):
        x = image(seed)
        label = predicted(x)
        state = attacked(attack, x, label, seed)
        key = judging_keys(attack.policy, jax.random.key(seed), 1)
        logits = jax.jit(jax.vmap(DEFENSE, (0, None)))(key, state.adversarial)[0]
        assert (np.argmax(logits) != label) == (int(state.broken_at) >= 0)
        broken += int(state.broken_at) >= 0
    assert broken


@pytest.mark.parametrize("average", ["loss", "logits"])
def test_the_gradient_is_the_mean_over_keys(average):
    keys = jax.random.split(jax.random.key(0), 3)
    x, label = jnp.asarray(image()), jnp.int32(1)
    objective = Objective(DEFENSE, parse_policy("fresh"), average=average)

    def total(x):
        logits = jax.vmap(DEFENSE, (0, None))(keys, x)
        if average == "logits":
            return LOSSES["cross_entropy"](jnp.mean(logits, 0), label), logits
        losses = jax.vmap(LOSSES["cross_entropy"], (0, None))(logits, label)
        return jnp.mean(losses), logits

    expected, logits = jax.jit(jax.grad(total, has_aux=True))(x)
    found = jax.jit(objective.gradient)(jax.random.clone(keys), x, label)
    chex.assert_trees_all_close(found, (expected, logits), rtol=1e-5, atol=1e-6)


def test_draws_that_are_not_finite_count_for_nothing():
    logits = jnp.array([[0.0, 1.0], [1.0, 0.0], [jnp.nan, 5.0], [-jnp.inf, 5.0]])
    verdict = judge_draws(logits, jnp.int32(0))
    assert float(verdict.fooled) == 0.25 and float(verdict.margin) == -np.inf
    sound = judge_draws(logits[:2], jnp.int32(0))
    assert float(sound.fooled) == 0.5 and float(sound.margin) == 0.0
    assert sound.better_than(verdict) and not verdict.better_than(sound)
    assert not sound.better_than(sound)


# The truth for a linear classifier.


def binary(seed):
    """Two classes whose margin for label 1 is `weights . x + bias`."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=SIZE).astype(np.float32)

    def logits(weights, x):
        margin = weights @ x.ravel()
        return jnp.stack([-margin / 2, margin / 2])

    return weights, PurifiedClassifier(
        Identity(), jax.tree_util.Partial(logits, jnp.asarray(weights))
    )


@pytest.mark.parametrize(
    ("loss", "random_start"), [("cross_entropy", True), ("margin", False)]
)
@pytest.mark.parametrize("momentum", [0.0, 0.75])
def test_linf_reaches_the_worst_case_of_a_linear_classifier(loss, random_start, momentum):
    for seed in range(3):
        weights, defense = binary(seed)
        x, eps = image(seed), np.float32(0.2)  # near 0 and 1 the box takes part
        attack = build(
            "pgd",
            "fresh",
            defense,
            eps=eps,
            step_size=0.06,
            num_steps=8,
            loss=loss,
            momentum=momentum,
            random_start=random_start,
        )
        worst = np.clip(x - eps * np.sign(weights).reshape(SHAPE), 0, 1)
        np.testing.assert_array_equal(attacked(attack, x, 1, seed).adversarial, worst)


@pytest.mark.parametrize(
    ("loss", "random_start"), [("cross_entropy", True), ("margin", False)]
)
def test_l2_reaches_the_worst_case_of_a_linear_classifier(loss, random_start):
    for seed in range(3):
        weights, defense = binary(seed)
        x, eps = image(seed, 0.45, 0.55), 0.3
        attack = build(
            "pgd",
            "fresh",
            defense,
            norm="l2",
            eps=eps,
            step_size=3.0,
            num_steps=8,
            loss=loss,
            random_start=random_start,
        )
        worst = x - eps * (weights / np.linalg.norm(weights)).reshape(SHAPE)
        state = attacked(attack, x, 1, seed)
        np.testing.assert_allclose(state.x, worst, atol=2e-6)
        margin = weights @ np.asarray(state.adversarial).ravel()
        exact = weights @ x.ravel() - eps * np.linalg.norm(weights)
        assert margin == pytest.approx(exact, abs=1e-5)
        assert float(state.verdict.margin) == pytest.approx(-exact, abs=1e-5)


@every_norm
def test_hill_breaks_exactly_what_can_be_broken(norm):
    """It stops where the image falls: which is nowhere, or by the worst case at last."""
    weights, _ = binary(0)
    x = image(0, 0.45, 0.55)
    dual = weights / np.linalg.norm(weights) if norm == "l2" else np.sign(weights)
    reach = float(weights @ dual)  # what a ball of radius 1 takes off the margin
    for distance, falls in ((0.1, False), (0.1, True)):
        eps = distance * (1.05 if falls else 0.95)
        bias = np.float32(distance * reach - weights @ x.ravel())

        def logits(weights, bias, x):
            margin = weights @ x.ravel() + bias
            return jnp.stack([-margin / 2, margin / 2])

        classifier = jax.tree_util.Partial(logits, jnp.asarray(weights), bias)
        defense = PurifiedClassifier(Identity(), classifier)
        options = {"norm": norm, "eps": eps, "step_size": eps / 4, "num_steps": 5}
        state = attacked(build("bpda_eot_hill", "fresh", defense, **options), x, 1)
        assert (int(state.broken_at) >= 0) == falls
        worst = x - eps * dual.reshape(SHAPE)
        np.testing.assert_allclose(state.adversarial, worst, atol=2e-6)


@pytest.mark.parametrize(("eot_samples", "verify_samples"), [(2, 3), (3, 6), (2, 0)])
def test_hill_verifies_on_draws_of_its_own(eot_samples, verify_samples):
    """Where an image falls, from the keys alone: the noise decides, the image does not.

    An evaluation that looks broken is verified on `verify_samples` selection draws of the
    same step, no more and no fewer, and breaks by their mean.
    """

    def bent(key, x):
        return x + noise_at(part(key, "forward"), 0, x)

    def by_sum(x):
        return jnp.stack([jnp.zeros((), x.dtype), jnp.sum(x) - SIZE / 2])

    defense = PurifiedClassifier(*map(jax.tree_util.Partial, (bent, by_sum)))
    options = {"eot_samples": eot_samples, "verify_samples": verify_samples}
    attack = build("bpda_eot_hill", "fresh", defense, eps=0.0, num_steps=4, **options)
    x, seen, n = jnp.full(SHAPE, 0.5), set(), 25

    @partial(jax.jit, static_argnums=(1, 2))
    def margins(key, role, count):
        policy = parse_policy("fresh")
        steps = jnp.arange(5)
        keys = jax.vmap(lambda s: attack_keys(policy, role, key, s, count))(steps)
        return jax.vmap(jax.vmap(lambda k: defense(k, x)[1]))(keys).mean(1)

    for seed in range(n):
        key = jax.random.key(seed)
        broken = np.asarray(margins(key, "gradient", eot_samples)) > 0
        if verify_samples:
            broken &= np.asarray(margins(key, "selection", verify_samples)) > 0
        expected = int(np.argmax(broken)) if broken.any() else -1
        state = attacked(attack, x, 0, seed)
        assert int(state.broken_at) == expected
        assert int(state.step) == (expected + 1 if broken.any() else 5)
        seen.add(expected)
    assert len(seen) > 2


def test_momentum_is_that_of_dong():
    """Eq. 6: unit L1 gradients summed; against a loop in numpy."""
    x, label, eps, size, decay = image(1, 0.3, 0.7), 2, 0.2, 0.03, 0.9
    classifier = linear_classifier(3.0)
    curved = jax.tree_util.Partial(lambda c, x: c(jnp.sin(5 * x)), classifier)
    defense = PurifiedClassifier(Identity(), curved)
    attack = build(
        "pgd",
        "fresh",
        defense,
        eps=eps,
        step_size=size,
        num_steps=6,
        momentum=decay,
        random_start=False,
        eot_samples=1,
    )
    loss = jax.jit(jax.grad(lambda x: LOSSES["cross_entropy"](curved(x), jnp.int32(label))))
    state = attack.init(jax.random.key(0), jnp.asarray(x), jnp.int32(label))
    step = jax.jit(attack.step)
    expected, velocity = x.copy(), np.zeros(SHAPE)
    for _ in range(6):
        gradient = np.asarray(loss(expected), np.float64)
        velocity = decay * velocity + gradient / np.abs(gradient).sum()
        moved = np.clip(expected + size * np.sign(velocity), x - eps, x + eps)
        expected = np.clip(moved, 0, 1).astype(np.float32)
        state = step(state)
        np.testing.assert_allclose(state.momentum, velocity, atol=1e-4)
        np.testing.assert_allclose(state.x, expected, atol=1e-6)


def test_the_best_iterate_is_kept_and_not_the_last():
    """A step far too long: the last iterate overshoots, the kept one does not."""

    def ridge(x):  # class 1 wins only in a thin shell around 0.55
        height = 1 - 50 * (jnp.mean(x) - 0.55) ** 2
        return jnp.stack([jnp.zeros((), x.dtype), height])

    defense = PurifiedClassifier(Identity(), jax.tree_util.Partial(ridge))
    x = np.full(SHAPE, 0.3, np.float32)
    attack = build(
        "pgd",
        "fresh",
        defense,
        eps=0.5,
        step_size=0.2,
        num_steps=4,
        random_start=False,
    )
    state = attacked(attack, x, 0)
    visited = [0.3, 0.5, 0.7, 0.5, 0.7]  # by evaluation
    best = min(visited, key=lambda mean: abs(mean - 0.55))
    assert float(jnp.mean(state.adversarial)) == pytest.approx(best, abs=1e-5)
    assert visited[-1] != best
    assert int(state.broken_at) == 1


def test_images_take_the_ones_that_break_first():
    """Under full replay an attack ends at the first break, `num_steps` or not."""
    x = image(0)
    label = (predicted(x) + 1) % CLASSES  # misclassified from the start
    for policy, steps in (("replay", 1), ("replay,judging=fresh", 9), ("fresh", 9)):
        attack = build("pgd", policy, UNDEFENDED, num_steps=8, eps=0.01, step_size=0.01)
        state = attacked(attack, x, label)
        assert int(state.broken_at) == 0 and int(state.step) == steps


# Losses against numpy.

logits_lists = st.lists(floats(-50, 50), min_size=CLASSES, max_size=CLASSES).map(
    lambda values: np.array(values, np.float32)
)


@settings(deadline=None, max_examples=50)
@given(logits_lists, st.integers(0, CLASSES - 1))
def test_losses_are_what_they_say(logits, label):
    wide = logits.astype(np.float64)
    others = np.delete(wide, label)
    ordered = np.sort(wide)[::-1]
    difference = others.max() - wide[label]
    expected = {
        "cross_entropy": special.logsumexp(wide) - wide[label],
        "margin": difference,
        "dlr": difference / (ordered[0] - ordered[2] + 1e-12),
    }
    assert set(expected) == set(LOSSES)
    for name, value in expected.items():
        found = float(LOSSES[name](jnp.asarray(logits), jnp.int32(label)))
        if name == "dlr" and ordered[0] - ordered[2] < 1e-4:
            continue  # the quotient of two rounding errors
        assert found == pytest.approx(value, rel=2e-5, abs=2e-5)


def test_dlr_needs_three_classes():
    with pytest.raises(ValueError, match="at least 3 classes, got 2; use margin"):
        LOSSES["dlr"](jnp.array([0.0, 1.0]), jnp.int32(0))


def test_dlr_does_not_see_scale_or_shift():
    logits, label = jnp.array([3.0, 1.0, -2.0, 0.5]), jnp.int32(1)
    value = LOSSES["dlr"](logits, label)
    chex.assert_trees_all_close(LOSSES["dlr"](7 * logits - 3, label), value, rtol=1e-5)
    assert float(value) == pytest.approx(2 / 2.5)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_rise_as_the_true_logit_falls(name):
    gradient = jax.grad(LOSSES[name])(jnp.array([1.0, 2.0, -1.0, 0.0]), jnp.int32(1))
    assert float(gradient[1]) < 0 < float(jnp.max(gradient))


# Norm balls.


@every_norm
@settings(deadline=None, max_examples=50)
@given(x=images, centre=images, eps=floats(0, 1))
def test_projection(norm, x, centre, eps):
    rule = NORMS[norm]
    once = rule.project(jnp.asarray(x), jnp.asarray(centre), eps)
    twice = rule.project(once, jnp.asarray(centre), eps)
    atol = 0 if norm == "linf" else 1e-6
    np.testing.assert_allclose(twice, once, rtol=0, atol=atol)
    assert float(rule.distance(once, jnp.asarray(centre))) <= eps * (1 + 1e-6) + 1e-7
    assert np.min(once) >= 0 and np.max(once) <= 1
    if float(rule.distance(jnp.asarray(x), jnp.asarray(centre))) < eps * (1 - 1e-6):
        np.testing.assert_allclose(once, x, rtol=0, atol=1.2e-7)


@every_norm
def test_projection_is_the_nearest_point(norm):
    rng = np.random.default_rng(0)
    centre, eps = image(0, 0.4, 0.6), 0.3
    far = (centre + rng.normal(size=SHAPE)).astype(np.float32)
    near = np.asarray(NORMS[norm].project(jnp.asarray(far), jnp.asarray(centre), eps))
    for _ in range(50):
        other = centre + rng.normal(size=SHAPE)
        if norm == "linf":
            other = np.clip(other, centre - eps, centre + eps)
        else:
            other = centre + eps * (other - centre) / np.linalg.norm(other - centre)
        assert np.linalg.norm(far - near) <= np.linalg.norm(far - other) + 1e-5


@every_norm
def test_random_points_are_uniform_in_the_ball(norm):
    centre, eps, n = jnp.full(SHAPE, 0.5), 0.2, 4000
    keys = jax.random.split(jax.random.key(0), n)
    points = jax.jit(jax.vmap(NORMS[norm].random_point, (0, None, None)))(keys, centre, eps)
    deltas = np.asarray(points - 0.5, np.float64).reshape(n, SIZE) / eps
    if norm == "linf":
        assert np.abs(deltas).max() <= 1 + 1e-5
        shares = (deltas + 1) / 2
        for pixel in range(SIZE):
            assert stats.kstest(shares[:, pixel], "uniform").pvalue > 1e-3
    else:
        lengths = np.linalg.norm(deltas, axis=1)
        assert lengths.max() <= 1 + 1e-5
        assert stats.kstest(lengths**SIZE, "uniform").pvalue > 1e-3
        cosines = deltas / lengths[:, None]
        for pixel in range(SIZE):  # a coordinate of the sphere: a shifted beta
            law = stats.beta((SIZE - 1) / 2, (SIZE - 1) / 2, loc=-1, scale=2)
            assert stats.kstest(cosines[:, pixel], law.cdf).pvalue > 1e-3
    correlation = np.corrcoef(deltas.T) - np.eye(SIZE)
    assert np.abs(correlation).max() < 5 / np.sqrt(n)


@every_norm
@settings(deadline=None, max_examples=50)
@given(
    values=st.lists(floats(-1, 1), min_size=SIZE, max_size=SIZE),
    exponent=st.integers(-30, 30),
)
def test_ascent_is_the_steepest_direction_of_unit_length(norm, values, exponent):
    """For gradients of any size: those of a confident classifier are tiny."""
    gradient = np.array(values, np.float32).reshape(SHAPE)
    gradient = np.where(np.abs(gradient) < 1e-3, 0, gradient)
    scaled = gradient * np.float32(10.0**exponent)
    direction = np.asarray(NORMS[norm].ascent(jnp.asarray(scaled)), np.float64)
    if not gradient.any():
        assert not direction.any()
        return
    length, gain = {
        "linf": (np.abs(direction).max(), np.abs(gradient).sum()),
        "l2": (np.linalg.norm(direction), np.linalg.norm(gradient)),
    }[norm]
    assert length == pytest.approx(1, abs=1e-5)
    assert np.sum(direction * gradient) == pytest.approx(gain, rel=1e-4)


@every_norm
@settings(deadline=None, max_examples=30)
@given(a=images, b=images)
def test_distance(norm, a, b):
    delta = a.astype(np.float64) - b
    expected = {"linf": np.abs(delta).max(), "l2": np.linalg.norm(delta)}[norm]
    found = float(NORMS[norm].distance(jnp.asarray(a), jnp.asarray(b)))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_a_confident_classifier_is_attacked_all_the_same():
    """Gradients whose squares are below the smallest float32 still have a direction."""
    weights, defense = binary(0)
    x = image(0, 0.45, 0.55)
    margin = float(weights @ x.ravel())
    scale = 60 / abs(margin)  # cross-entropy's gradient is near exp(-60)
    confident = PurifiedClassifier(
        Identity(),
        jax.tree_util.Partial(lambda c, s, x: c(x) * s, defense.classifier, scale),
    )
    label = int(margin > 0)
    sign = 1 if label else -1
    for name in REGISTRY:
        attack = build(
            name,
            "fresh",
            confident,
            norm="l2",
            eps=0.1,
            step_size=0.1,
            num_steps=1,
            random_start=False,
        )
        step = jax.jit(attack.step)
        state = step(attack.init(jax.random.key(0), jnp.asarray(x), jnp.int32(label)))
        moved = (np.asarray(state.x) - x).ravel()
        expected = -sign * 0.1 * weights / np.linalg.norm(weights)
        np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_pgd_begins_at_the_image_or_within_the_ball():
    x, key = jnp.asarray(image(0, 0.3, 0.7)), jax.random.key(0)
    still = Pgd.create(
        DEFENSE, parse_policy("fresh"), eps=0.1, step_size=0.1, random_start=False
    )
    np.testing.assert_array_equal(still.init(key, x, jnp.int32(0)).x, x)
    start = build("pgd").init(key, x, jnp.int32(0)).x
    assert 0 < float(jnp.max(jnp.abs(start - x))) <= 0.1 + 1e-7


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_state_that_is_done_stays_as_it_is(name):
    defense = PurifiedClassifier(
        jax.tree_util.Partial(noisy, 0.1),
        jax.tree_util.Partial(linear_logits, jnp.ones((CLASSES, SIZE)), jnp.zeros(CLASSES)),
    )
    attack = REGISTRY[name](
        defense, parse_policy("replay"), eps=0.1, step_size=0.05, num_steps=2, eot_samples=1
    )
    state = attack.init(jax.random.key(0), jnp.full(SHAPE, 0.5), jnp.int32(3))
    step = jax.jit(lambda attack, state: attack.step(state))
    for _ in range(1000):
        state = step(attack, state)
        if state.done:
            break
    again = step(attack, state)
    data = lambda s: jax.tree.map(np.asarray, s._replace(key=0))  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, data(again), data(state))
