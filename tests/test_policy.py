"""Policies as text, and every derived key: distinct, shared or replayed as documented."""

import itertools
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpure.attacks import Linf, Pgd
from jaxpure.defenses import PurifiedClassifier
from jaxpure.diffusion import Ddim, Ddpm, Linear, make_chain, reverse
from jaxpure.keys import (
    PartKeys,
    defense_key,
    example_key,
    noise_at,
    part,
    stream,
)
from jaxpure.policy import (
    PRESETS,
    ROLES,
    SOURCES,
    Policy,
    attack_keys,
    format_policy,
    judging_keys,
    parse_policy,
)
from jaxpure.purifiers import DiffPure, RevPure

PARTS = ("forward", "reverse")
EXAMPLES, STEPS, SAMPLES, JUDGING, ROUNDS, TIMESTEPS = 3, 4, 3, 4, 2, 6


def data(keys):
    """Keys as plain numbers, which may be looked at as often as one likes."""
    return jax.tree.map(lambda k: np.asarray(jax.random.key_data(k)), keys)


def bits(keys) -> list[tuple[int, ...]]:
    """The keys of an array of keys (or of their data), as hashable values."""
    keys = keys if isinstance(keys, np.ndarray) else data(keys)
    return [tuple(row) for row in keys.reshape(-1, keys.shape[-1]).tolist()]


def assert_same(a, b):
    chex.assert_trees_all_equal(a, b)


def draws(keys, name):
    """The stream of one noise part, of many purifications' keys."""
    if isinstance(keys, PartKeys):
        keys = keys.named.get(name, keys.rest)
    return jax.vmap(part, (0, None))(keys.ravel(), name).reshape(keys.shape)


def keys_of_all_steps(policy, role, key):
    """`(steps, samples)` keys, or a PartKeys of such."""
    return jax.vmap(lambda s: attack_keys(policy, role, key, s, SAMPLES))(jnp.arange(STEPS))


# Policies as text.

sources = st.sampled_from(SOURCES)
refinements = st.one_of(
    st.builds("{}={}".format, st.sampled_from(ROLES), sources),
    st.builds("{}={}".format, st.sampled_from(PARTS), sources),
    st.builds("{}/{}={}".format, st.sampled_from(ROLES), st.sampled_from(PARTS), sources),
)
policy_texts = st.builds(
    lambda preset, rest: ",".join([preset, *rest]),
    st.sampled_from(list(PRESETS)),
    st.lists(refinements, max_size=4),
)


@settings(deadline=None, max_examples=150)
@given(policy_texts)
def test_format_is_read_back(text):
    policy = parse_policy(text, PARTS)
    assert parse_policy(format_policy(policy), PARTS) == policy
    assert str(policy) == format_policy(policy)


@settings(deadline=None, max_examples=150)
@given(policy_texts, policy_texts)
def test_policies_that_mean_the_same_are_equal(a, b):
    a, b = parse_policy(a, PARTS), parse_policy(b, PARTS)

    def meaning(policy):
        return {
            (role, name): getattr(policy, role).of(name) for role in ROLES for name in PARTS
        }

    assert (meaning(a) == meaning(b)) == (a == b)
    assert (format_policy(a) == format_policy(b)) == (a == b)


@pytest.mark.parametrize(
    ("text", "formatted"),
    [
        ("fresh,gradient=fixed", "fresh,gradient=fixed"),
        ("fresh,forward=replay", "fresh,forward=replay"),
        ("replay,forward=fresh", "fresh,reverse=replay"),
        ("fresh,gradient=replay,selection=replay", "replay,judging=fresh"),
        ("fresh,gradient/reverse=fixed", "fresh,gradient/reverse=fixed"),
        ("fresh,gradient/forward=fresh", "fresh"),
        ("fresh,gradient=fixed,selection=fixed", "fixed"),
    ],
)
def test_format_is_short(text, formatted):
    assert format_policy(parse_policy(text, PARTS)) == formatted


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("parts", [(), ("forward",), PARTS])
def test_presets_are_read_and_written_by_name(name, parts):
    assert parse_policy(name, parts) == PRESETS[name]
    assert format_policy(PRESETS[name]) == name


@pytest.mark.parametrize(
    ("text", "gradient", "selection", "judging"),
    [
        ("fresh", "ff", "ff", "ff"),
        ("fixed", "xx", "xx", "ff"),
        ("replay", "rr", "rr", "rr"),
        ("fresh,forward=replay", "rf", "rf", "rf"),
        ("replay,judging=fresh", "rr", "rr", "ff"),
        ("fresh,gradient/reverse=fixed", "fx", "ff", "ff"),
        ("fixed,selection=replay,selection/forward=fresh", "xx", "fr", "ff"),
        ("fixed,selection/forward=fresh,selection=replay", "xx", "rr", "ff"),
        (" replay , forward=fresh ", "fr", "fr", "fr"),
    ],
)
def test_meaning_of_a_text(text, gradient, selection, judging):
    policy = parse_policy(text, PARTS)
    letters = {"f": "fresh", "x": "fixed", "r": "replay"}
    for sources, expected in zip(
        (policy.gradient, policy.selection, policy.judging),
        (gradient, selection, judging),
        strict=True,
    ):
        assert [sources.of(name) for name in PARTS] == [letters[c] for c in expected]


def test_a_part_that_is_all_there_is_is_the_whole():
    assert parse_policy("fresh,forward=replay", ("forward",)) == PRESETS["replay"]
    assert parse_policy("replay,forward=fresh,reverse=fresh", PARTS) == PRESETS["fresh"]


@pytest.mark.parametrize(
    ("text", "culprit", "known"),
    [
        ("bogus", "'bogus'", PRESETS),
        ("", "''", PRESETS),
        ("forward=replay", "'forward=replay'", PRESETS),
        ("fresh,forward=stale", "'forward=stale'", SOURCES),
        ("fresh,forward", "'forward'", SOURCES),
        ("fresh,", "''", SOURCES),
        ("fresh,grading/forward=replay", "'grading'", ROLES),
        ("fresh,sideways=replay", "'sideways'", PARTS),
        ("fresh,gradient/sideways=replay", "'sideways'", PARTS),
    ],
)
def test_what_is_unknown_is_named_with_what_is_known(text, culprit, known):
    with pytest.raises(ValueError, match="policy") as error:
        parse_policy(text, PARTS)
    assert culprit in str(error.value)
    for name in known:
        assert name in str(error.value)


def test_a_purifier_without_parts_takes_whole_roles_only():
    assert parse_policy("replay,judging=fresh").judging.all("fresh")
    with pytest.raises(ValueError, match="none with a name"):
        parse_policy("fresh,forward=replay")


@pytest.mark.parametrize(
    ("text", "replays_all", "selection_is_free"),
    [
        ("replay", True, True),
        ("fixed", False, True),
        ("fresh", False, False),
        ("replay,judging=fresh", False, True),
        ("replay,selection=fresh", False, False),
        ("fixed,forward=replay", False, True),
        ("fresh,forward=replay", False, False),
        ("fixed,selection/forward=replay", False, False),
    ],
)
def test_what_a_policy_implies(text, replays_all, selection_is_free):
    policy = parse_policy(text, PARTS)
    assert policy.replays_all == replays_all
    assert policy.selection_is_free == selection_is_free


# Keys.


def test_threefry_is_partitionable():
    assert jax.config.jax_threefry_partitionable
    assert str(jax.config.jax_default_prng_impl) == "threefry2x32"


def test_fold_in_and_split_are_the_same_key():
    """Why a key is a parent of streams or a source of indices, never both."""
    folded = [bits(jax.random.fold_in(jax.random.key(5), i))[0] for i in range(4)]
    assert folded == bits(jax.random.split(jax.random.key(5), 4))


def leaf_keys(key):
    """Every key that DiffPure hands to a draw, given a purification's key."""
    forward, backward = part(key, "forward"), part(key, "reverse")
    rounds, timesteps = jnp.arange(ROUNDS), jnp.arange(TIMESTEPS)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    return fold(forward, rounds), jax.vmap(fold, (0, None))(
        fold(backward, rounds), timesteps
    )


def test_all_keys_of_a_fresh_run_are_distinct():
    policy = PRESETS["fresh"]
    root = jax.random.key(0)

    @jax.jit
    @jax.vmap
    def keys_of(index):
        key = example_key(root, index)
        purifications = {
            "gradient": keys_of_all_steps(policy, "gradient", key),
            "selection": keys_of_all_steps(policy, "selection", key),
            "fixed": attack_keys(PRESETS["fixed"], "gradient", key, jnp.int32(0), SAMPLES),
            "judging": judging_keys(policy, key, JUDGING),
            "unseen": judging_keys(parse_policy("replay,judging=fresh"), key, 1),
        }
        flat = jnp.concatenate([k.ravel() for k in purifications.values()])
        named = ("attack/start", "attack/gradient", "attack/selection", "judge")
        parents = [key, *[stream(key, name) for name in named]]
        for role in ("gradient", "selection"):
            steps = range(STEPS)
            parents += [jax.random.fold_in(stream(key, f"attack/{role}"), s) for s in steps]
        everything = flat, jax.vmap(leaf_keys)(flat), jnp.stack(parents)
        return jax.tree.map(jax.random.key_data, everything)

    everything = jax.tree.map(np.asarray, keys_of(jnp.arange(EXAMPLES)))
    found = [k for keys in jax.tree.leaves(everything) for k in bits(keys)]
    purifications = 2 * STEPS * SAMPLES + SAMPLES + JUDGING + 1
    leaves = ROUNDS + ROUNDS * TIMESTEPS
    assert len(found) == EXAMPLES * (purifications * (1 + leaves) + 5 + 2 * STEPS)
    assert len(set(found)) == len(found)
    training = stream(root, "train")
    assert not set(bits(jnp.stack([root, training]))) & set(found)


def test_no_two_draws_of_an_attack_meet_the_same_noise(monkeypatch):
    """Counted where the noise is drawn, not where the keys are thought to be made."""
    drawn, eot_samples = set(), 2
    normal = jax.random.normal

    def recording(key, *args, **kwargs):
        jax.debug.callback(
            lambda data: drawn.add(tuple(data.tolist())), jax.random.key_data(key)
        )
        return normal(key, *args, **kwargs)

    monkeypatch.setattr(jax.random, "normal", recording)
    schedule = Linear(100)
    denoiser = jax.tree_util.Partial(lambda a, x, t: a * jnp.tanh(x + t / 1000), 0.5)
    purifier = DiffPure(denoiser, schedule=schedule, t_star=3, rounds=2)
    classifier = jax.tree_util.Partial(lambda w, x: w @ x.ravel(), jnp.ones((3, 4)))
    defense = PurifiedClassifier(purifier, classifier)
    attack, ball = Pgd(step_size=0.05, eot_samples=eot_samples), Linf(0.1)

    @jax.jit
    def run(attack, key, x):
        objective = attack.objective(defense, PRESETS["fresh"])
        state = attack.init(objective, ball, key, x, jnp.int32(1))
        state = jax.lax.fori_loop(
            0, STEPS, lambda _, s: attack.step(objective, ball, s), state
        )
        keys = judging_keys(PRESETS["fresh"], key, JUDGING)
        return state.x, jax.lax.map(lambda k: defense(k, x), keys)

    x = jnp.full((2, 2, 1), 0.5)
    for index in range(2):
        jax.block_until_ready(run(attack, example_key(jax.random.key(1), index), x))
    jax.effects_barrier()
    purifications = 2 * STEPS * eot_samples + JUDGING
    assert len(drawn) == 2 * purifications * 2 * (1 + 3)  # rounds, forward + timesteps


def test_fixed_keys_are_the_same_at_every_step_and_for_both_roles():
    policy = PRESETS["fixed"]
    key = example_key(jax.random.key(0), 7)
    gradient = data(keys_of_all_steps(policy, "gradient", key))
    assert_same(gradient, data(keys_of_all_steps(policy, "selection", key)))
    for step in range(STEPS):
        assert_same(gradient[step], gradient[0])
    assert len(set(bits(gradient))) == SAMPLES
    assert not set(bits(gradient)) & set(bits(judging_keys(policy, key, JUDGING)))
    other = keys_of_all_steps(policy, "gradient", example_key(jax.random.key(0), 8))
    assert not set(bits(gradient)) & set(bits(other))


@pytest.mark.parametrize("role", ["gradient", "selection"])
def test_replayed_keys_are_the_one_that_judges(role):
    policy = PRESETS["replay"]
    key = example_key(jax.random.key(0), 7)
    keys = data(keys_of_all_steps(policy, role, key))
    assert keys.shape[:2] == (STEPS, SAMPLES)
    assert set(bits(keys)) == set(bits(defense_key(key, 0)))
    assert set(bits(keys)) == set(bits(data(judging_keys(policy, key, JUDGING))[0]))


def test_each_part_has_its_own_source():
    policy = parse_policy("fresh,forward=replay,gradient/reverse=fixed", PARTS)
    key = example_key(jax.random.key(0), 7)
    gradient = keys_of_all_steps(policy, "gradient", key)
    selection = keys_of_all_steps(policy, "selection", key)
    fixed = keys_of_all_steps(PRESETS["fixed"], "gradient", key)
    fresh = keys_of_all_steps(PRESETS["fresh"], "selection", key)
    replayed = set(bits(part(defense_key(key, 0), "forward")))
    for keys in (gradient, selection):
        assert set(bits(draws(keys, "forward"))) == replayed
    assert_same(data(draws(gradient, "reverse")), data(draws(fixed, "reverse")))
    assert_same(data(draws(selection, "reverse")), data(draws(fresh, "reverse")))


@pytest.mark.parametrize("policy", ["fresh", "fixed", "replay", "fresh,forward=replay"])
@pytest.mark.parametrize("role", ["gradient", "selection"])
def test_more_samples_extend_the_smaller_set(policy, role):
    policy = parse_policy(policy, PARTS)
    key, step = example_key(jax.random.key(3), 2), jnp.int32(5)
    many = data(attack_keys(policy, role, key, step, 8))
    few = data(attack_keys(policy, role, key, step, 3))
    later = data(attack_keys(policy, role, key, step, 5, first=3))
    assert_same(jax.tree.map(lambda k: k[:3], many), few)
    assert_same(jax.tree.map(lambda k: k[3:], many), later)
    judging = data(judging_keys(policy, key, 8))
    assert_same(jax.tree.map(lambda k: k[:3], judging), data(judging_keys(policy, key, 3)))


def test_draws_extend_too():
    def drawn(n):
        return jax.random.normal(jax.random.key(4), (n, 5))

    chex.assert_trees_all_equal(drawn(8)[:3], drawn(3))


HEADLINES = {
    "fresh": ("own", "own"),
    "replay": ("own", "own"),
    "fixed": ("own", "own"),
    "fixed,judging=fixed": ("fixed", "fixed"),
    "replay,judging=fresh": ("unseen", "unseen"),
    "fresh,gradient=replay": ("unseen", "unseen"),
    "fresh,selection=replay": ("unseen", "unseen"),
    "fresh,judging=replay": ("own", "own"),
    "fresh,forward=replay": ("own", "own"),
    "replay,judging/reverse=fresh": ("own", "unseen"),
    "fresh,gradient/forward=replay": ("unseen", "own"),
}


@pytest.mark.parametrize(("text", "expected"), HEADLINES.items())
def test_keys_that_judge(text, expected):
    policy = parse_policy(text, PARTS)
    key = example_key(jax.random.key(0), 11)
    known = {
        "own": defense_key(key, 0),
        "unseen": stream(key, "unseen"),
        "fixed": jax.random.fold_in(stream(key, "attack/fixed"), 0),
    }
    judging = judging_keys(policy, key, JUDGING)
    own = jax.vmap(defense_key, (None, 0))(key, jnp.arange(JUDGING))
    for name, source in zip(PARTS, expected, strict=True):
        keys = data(draws(judging, name))
        assert_same(keys[0], data(part(known[source], name)))
        assert_same(keys[1:], data(draws(own, name))[1:])
        assert len(set(bits(keys))) == JUDGING


@settings(deadline=None, max_examples=20)
@given(policy_texts)
def test_judging_fresh_means_that_no_attack_saw_it(text):
    """Of every policy and part; and judging by replay, that it is what was replayed."""
    policy = parse_policy(text, PARTS)
    key = example_key(jax.random.key(0), 11)
    judging = judging_keys(policy, key, JUDGING)
    for name in PARTS:
        seen = set()
        for role in ("gradient", "selection"):
            keys = keys_of_all_steps(policy, role, key)
            seen |= set(bits(draws(keys, name)))
        headline, *others = bits(draws(judging, name))
        judged = policy.judging.of(name)
        if judged == "fresh":
            assert headline not in seen
        if judged == "replay":
            assert headline == bits(part(defense_key(key, 0), name))[0]
        assert not seen & set(others)


def test_part_keys_name_parts():
    a, b, c = jax.random.split(jax.random.key(0), 3)
    keys = PartKeys(a, {"reverse": b})
    assert_same(data(part(keys, "reverse")), data(part(b, "reverse")))
    assert_same(data(part(keys, "forward")), data(part(a, "forward")))
    assert bits(part(c, "forward")) != bits(part(c, "reverse"))


def test_noise_is_addressed_by_its_index():
    key, like = jax.random.key(2), jnp.zeros((3, 2, 1))
    noise = [noise_at(key, i, like) for i in range(4)]
    assert noise[0].shape == like.shape and noise[0].dtype == like.dtype
    for a, b in itertools.combinations(noise, 2):
        assert not np.any(np.asarray(a) == np.asarray(b))
    chex.assert_trees_all_equal(noise[3], jax.jit(noise_at)(key, 3, like))


@dataclass(frozen=True)
class Recorder:
    """A step rule that writes each step's noise into the image's row of its timestep."""

    rule: Ddim | Ddpm

    def timesteps(self, start):
        return self.rule.timesteps(start)

    def coefficients(self, schedule, timesteps):
        del schedule
        return timesteps.astype(np.float64), {"row": timesteps.astype(np.float64)}

    def step(self, c, x, prediction, noise):
        row = c["row"].astype(int)
        return x.at[row].set(noise[row])


def test_a_short_chain_meets_the_long_ones_noise():
    start = 11
    x = jnp.zeros((start + 1, 2, 1))
    denoiser = jax.tree_util.Partial(lambda x, t: x)
    chains = [
        make_chain(Linear(100), Recorder(rule), start)
        for rule in (Ddpm(), Ddim(num_steps=4))
    ]
    long, short = (
        np.asarray(reverse(chain, denoiser, jax.random.key(0), x)) for chain in chains
    )
    shared = np.asarray(chains[1].noise_index)
    assert len(shared) == 4 and np.all(long != 0)
    np.testing.assert_array_equal(short[shared], long[shared])
    assert np.all(np.delete(short, shared, 0) == 0)


def test_revpure_meets_the_noise_of_diffpures_first_round():
    denoiser = jax.tree_util.Partial(lambda x, t: x)
    x = jnp.full((4, 2, 1), 0.5)
    made = [
        make(denoiser, t_star=4, step_rule=Recorder(Ddpm())) for make in (DiffPure, RevPure)
    ]
    key = jax.random.key(0)
    chex.assert_trees_all_equal(*[purifier(key, x) for purifier in made])


def test_policy_is_static_and_hashable():
    policy = parse_policy("fresh,forward=replay", PARTS)
    assert hash(policy) == hash(parse_policy(str(policy), PARTS))
    assert isinstance(policy, Policy)
