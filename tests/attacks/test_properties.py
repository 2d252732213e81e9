"""What holds for every registered attack, in every ball that it takes."""

import dataclasses
import inspect
import typing

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure import attacks
from jaxpure.attacks import ATTACKS, BALLS, Attack, Composite, Square
from jaxpure.errors import UserError
from jaxpure.losses import LOSSES
from jaxpure.pytrees import is_key, is_static
from jaxpure.specs import SpecError, build, options_of, spec_of

from . import toys
from .cases import BALL_CASES, CASES, LOSS_CASES

N = 4
TRACES: list[str] = []


@pytest.fixture(autouse=True)
def the_same_rows_run_many_times():
    """Keys are used again on purpose here, which is what replay is."""
    with jax.debug_key_reuse(False):
        yield


def every(*, needs: str | None = None):
    """`(attack name, stage number, ball name)` for every stage of every attack."""
    return [
        pytest.param(name, i, ball, id=f"{name}-{i}-{ball}")
        for name, case in CASES.items()
        for i in range(len(case.parts))
        for ball in case.balls
        if needs in (None, "queries" if isinstance(case.parts[i], Square) else "gradient")
    ]


each = pytest.mark.parametrize(("name", "i", "ball"), every())
each_attack = pytest.mark.parametrize("name", CASES)


@jax.jit
def batch(attack, objective, ball, keys, x, labels):
    """What is kept in the end of each image's search."""
    TRACES.append(type(attack).__name__)

    def one(key, x, label):
        return attacks.search(attack, objective, ball, key, x, label)

    return jax.vmap(one)(keys, x, labels)


def examples(n=N, first=0, defense=toys.DEFENSE):
    rows = [toys.example(first + i, defense) for i in range(n)]
    return tuple(jnp.stack(column) for column in zip(*rows, strict=True))


def searched(name, i, ball, rows, *, defense=toys.DEFENSE, policy="fresh", **options):
    """Progress of the stage on these rows; options of the attack replaced."""
    attack = dataclasses.replace(CASES[name].parts[i], **options)
    if isinstance(ball, str):
        ball = BALL_CASES[ball]
    objective = attack.objective(defense, toys.policy(policy))
    return attack, objective, batch(attack, objective, ball, *rows)


def test_every_registered_attack_ball_and_loss_has_a_case():
    assert set(CASES) == set(ATTACKS)
    assert set(BALL_CASES) == set(BALLS)
    assert set(LOSS_CASES) == set(LOSSES)
    for name, case in CASES.items():
        assert type(case.attack) is ATTACKS[name]
        assert case.balls, name


@each_attack
def test_attacks_are_attacks(name):
    attack = CASES[name].attack
    assert isinstance(attack, Attack) != isinstance(attack, Composite)
    for stage in toys.stages(attack, toys.DEFENSE):
        assert isinstance(stage.attack, Attack)
        ball = BALL_CASES[CASES[name].balls[0]]
        key, x, label = toys.example(0)
        state = jax.eval_shape(stage.attack.init, stage.objective, ball, key, x, label)
        after = jax.eval_shape(stage.attack.step, stage.objective, ball, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(
            *(
                jax.tree.map(lambda s: jnp.zeros(s.shape), s)
                for s in without_keys(state, after)
            )
        )


def without_keys(*states):
    return tuple(
        jax.tree.map(lambda s: None if is_key(s) else s, state) for state in states
    )


@each
def test_images_stay_in_the_ball_and_the_range_and_the_search_in_its_budget(name, i, ball):
    """For a small, a usual and a large radius, and nothing is compiled anew for it."""
    rows, before = examples(), None
    for share in (0.05, 1.0, 3.0):
        radius = (
            min(share * toys.EPS[ball], 1.0) if ball == "linf" else share * toys.EPS[ball]
        )
        made = BALLS[ball](radius)
        attack, objective, found = searched(name, i, made, rows)
        before = len(TRACES) if before is None else before
        images, originals = np.asarray(found.adversarial), np.asarray(rows[1])
        assert np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1
        assert made.excess(images, originals).max() <= 1e-6
        assert found.done.all() and not found.nonfinite.any()
        calls = attack.budget(objective).calls
        assert (found.evaluations >= 1).all() and (found.evaluations <= calls).all()
        assert (found.broken_at < found.evaluations).all() and (found.broken_at >= -1).all()
        assert not found.bad_gradients.any()
    assert len(TRACES) == before


@each
def test_a_ball_of_no_radius_holds_the_image_alone(name, i, ball):
    rows = examples()
    _, _, found = searched(name, i, BALLS[ball](0.0), rows)
    np.testing.assert_array_equal(found.adversarial, rows[1])


@each
def test_the_key_decides_and_neighbours_do_not(name, i, ball):
    rows = examples()
    _, _, found = searched(name, i, ball, rows)
    _, _, again = searched(name, i, ball, rows)
    chex.assert_trees_all_equal(found, again)
    order = np.array([2, 0, 3, 1])
    _, _, permuted = searched(name, i, ball, tuple(r[order] for r in rows))
    chex.assert_trees_all_equal(permuted, jax.tree.map(lambda r: r[order], found))
    others = examples(first=50)  # the same row, among others
    mixed = tuple(
        r.at[0].set(s[0]) if not is_key(r) else joined(s, r)
        for r, s in zip(others, rows, strict=True)
    )
    _, _, among = searched(name, i, ball, mixed)
    first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)  # noqa: E731
    chex.assert_trees_all_equal(first(among), first(found))


def joined(first, others):
    first, others = (jax.random.key_data(jax.random.clone(k)) for k in (first, others))
    return jax.random.wrap_key_data(jnp.concatenate([first[:1], others[1:]]))


@each_attack
def test_another_key_searches_otherwise(name):
    ball = CASES[name].balls[0]
    rows = examples()
    other = jax.vmap(lambda k: jax.random.fold_in(k, 1))(jax.random.clone(rows[0]))
    found = [searched(name, 0, ball, (keys, *rows[1:]))[2] for keys in (rows[0], other)]
    assert not np.array_equal(found[0].adversarial, found[1].adversarial)


@pytest.mark.parametrize(
    "name",
    [n if n == "pgd" else pytest.param(n, marks=pytest.mark.slow) for n in CASES],
)
def test_a_row_by_itself_is_the_batchs(name):
    """`run` on one image and on many; a batch of one may round otherwise."""
    case = CASES[name]
    ball, rows = BALL_CASES[case.balls[0]], examples(3)
    options = {"ball": ball, "policy": toys.policy("fixed")}
    attack = case.parts[0]
    many = attacks.run(attack, toys.DEFENSE, *rows, **options)
    for j in range(2):
        row = (jax.random.clone(r)[j] if is_key(r) else r[j] for r in rows)
        one = attacks.run(attack, toys.DEFENSE, *row, **options)
        np.testing.assert_allclose(one.adversarial, many.adversarial[j], atol=2e-5)
        assert bool(one.broken) == bool(many.broken[j])


@each_attack
def test_other_numbers_compile_nothing_anew(name):
    """Step size, number of steps, radius: all are leaves of the program's arguments."""
    case = CASES[name]
    attack, ball = case.parts[0], case.balls[0]
    numbers = {
        field.name: value * 1.25 if isinstance(value, float) else value + 1
        for field in dataclasses.fields(attack)
        if not is_static(field.type)
        and isinstance(value := getattr(attack, field.name), int | float)
        and field.name not in ("rho", "beta", "alpha_max", "p_init")
    }
    assert numbers
    rows = examples()
    _, _, found = searched(name, 0, ball, rows)
    before = len(TRACES)
    _, _, other = searched(name, 0, BALLS[ball](0.9 * toys.EPS[ball]), rows, **numbers)
    assert len(TRACES) == before
    assert not np.array_equal(found.adversarial, other.adversarial)


@pytest.mark.long
@each_attack
def test_without_jit_it_is_the_same(name):
    case = CASES[name]
    attack, ball = case.parts[0], BALL_CASES[case.balls[0]]
    objective = attack.objective(toys.DEFENSE, toys.policy("fresh"))
    key, x, label = toys.example(1)
    state = attack.init(objective, ball, key, x, label)
    step = jax.jit(attack.step)
    for _ in range(2):
        compiled = step(objective, ball, state)
        with jax.disable_jit():
            plain = attack.step(objective, ball, state)
        chex.assert_trees_all_close(*without_keys(compiled, plain), rtol=1e-4, atol=1e-5)
        state = compiled


@pytest.mark.parametrize(
    ("name", "i", "ball"),
    [p for p in every(needs="gradient") if p.values[2] in ("linf", "flow")],
)
@pytest.mark.parametrize("kind", toys.FAILURES)
def test_gradients_of_no_use_are_counted_and_not_used(name, i, ball, kind):
    """Bad ones are not finite, zero ones are zero; neither breaks an image."""
    rows = examples(2)
    rows = (*rows[:2], jnp.zeros(2, jnp.int32))
    defense = toys.failing_defense(kind)
    _, _, found = searched(name, i, ball, rows, defense=defense)
    images = np.asarray(found.adversarial)
    assert np.isfinite(images).all() and (found.broken_at == -1).all()
    assert BALL_CASES[ball].excess(images, np.asarray(rows[1])).max() <= 1e-6
    bad, zero = found.bad_gradients, found.zero_gradients
    if kind == "flat":
        assert not bad.any()
        if name != "diffattack":  # whose deviation has a gradient all the same
            assert (zero == found.evaluations).all()
    else:
        assert not zero.any()
        if name == "diffhammer" and kind == "infinite slope":
            return  # its gradient is that of the classifier at the purified image
        assert (bad == found.evaluations).all()
    if kind in ("nan", "infinite"):  # no draw was right
        assert (found.lost == 1).all() and found.vote_lost.all()


@each_attack
def test_an_iterate_that_is_not_finite_is_counted(name):
    """An image with a NaN: the search has gone astray, and says so."""
    if CASES[name].needs == "queries":
        return
    keys, images, labels = examples()
    rows = keys, images.at[0, 0, 0, 0].set(jnp.nan), labels
    _, _, found = searched(name, 0, CASES[name].balls[0], rows)
    assert found.nonfinite[0] >= 1 and found.broken_at[0] == -1
    assert not found.nonfinite[1:].any()


@each_attack
def test_a_replaying_attack_breaks_what_judges_it_and_stops_there(name):
    """Broken is misclassified under judging key 0, and no evaluation follows."""
    case = CASES[name]
    name_of_ball = case.balls[0]
    radius = min(5 * toys.EPS[name_of_ball], 0.8)
    options = {
        o: v
        for o, v in {"step_size": radius / 3, "num_steps": 12, "num_queries": 60}.items()
        if hasattr(case.parts[0], o)
    }
    rows = examples()
    _, _, found = searched(
        name, 0, BALLS[name_of_ball](radius), rows, policy="replay", **options
    )
    broken = found.broken_at >= 0
    for j in range(N):
        predicted = toys.predicted(toys.DEFENSE, rows[0][j], found.adversarial[j])
        assert bool(broken[j]) == (int(predicted) != int(rows[2][j]))
        if broken[j]:
            assert int(found.evaluations[j]) == int(found.broken_at[j]) + 1
    assert broken.any()


@each_attack
def test_samples_of_a_replayed_defense_are_one_sample(name):
    if name == "bpda_eot_hill":  # whose protocol is its draws
        return
    found = []
    rows, ball = examples(), CASES[name].balls[0]
    for n in (1, 2):
        attack, objective, kept = searched(
            name, 0, ball, rows, policy="replay", eot_samples=n
        )
        budget = attack.budget(objective)
        assert budget.verdict_draws == 1 and budget.gradient_draws <= 1
        found.append(kept.adversarial)
    np.testing.assert_array_equal(*found)


@each_attack
def test_a_wrong_ball_is_refused(name):
    case = CASES[name]
    for ball in set(BALLS) - set(case.balls):
        with pytest.raises(UserError, match=f"attacks in .*not in {ball}.*another attack"):
            attacks.run(
                case.parts[-1], toys.DEFENSE, *toys.example(0), ball=BALL_CASES[ball]
            )


# Specs and signatures.


@each_attack
def test_a_spec_builds_an_equal_attack(name):
    for attack in (CASES[name].attack, ATTACKS[name]()):
        text = spec_of(attack, ATTACKS)
        assert build(ATTACKS, text) == attack
        assert spec_of(build(ATTACKS, text), ATTACKS) == text
    assert build(ATTACKS, name) == ATTACKS[name]()


@each_attack
def test_defaults_of_a_spec_are_those_of_the_signature(name):
    signature = inspect.signature(ATTACKS[name]).parameters
    options = options_of(ATTACKS[name])
    assert list(options) == list(signature)
    attack = build(ATTACKS, name)
    for option, parameter in signature.items():
        assert options[option].default == parameter.default
        assert getattr(attack, option) == parameter.default


@each_attack
def test_an_unknown_option_lists_the_known_ones(name):
    known = list(options_of(ATTACKS[name]))
    closest = known[0]
    with pytest.raises(SpecError) as error:
        build(ATTACKS, f"{name}({closest}s=1)")
    assert f"Did you mean {closest!r}" in str(error.value)
    for option in known:
        assert option in str(error.value)


def numeric_options():
    for name in ATTACKS:
        for option in options_of(ATTACKS[name]).values():
            if option.type in (int, float):
                yield pytest.param(name, option.name, id=f"{name}-{option.name}")


ZERO_IS_SOUND = {
    "momentum",
    "rho",
    "alpha_max",
    "beta",
    "tau",
    "em_lambda",
    "em_alpha",
    "deviation_weight",
    "verify_samples",
}


@pytest.mark.parametrize(("name", "option"), list(numeric_options()))
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "0"])
def test_numbers_that_make_no_sense_are_refused_by_name(name, option, value):
    """From a spec and from Python alike."""
    if value == "0" and option in ZERO_IS_SOUND:
        build(ATTACKS, f"{name}({option}=0)")
        return
    with pytest.raises(UserError, match=option):
        build(ATTACKS, f"{name}({option}={value})")
    for number in {float(value), int(value) if value in "-10" else float(value)}:
        with pytest.raises(UserError, match=option):
            attack = ATTACKS[name](**{option: number})
            for stage in toys.stages(attack, toys.DEFENSE):
                stage.attack.init(stage.objective, BALL_CASES["linf"], *toys.example(0))


def choices():
    for name in ATTACKS:
        for option in options_of(ATTACKS[name]).values():
            if typing.get_origin(option.type) is typing.Literal or option.name == "loss":
                yield pytest.param(name, option.name, id=f"{name}-{option.name}")


@pytest.mark.parametrize(("name", "option"), list(choices()))
def test_unknown_choices_are_refused_with_the_known_ones(name, option):
    default = str(options_of(ATTACKS[name])[option].default)
    with pytest.raises(UserError, match=option) as error:
        build(ATTACKS, f"{name}({option}={default}s)")
    assert default in str(error.value)
    with pytest.raises(UserError, match=option):
        attack = ATTACKS[name](**{option: f"{default}s"})
        toys.stages(attack, toys.DEFENSE)
