"""DiffHammer, DiffAttack and StAdv: what they promise alike, and each part by itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from jaxpure.attacks.norms import NORMS

from jaxpure import gradients, randomness
from jaxpure.attacks import REGISTRY, Apgd, DiffHammer, Pgd, Stadv, stages_of
from jaxpure.attacks.diffattack import Deviation
from jaxpure.attacks.diffhammer import Draws, representative, weigh
from jaxpure.attacks.stadv import excess, roughness, warp
from jaxpure.defenses import PurifiedClassifier
from jaxpure.diffusion import linear
from jaxpure.purifiers import DiffPure, Identity, Resized, RevPure

SHAPE, CLASSES = (4, 4, 2), 5
SIZES = {"linf": 0.1, "l2": 0.5, "l1": 2.0, "flow": 0.3}
CASES = [
    *(("diffhammer", norm) for norm in ("linf", "l2", "l1")),
    *(("diffattack", norm) for norm in ("linf", "l2")),
    ("stadv", "flow"),
]


def toy(a, x, t):
    return a * jnp.tanh(x + t / 1000)


def logits(weights, x):
    return jnp.tanh(2 * x.reshape(-1) - 1) @ weights


PURIFIER = DiffPure.create(jax.tree_util.Partial(toy, 0.3), linear(100), t_star=4)
WEIGHTS = np.random.default_rng(0).normal(size=(32, CLASSES)).astype(np.float32)
CLASSIFIER = jax.tree_util.Partial(logits, jnp.asarray(WEIGHTS))
DEFENSE = PurifiedClassifier(PURIFIER, CLASSIFIER)


def create(name, norm, policy="fresh", *, size=None, defense=DEFENSE, **options):
    size = SIZES[norm] if size is None else size
    ball = {"flow_bound": size} if norm == "flow" else {"eps": size, "norm": norm}
    if name == "diffhammer":
        ball["step_size"] = size / 2
    usual = {"num_steps": 5, "eot_samples": 3}
    policy = randomness.parse_policy(policy, ("forward", "reverse"))
    return REGISTRY[name](defense, policy, **ball, **usual | options)


@jax.jit
def run_stage(attack, key, x, label):
    state = attack.init(key, x, label)
    return jax.lax.while_loop(lambda s: ~s.done, attack.step, state)


def run(attack, *example):
    """The final states of all stages, each from the clean image."""
    return [run_stage(stage, *example) for _, stage in stages_of(attack)]


def example(seed):
    """An image, and the label that the defense gives it under its own key 0."""
    x = jnp.asarray(np.random.default_rng(seed).uniform(size=SHAPE).astype(np.float32))
    key = randomness.example_key(jax.random.key(0), seed)
    return key, x, jnp.argmax(judged(key, x)).astype(jnp.int32)


def judged(key, x):
    (k,) = randomness.judging_keys(randomness.PRESETS["replay"], key, 1)
    return DEFENSE(k, x)


@pytest.mark.parametrize("policy", ["replay", "fresh"])
@pytest.mark.parametrize(("name", "norm"), CASES)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.0, 1.0, 6.0]))
def test_every_image_is_one_that_the_attack_may_make(name, norm, policy, seed, share):
    size = min(share * SIZES[norm], 1.0)
    attack = create(name, norm, policy, size=size)
    key, x, label = example(seed)
    for (_, stage), state in zip(
        stages_of(attack), run(attack, key, x, label), strict=True
    ):
        found = np.asarray(state.adversarial)
        assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1
        if norm == "flow":
            assert excess(found[None], np.asarray(x)[None], size) <= 1e-6
        else:
            distance = float(NORMS[norm].distance(jnp.asarray(found), x))
            assert distance <= size * (1 + 1e-5) + 1e-6
        assert stage.norm == norm and float(stage.eps) == pytest.approx(size)
        assert int(state.step) <= stage.max_steps
        if share == 0:
            np.testing.assert_allclose(found, x, atol=1e-7)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_the_key_decides_and_neighbours_do_not(name, norm):
    rows = [example(seed) for seed in range(3)]
    columns = tuple(jnp.stack(column) for column in zip(*rows, strict=True))
    for _, stage in stages_of(create(name, norm)):
        batch = jax.jit(jax.vmap(run_stage, (None, 0, 0, 0)))
        one, again = batch(stage, *columns), batch(stage, *columns)
        np.testing.assert_array_equal(one.adversarial, again.adversarial)
        others = (jax.vmap(jax.random.fold_in, (0, None))(columns[0], 1), *columns[1:])
        assert not np.allclose(batch(stage, *others).adversarial, one.adversarial)
        for i in range(3):
            alone = run_stage(stage, *rows[i])
            np.testing.assert_allclose(alone.adversarial, one.adversarial[i], atol=2e-5)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_a_replaying_attack_breaks_what_judges_it(name, norm):
    """What it calls broken is broken under the very key; a large ball breaks some."""
    broken = 0
    for seed in range(5):
        key, x, label = example(seed)
        attack = create(name, norm, "replay", size=min(6 * SIZES[norm], 0.8), num_steps=12)
        state = run(attack, key, x, label)[0]
        says = int(state.broken_at) >= 0
        assert says == (int(jnp.argmax(judged(key, state.adversarial))) != int(label))
        broken += says
    assert broken >= 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("diffhammer", {"norm": "l3"}, "norm='l3'"),
        ("diffhammer", {"em_steps": 0}, "em_steps=0, expected at least 1"),
        ("diffhammer", {"criterion": "all"}, "criterion='all'"),
        ("diffhammer", {"defense": lambda key, x: x}, "a purifier and a classifier"),
        ("diffattack", {"deviation_weight": -1.0}, "deviation_weight=-1.0"),
        ("stadv", {"flow_bound": 3.0}, "flow_bound=3.0, expected 0 to 2"),
        ("stadv", {"tau": -1.0}, "tau=-1.0, expected at least 0"),
        ("stadv", {"criterion": "all"}, "criterion='all'"),
    ],
)
def test_what_makes_no_sense_is_named(name, options, message):
    sizes = {"diffhammer": {"eps": 0.1, "step_size": 0.1}, "diffattack": {"eps": 0.1}}
    defense = options.pop("defense", DEFENSE)
    arguments = {**sizes.get(name, {}), **options}
    with pytest.raises(ValueError, match=message):
        REGISTRY[name](defense, randomness.PRESETS["fresh"], **arguments)


# DiffHammer.


def test_with_one_draw_diffhammer_is_pgd_on_the_margin():
    """One draw has weight one, and its grafted gradient is the exact one."""
    hammer = create("diffhammer", "linf", "replay", num_steps=6, em_alpha=0.0)
    pgd = Pgd.create(
        DEFENSE,
        hammer.policy,
        eps=SIZES["linf"],
        step_size=SIZES["linf"] / 2,
        num_steps=6,
        loss="margin",
    )
    key, x, label = example(1)
    one, other = hammer.init(key, x, label), pgd.init(key, x, label)
    for _ in range(6):
        np.testing.assert_allclose(one.x, other.x, atol=1e-6)
        one, other = jax.jit(hammer.step)(one), jax.jit(pgd.step)(other)
    assert int(one.broken_at) == int(other.broken_at)


def test_a_steps_draws_are_what_purification_and_classifier_give():
    attack = create("diffhammer", "linf")
    key, x, label = example(2)
    keys = attack.objective.gradient_keys(key, jnp.int32(0))
    found = attack._draw(keys, x, label)
    for i in range(3):
        purified = PURIFIER(keys[i], x)

        def margin(p):
            values = CLASSIFIER(p)
            return jnp.max(values.at[label].set(-jnp.inf)) - values[label]

        np.testing.assert_allclose(found.losses[i], margin(purified), rtol=1e-5)
        np.testing.assert_allclose(
            found.gradients[i], jax.grad(margin)(purified), rtol=1e-4, atol=1e-6
        )


def numpy_em(losses, grads, eps, lam, steps):
    """The EM in plain loops, in L-inf."""

    def gain(r, g):
        return eps * np.sum(np.sign(r) * g)

    def elu(v):
        return v if v > 0 else np.exp(v) - 1

    totals = [
        sum(elu(loss + gain(r, g)) for loss, g in zip(losses, grads, strict=True))
        for r in grads
    ]
    chosen = int(np.argmax(totals))
    r = grads[chosen]
    for _ in range(steps):
        w = [
            1 / (1 + np.exp(-lam * (loss + gain(r, g))))
            for loss, g in zip(losses, grads, strict=True)
        ]
        r = sum(wi * g for wi, g in zip(w, grads, strict=True)) / sum(w)
    return chosen, r


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), steps=st.integers(1, 5))
def test_weights_by_the_definition(seed, steps):
    random = np.random.default_rng(seed)
    grads = random.normal(size=(6, *SHAPE)).astype(np.float32)
    losses = random.normal(size=6).astype(np.float32) - 1
    draws = Draws(jnp.zeros((6, 2)), jnp.asarray(losses), jnp.asarray(grads))

    def direction(g):
        return 0.05 * jnp.sign(g)

    chosen, expected = numpy_em(losses, grads.astype(np.float64), 0.05, 5.0, steps)
    got = representative(draws, direction)
    assert int(got) == chosen
    found = weigh(draws, direction, got, 5.0, steps)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_draws_that_can_fall_together_outweigh_those_that_cannot():
    """The plain mean goes the way of one loud draw; the weighed one does not."""
    along = np.zeros((*SHAPE,), np.float32)
    along[0, 0, 0] = 1
    grads = np.stack([along, along, along, -5 * along])
    losses = np.array([-0.05, -0.05, -0.05, -9.0], np.float32)
    draws = Draws(jnp.zeros((4, 2)), jnp.asarray(losses), jnp.asarray(grads))

    def direction(g):
        return 0.1 * jnp.sign(g)

    assert grads.mean(0)[0, 0, 0] < 0
    chosen = representative(draws, direction)
    assert int(chosen) < 3
    assert float(weigh(draws, direction, chosen, 5.0, 5)[0, 0, 0]) > 0.9


def test_diffhammer_costs_its_draws_and_one_gradient():
    attack = create("diffhammer", "linf", eot_samples=7)
    assert (attack.purifications_per_step, attack.gradients_per_step) == (8, 1)
    replayed = create("diffhammer", "linf", "replay", eot_samples=7)
    assert replayed.purifications_per_step == 2


def test_weights_are_of_one_sum_however_confident_the_draws_are():
    """Equal draws have equal weights, though each is next to nothing by itself."""
    for loss in (-1.0, -30.0, -300.0):
        gradient = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
        draws = Draws(
            jnp.zeros((5, 2)), jnp.full(5, loss), jnp.asarray(np.stack([gradient] * 5))
        )
        found = weigh(draws, lambda g: 0.1 * jnp.sign(g), jnp.int32(0), 5.0, 5)
        np.testing.assert_allclose(found, gradient, rtol=1e-5)


def test_diffhammer_stops_at_a_break_only_where_that_is_what_judges():
    key, x, label = example(3)
    wrong = (label + 1) % CLASSES  # nearly every draw is wrong from the start
    replayed = run_stage(create("diffhammer", "linf", "replay"), key, x, wrong)
    assert int(replayed.step) < 6 and int(replayed.broken_at) >= 0
    fresh = run_stage(create("diffhammer", "linf"), key, x, wrong)
    assert int(fresh.step) == 6 and float(fresh.resubmission.fooled) == 1


def test_diffhammer_follows_a_gradient_rule():
    seen = PurifiedClassifier(gradients.bpda(PURIFIER), CLASSIFIER)
    attack = create("diffhammer", "l2", defense=seen)
    assert isinstance(attack, DiffHammer)
    state = run_stage(attack, *example(4))
    exact = run_stage(create("diffhammer", "l2"), *example(4))
    assert not np.allclose(state.adversarial, exact.adversarial)


# DiffAttack.


def test_the_trajectory_is_the_purification():
    key, x, _ = example(5)
    for purifier in (PURIFIER, dataclasses.replace(PURIFIER, rounds=2)):
        found = purifier.trajectory(jax.random.clone(key), x)
        np.testing.assert_allclose(found.purified, purifier(key, x), atol=1e-6)
        np.testing.assert_allclose((found.denoised[-1] + 1) / 2, found.purified, atol=1e-6)
        assert found.noised.shape == (4 * purifier.rounds, *SHAPE)


def test_the_trajectory_noises_with_the_purifications_own_noise():
    key, x, _ = example(6)
    found = PURIFIER.trajectory(jax.random.clone(key), x)
    schedule = linear(100)
    forward = randomness.part(key, "forward")
    noise = randomness.noise_at(forward, 0, x)
    for i, t in enumerate((2, 1, 0)):  # after the steps at timesteps 3, 2, 1
        signal = schedule.alphas_cumprod[t]
        expected = np.sqrt(signal) * (2 * x - 1) + np.sqrt(1 - signal) * noise
        np.testing.assert_allclose(found.noised[i], expected, atol=1e-5)
    np.testing.assert_allclose(found.noised[3], 2 * x - 1, atol=1e-6)


def test_the_deviation_by_its_definition_and_its_gradient():
    key, x, _ = example(7)
    found = PURIFIER.trajectory(jax.random.clone(key), x)
    strayed = np.asarray(found.noised - found.denoised)[[0, 3]]  # every third, from the end
    weight = 2.5
    values, added = Deviation(weight)(DEFENSE, jax.random.clone(key), x)
    np.testing.assert_allclose(added, weight * np.mean(strayed**2), rtol=1e-5)
    np.testing.assert_allclose(values, DEFENSE(jax.random.clone(key), x), rtol=1e-5)
    raw = jax.random.key_data(key)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (WEIGHTS, np.asarray(x)))
        defense = PurifiedClassifier(PURIFIER, jax.tree_util.Partial(logits, wide[0]))

        def total(x):
            key = jax.random.wrap_key_data(jnp.asarray(raw))
            values, added = Deviation(weight)(defense, key, x)
            return jnp.sum(jnp.sin(values)) + added

        check_grads(total, (wide[1],), order=1, modes=["rev"], rtol=1e-5)


def test_without_the_deviation_it_is_apgd():
    key, x, label = example(8)
    attack = create("diffattack", "linf", num_steps=12, deviation_weight=0.0)
    losses = ("cross_entropy", "dlr")
    for (name, stage), loss in zip(stages_of(attack), losses, strict=True):
        assert name == {"cross_entropy": "apgd-ce", "dlr": "apgd-dlr"}[loss]
        plain = Apgd.create(
            DEFENSE,
            attack.policy,
            eps=SIZES["linf"],
            num_steps=12,
            loss=loss,
            eot_samples=3,
        )
        one, other = run_stage(stage, key, x, label), run_stage(plain, key, x, label)
        np.testing.assert_allclose(one.adversarial, other.adversarial, atol=1e-5)


def test_the_deviation_is_added_to_the_gradient_and_not_to_the_loss():
    key, x, label = example(8)
    stage = create("diffattack", "linf", deviation_weight=3.0).stages[0][1]
    plain = dataclasses.replace(stage.objective, addend=None)
    keys = plain.gradient_keys(key, jnp.int32(0))
    found, values = stage.objective.gradient(keys, x, label)
    alone, same = plain.gradient(keys, x, label)
    np.testing.assert_allclose(values, same, atol=1e-6)
    added = [jax.grad(lambda x, k=k: Deviation(3.0)(DEFENSE, k, x)[1])(x) for k in keys]
    np.testing.assert_allclose(found - alone, np.mean(added, 0), atol=1e-5)
    assert float(jnp.abs(found - alone).max()) > 1e-3


@pytest.mark.parametrize(
    "purifier",
    [Identity(), RevPure.create(PURIFIER.denoiser, t_star=2), gradients.bpda(PURIFIER)],
)
def test_a_purifier_without_states_is_refused(purifier):
    defense = PurifiedClassifier(purifier, CLASSIFIER)
    with pytest.raises(ValueError, match="states of the forward and the reverse pass"):
        create("diffattack", "linf", defense=defense)
    with pytest.raises(ValueError, match="states of the forward and the reverse pass"):
        resized = PurifiedClassifier(Resized(purifier, 8), CLASSIFIER)
        create("diffattack", "linf", defense=resized)


def test_at_another_size_the_states_are_of_that_size():
    key, x, _ = example(9)
    resized = Resized(PURIFIER, 8)
    found = resized.trajectory(jax.random.clone(key), x)
    assert found.denoised.shape == (4, 8, 8, 2)
    np.testing.assert_allclose(found.purified, resized(key, x), atol=1e-6)


# StAdv.


def picture(seed=0, shape=(6, 5, 2)):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def test_whole_flows_shift_and_none_does_nothing():
    x = jnp.asarray(picture())
    np.testing.assert_array_equal(warp(x, np.zeros((6, 5, 2))), x)
    down = np.broadcast_to([1.0, 0.0], (6, 5, 2))
    np.testing.assert_allclose(warp(x, down), x[jnp.array([1, 2, 3, 4, 5, 5])], atol=1e-7)
    left = np.broadcast_to([0.0, -2.0], (6, 5, 2))
    np.testing.assert_allclose(warp(x, left), x[:, jnp.array([0, 0, 0, 1, 2])], atol=1e-7)


def test_flows_between_pixels_are_bilinear():
    x = jnp.asarray(picture())
    flow = np.zeros((6, 5, 2))
    flow[2, 2] = (0.25, 0.5)
    expected = 0.75 * (x[2, 2] + x[2, 3]) / 2 + 0.25 * (x[3, 2] + x[3, 3]) / 2
    np.testing.assert_allclose(warp(x, flow)[2, 2], expected, atol=1e-6)


def test_gradients_of_warp_and_roughness():
    with jax.enable_x64(True):
        x = jnp.asarray(picture(), jnp.float64)
        random = np.random.default_rng(1)
        flow = jnp.asarray(random.uniform(0.1, 0.9, (6, 5, 2)))  # away from the kinks
        check_grads(lambda f: warp(x, f), (flow,), order=1, modes=["rev"])
        check_grads(roughness, (flow,), order=1, modes=["rev"])


def test_roughness_by_its_definition():
    flow = np.random.default_rng(2).normal(size=(4, 3, 2))
    total = 0.0
    for i in range(4):
        for j in range(3):
            for di, dj in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                if 0 <= i + di < 4 and 0 <= j + dj < 3:
                    total += np.linalg.norm(flow[i, j] - flow[i + di, j + dj])
    np.testing.assert_allclose(roughness(jnp.asarray(flow)), total, rtol=1e-5)
    assert roughness(jnp.ones((4, 3, 2))) < 1e-3


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), bound=st.sampled_from([0.0, 0.1, 0.5, 1.2]))
def test_what_flows_make_is_told_from_what_they_cannot(seed, bound):
    x = picture(seed)
    sides = np.array([6, 5]) / 2 * bound
    flow = np.random.default_rng(seed).uniform(-1, 1, (6, 5, 2)) * sides
    corners = np.random.default_rng(seed).choice([-1.0, 1.0], (6, 5, 2)) * sides
    for each in (flow, corners):
        made = np.asarray(warp(jnp.asarray(x), each))
        assert excess(made[None], x[None], bound) <= 1e-6
    beyond = np.asarray(warp(jnp.asarray(x), flow)).copy()
    beyond[1, 1, 0] = x[..., 0].max() + 0.3
    assert excess(beyond[None], x[None], bound) >= 0.3 - 1e-6


@pytest.mark.parametrize("side", [28, 224])
def test_the_largest_flow_of_a_large_picture_is_within_its_bound(side):
    """Places among hundreds of pixels are rounded; the flow between two is not."""
    x = np.random.default_rng(0).integers(0, 2, (side, side, 1)).astype(np.float32)
    for bound in (0.02, 0.05):
        for sign in (-1, 1):
            flow = np.full((side, side, 2), sign * np.float32(bound * side / 2))
            made = np.asarray(jax.jit(warp)(jnp.asarray(x), flow))
            assert excess(made[None], x[None], bound) <= 1e-6


def test_excess_is_exact_in_one_channel():
    """A value just inside the reach of its pixel is allowed, one just outside is not."""
    x = np.zeros((1, 3, 3, 1))
    x[0, 1, 2, 0] = 1.0  # reached from the middle at 0.25 of the way
    near, far = x.copy(), x.copy()
    near[0, 1, 1, 0], far[0, 1, 1, 0] = 0.2499, 0.2511
    bound = 0.25 / 1.5
    assert excess(near, x, bound) <= 1e-9 and excess(far, x, bound) > 1e-3


def test_stadv_takes_the_best_value_within_reach():
    """A classifier of one pixel: the flow fetches the largest value around it."""
    x = np.zeros((5, 5, 1), np.float32)
    x[2, 3], x[1, 2] = 1.0, 0.6

    def centre(x):
        return jnp.stack([jnp.full((), 0.5, x.dtype), x[2, 2, 0]])

    defense = PurifiedClassifier(Identity(), jax.tree_util.Partial(centre))
    attack = Stadv.create(
        defense,
        randomness.PRESETS["fresh"],
        flow_bound=0.32,  # 0.8 of a pixel
        num_steps=40,
        tau=0.0,
        random_start=True,
    )
    found = [
        float(run_stage(attack, jax.random.key(s), x, jnp.int32(0)).adversarial[2, 2, 0])
        for s in range(6)
    ]
    assert 0.78 < max(found) <= 0.8 + 1e-6  # a signed step leaves the rows a little off
    rough = dataclasses.replace(attack, tau=100.0)
    state = run_stage(rough, jax.random.key(0), x, jnp.int32(0))
    free = run_stage(attack, jax.random.key(0), x, jnp.int32(0))
    assert float(roughness(state.flow)) < 0.7 * float(roughness(free.flow))
