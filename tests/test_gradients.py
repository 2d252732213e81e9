"""Gradient rules keep the value; the exact gradient is exact, and replays its noise."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxpure.defenses import PurifiedClassifier, denoiser_evaluations
from jaxpure.diffusion import Ddim, Ddpm, Linear, Ode, Sde, make_chain, reverse
from jaxpure.errors import UserError
from jaxpure.evaluation.identity import fingerprint
from jaxpure.gradients import GRADIENTS, Bpda, Exact, Surrogate, Transfer, WithDerivative
from jaxpure.keys import PartKeys, noise_at
from jaxpure.models.layers import SAME_3X3, conv2d
from jaxpure.purifiers import DiffPure, Identity, OneShot, RevPure, ddim
from jaxpure.pytrees import Static, pytree
from jaxpure.specs import build

SHAPE = (3, 2, 2)
SCHEDULE = Linear(100)

PURIFIERS = {
    "diffpure": lambda d: DiffPure(d, schedule=SCHEDULE, t_star=5, rounds=2),
    "diffpure_small": lambda d: DiffPure(
        d, schedule=SCHEDULE, t_star=5, step_rule=Ddpm("fixed_small")
    ),
    "diffpure_sde": lambda d: DiffPure(d, t_star=5, step_rule=Sde()),
    "diffpure_ode": lambda d: DiffPure(d, t_star=5, step_rule=Ode()),
    "revpure": lambda d: RevPure(d, schedule=SCHEDULE, t_star=5, scale_input=True),
    "ddim": lambda d: ddim(d, schedule=SCHEDULE, t_star=6, eta=0.5, num_steps=3),
    "one_shot": lambda d: OneShot(d, schedule=SCHEDULE, t_star=20, clip=False),
}


def denoiser(strength=0.7):
    """A smooth toy: mixes neighbouring pixels, so that the Jacobian is not diagonal."""

    def predict(strength, x, t):
        return strength * jnp.tanh(x + 0.5 * jnp.roll(x, 1, 0) + t / 1000)

    return jax.tree_util.Partial(predict, strength)


def image(seed=0, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).uniform(0.1, 0.9, SHAPE), dtype)


def weighted(purifier, key, x):
    """A scalar of the purified image whose derivative differs at every pixel."""
    weights = jnp.asarray(np.random.default_rng(9).normal(size=SHAPE), x.dtype)
    return jnp.sum(weights * purifier(key, x) ** 2)


@pytest.mark.parametrize("name", PURIFIERS)
def test_exact_gradient_is_that_of_finite_differences(name):
    with jax.enable_x64(True):
        purifier = Exact()(PURIFIERS[name](denoiser()))
        key, x = jax.random.key(1), image(dtype=np.float64)
        function = jax.jit(lambda x: purifier(key, x))
        check_grads(function, (x,), order=1, modes=["rev"])
        assert function(x).dtype == jnp.float64


@pytest.mark.parametrize("name", ["diffpure", "one_shot"])
def test_gradient_by_the_denoisers_parameters_is_exact(name):
    with jax.enable_x64(True):
        key, x = jax.random.key(1), image(dtype=np.float64)

        @jax.jit
        def function(strength):
            return weighted(PURIFIERS[name](denoiser(strength)), key, x)

        check_grads(function, (0.7,), order=1, modes=["rev"])


@pytest.mark.parametrize(
    ("rule", "remat"),
    [
        (Ddpm(), "step"),
        (Ddpm(), "products"),
        (Ddpm(), "none"),
        (Ddim(eta=0.5, num_steps=4), "step"),
        (Sde(), "step"),
    ],
)
def test_checkpointed_chain_is_the_plain_loop(rule, remat):
    """Value and gradient, against a loop in Python that knows no scan or checkpoint."""
    with jax.enable_x64(True):
        chain = make_chain(Linear(), rule, 9, remat)
        key, x, net = jax.random.key(3), image(dtype=np.float64), denoiser()

        def plain(key, x):
            for i, t in enumerate(chain.noise_index):
                coefficients = {name: c[i] for name, c in chain.coefficients.items()}
                noise = noise_at(key, int(t), x)
                prediction = net(x, jnp.asarray(chain.labels[i]))
                x = rule.step(coefficients, x, prediction, noise)
            return x

        def checkpointed(key, x):
            return reverse(chain, net, key, x)

        for a, b in (
            (plain(key, x), jax.jit(checkpointed)(key, x)),
            (
                jax.grad(weighted, 2)(plain, key, x),
                jax.jit(jax.grad(lambda k, x: weighted(checkpointed, k, x), 1))(key, x),
            ),
        ):
            assert np.all(np.isfinite(a)) and np.any(np.asarray(a) != 0)
            chex.assert_trees_all_close(a, b, rtol=1e-12, atol=1e-13)


def kept_a_step(net, remat):
    """What the backward pass of a longer chain stores for each step, in images."""

    def temporaries(t_star):
        purifier = RevPure(jax.tree_util.Partial(net), t_star=t_star, remat=remat)
        grad = jax.jit(jax.grad(lambda p, k, x: jnp.sum(p(k, x)), 2))
        x = jnp.zeros((16, 16, 1))
        compiled = grad.lower(purifier, jax.random.key(0), x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    return (temporaries(400) - temporaries(200)) / 200 / (4 * 16 * 16)


def test_the_chains_gradient_keeps_states_and_not_what_made_them():
    def wide(x, t):  # 64 times the image, none of which must be kept
        hidden = jnp.tanh(x[..., None] + jnp.linspace(0, 1, 64).reshape(1, 1, 1, -1))
        return jnp.mean(hidden * hidden, -1)

    assert 1 <= kept_a_step(wide, "step") < 4
    assert kept_a_step(wide, "products") < 4  # there is none
    assert kept_a_step(wide, "none") > 64


def test_products_alone_may_be_kept():
    kernel = jnp.ones((3, 3, 1, 64)) / 9

    def wide(x, t):  # a convolution to 64 channels, and three functions of it
        made = conv2d(x, kernel, padding=SAME_3X3)
        return jnp.mean(jnp.tanh(jnp.sin(jnp.exp(made))), -1, keepdims=True)

    assert 1 <= kept_a_step(wide, "step") < 4
    assert 64 <= kept_a_step(wide, "products") < 2 * 64
    assert kept_a_step(wide, "none") > 2 * 64


def test_what_cannot_be_computed_again_is_told():
    with pytest.raises(UserError, match="products"):
        DiffPure(denoiser(), t_star=3, remat="all")


@pytest.mark.parametrize("name", PURIFIERS)
@pytest.mark.parametrize("compiled", [False, True])
def test_bpda_has_the_value_to_the_bit_and_the_identitys_derivative(name, compiled):
    purifier = PURIFIERS[name](denoiser())
    maybe_jit = jax.jit if compiled else lambda f: f
    key, x, cotangent = jax.random.key(1), image(), image(5)

    def with_pullback(purifier, key, x):
        value, pullback = jax.vjp(lambda x: Bpda()(purifier)(key, x), x)
        return value, pullback(cotangent)[0]

    value = maybe_jit(lambda p, k, x: p(k, x))(purifier, key, x)
    through, pulled = maybe_jit(with_pullback)(purifier, key, x)
    chex.assert_trees_all_equal(through, value)
    chex.assert_trees_all_equal(pulled, cotangent)


def test_bpda_of_a_purifier_that_changes_the_shape_is_refused():
    crop = jax.tree_util.Partial(lambda key, x: x[1:])
    with pytest.raises(UserError, match="no derivative of one to"):
        Bpda()(crop)(jax.random.key(0), image())


def test_bpda_does_not_ask_for_a_derivative():
    """A purifier without one will do."""
    rounded = jax.tree_util.Partial(lambda key, x: jnp.round(8 * x) / 8)
    x = image()
    gradient = jax.grad(lambda x: jnp.sum(Bpda()(rounded)(jax.random.key(0), x)))(x)
    chex.assert_trees_all_equal(gradient, jnp.ones(SHAPE))


@pytest.mark.parametrize(
    "cheap",
    [
        lambda d: ddim(d, schedule=SCHEDULE, t_star=5, eta=1.0, num_steps=2),
        lambda d: OneShot(d, schedule=SCHEDULE, t_star=5),
        lambda d: Identity(),
    ],
)
def test_surrogate_has_one_value_and_anothers_derivative(cheap):
    purifier, cheap = PURIFIERS["diffpure"](denoiser()), cheap(denoiser())
    key, x, cotangent = jax.random.key(1), image(), image(5)
    both = Surrogate(cheap)(purifier)
    value, pullback = jax.vjp(lambda x: both(key, x), x)
    chex.assert_trees_all_equal(value, purifier(key, x))
    expected = jax.vjp(lambda x: cheap(key, x), x)[1](cotangent)
    chex.assert_trees_all_close(pullback(cotangent), expected, rtol=1e-6)
    if not isinstance(cheap, Identity):  # the derivative meets the key's own noise
        other = jax.vjp(lambda x: both(jax.random.key(2), x), x)[1](cotangent)
        assert np.max(np.abs(np.asarray(other[0] - expected[0]))) > 1e-4


def test_bpda_is_the_surrogate_by_the_identity():
    purifier = PURIFIERS["diffpure"](denoiser())
    key, x = jax.random.key(1), image()
    results = [
        jax.value_and_grad(weighted, 2)(rule, key, x)
        for rule in (Bpda()(purifier), Surrogate(Identity())(purifier))
    ]
    chex.assert_trees_all_equal(*results)


def test_what_a_rule_costs():
    purifier = PURIFIERS["diffpure"](denoiser())
    cheap = PURIFIERS["one_shot"](denoiser())
    assert denoiser_evaluations(Exact()(purifier)) == 10
    assert denoiser_evaluations(Bpda()(purifier)) == 10
    assert denoiser_evaluations(Surrogate(cheap)(purifier)) == 11
    assert denoiser_evaluations(Bpda()(jax.tree_util.Partial(lambda k, x: x))) is None


@pytest.mark.parametrize("name", PURIFIERS)
def test_same_key_same_bits_forward_and_backward(name):
    purifier = PURIFIERS[name](denoiser())
    run = jax.jit(jax.value_and_grad(weighted, 2))
    x = image()
    first, again = (run(purifier, jax.random.key(1), x) for _ in range(2))
    other = run(purifier, jax.random.key(2), x)
    chex.assert_trees_all_equal(first, again)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
        assert np.any(np.asarray(a) != np.asarray(b))


@pytest.mark.parametrize("name", ["diffpure", "ddim"])
def test_replaying_a_part_changes_the_other_part_alone(name):
    purifier = PURIFIERS[name](denoiser())
    run = jax.jit(jax.value_and_grad(weighted, 2))
    x, a, b = image(), jax.random.key(1), jax.random.key(2)
    whole = run(purifier, a, x)
    assert purifier.noise_parts == ("forward", "reverse")
    named = {"forward": a, "reverse": a}
    chex.assert_trees_all_equal(run(purifier, PartKeys(b, named), x), whole)
    values = {float(whole[0])}
    for part in named:
        split = run(purifier, PartKeys(b, {part: a}), x)
        other = PartKeys(a, {p: b for p in named if p != part})
        chex.assert_trees_all_equal(split, run(purifier, other, x))
        values.add(float(split[0]))
    assert len(values) == 3


def test_a_transfer_attack_sees_the_other_purifier_alone():
    purifier, other = PURIFIERS["diffpure"](denoiser()), Identity()
    assert Transfer(other)(purifier) is other


def test_rules_are_built_from_specs_with_the_denoiser_of_the_defense():
    net = denoiser()
    rule = build(GRADIENTS, "surrogate(one_shot(t_star=20))", denoiser=net)
    assert isinstance(rule.cheap, OneShot) and rule.cheap.denoiser is net
    assert isinstance(build(GRADIENTS, "transfer(identity)"), Transfer)
    assert build(GRADIENTS, "exact")(net) is net


def test_structures_of_two_classes_are_never_one():
    """Else `jit` may run for one what it compiled for the other."""

    @pytree
    class Twin:
        cheap: float

    @pytree
    class Marked:
        cheap: float
        marked: Static[bool] = True

    trees = [WithDerivative(1, 2), PurifiedClassifier(1, 2), PartKeys(1, 2)]
    trees += [Surrogate(1), Transfer(1), Twin(1), Marked(1), Marked(1, False)]
    for a, b in itertools.combinations(map(jax.tree.structure, trees), 2):
        assert a != b
    for tree in trees:
        leaves, structure = jax.tree.flatten(tree)
        again = jax.tree.unflatten(structure, leaves)
        assert type(again) is type(tree) and jax.tree.leaves(again) == leaves
        assert jax.tree.structure(again) == structure
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(trees[0])]
    assert [jax.tree_util.keystr(p) for p in paths] == [".purifier", ".derivative"]


def test_checks_run_when_a_user_builds_a_thing_and_not_when_jax_does():
    built = []

    @pytree
    class Checked:
        x: float

        def __post_init__(self):
            built.append(self.x)

    thing = Checked(1.0)
    doubled = jax.jit(lambda t: jax.tree.map(lambda a: 2 * a, t))(thing)
    assert built == [1.0] and float(doubled.x) == 2.0


def test_what_is_computed_again_is_no_part_of_what_an_evaluation_is():
    usual, other = (DiffPure(denoiser(), t_star=3, remat=r) for r in ("step", "none"))
    assert fingerprint(usual) == fingerprint(other)
    assert "'none'" not in str(jax.tree.structure(other))
    assert jax.tree.structure(usual) != jax.tree.structure(other)  # compiled for each
    assert jax.tree.map(lambda x: x, other).remat == "none"
    assert jax.tree.map(lambda x: x, other).chain.remat == "none"
