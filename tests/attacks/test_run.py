"""One call on one image or many; what an attack costs is what it says that it does."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpure import attacks
from jaxpure.attacks import Linf, Pgd
from jaxpure.defenses import PurifiedClassifier
from jaxpure.errors import UserError
from jaxpure.keys import part
from jaxpure.losses import margin
from jaxpure.pytrees import pytree

from . import toys
from .cases import BALL_CASES, CASES

FRESH = toys.policy("fresh")


def examples(n, defense=toys.UNDEFENDED):
    rows = [toys.example(i, defense) for i in range(n)]
    return tuple(jnp.stack(column) for column in zip(*rows, strict=True))


# A cascade on many images.


@pytree
class InTurn:
    """Two attacks in turn."""

    first: Any
    second: Any

    def attacks(self):
        return (("first", self.first), ("second", self.second))


GENTLE = Pgd(step_size=0.004, num_steps=2, random_start=False)
STRONG = Pgd(step_size=0.03, num_steps=6, random_start=False)


def run(attack, rows, ball, defense=toys.UNDEFENDED, **options):
    keys, *rest = rows
    return attacks.run(
        attack, defense, jax.random.clone(keys), *rest, ball=ball, policy=FRESH, **options
    )


def test_each_attack_goes_on_with_what_stands():
    keys, x, labels = examples(12)
    labels = labels.at[0].set((labels[0] + 1) % toys.CLASSES)  # wrong before any attack
    rows, ball = (keys, x, labels), Linf(0.06)
    first, second = (run(each, rows, ball) for each in (GENTLE, STRONG))
    both = run(InTurn(GENTLE, STRONG), rows, ball)
    assert both.broken[0] and both.evaluations[0] == 0
    np.testing.assert_array_equal(both.adversarial[0], x[0])
    by_first = np.asarray(first.broken).copy()
    by_second = np.asarray(second.broken) & ~by_first
    np.testing.assert_array_equal(both.broken, by_first | by_second)
    np.testing.assert_array_equal(both.adversarial[by_first], first.adversarial[by_first])
    np.testing.assert_array_equal(
        both.adversarial[by_second], second.adversarial[by_second]
    )
    spent = np.asarray(first.evaluations) + np.where(by_first, 0, second.evaluations)
    np.testing.assert_array_equal(both.evaluations, spent)
    # Where it stands: of both attempts the one of larger margin.
    stands = ~np.asarray(both.broken)
    margins = [reached(found, labels)[stands] for found in (both, first, second)]
    np.testing.assert_allclose(margins[0], np.maximum(*margins[1:]), atol=1e-6)
    assert by_first[1:].any() and by_second.any() and stands.any()


@jax.jit
def reached(found, labels):
    logits = jax.vmap(toys.UNDEFENDED.classifier)(found.adversarial)
    return jax.vmap(margin)(logits, labels)


def test_the_plain_defense_judges_and_not_what_the_attack_sees():
    """A stand-in whose classes are turned around: what it calls broken stays as it was."""
    rows = examples(6)
    weights = toys.UNDEFENDED.classifier.args[0]
    seen = toys.undefended(jax.tree_util.Partial(toys.bent, -weights))
    found = run(GENTLE, rows, Linf(0.01), seen=seen)
    logits = jax.jit(jax.vmap(toys.UNDEFENDED.classifier))(found.adversarial)
    wrong = np.argmax(np.asarray(logits), 1) != np.asarray(rows[2])
    np.testing.assert_array_equal(found.broken, wrong)
    assert not wrong.all()


@pytest.mark.parametrize("kind", ["nan", "infinite"])
def test_a_defense_that_is_not_finite_is_broken_before_any_attack(kind):
    keys, x, _ = examples(2)
    rows = keys, x, jnp.zeros(2, jnp.int32)
    found = run(GENTLE, rows, Linf(0.1), toys.failing_defense(kind))
    assert found.broken.all() and not found.evaluations.any()


def test_gradients_of_no_use_are_told():
    keys, x, _ = examples(2)
    rows = keys, x, jnp.zeros(2, jnp.int32)
    for kind, name in (("infinite slope", "bad"), ("flat", "zero")):
        found = run(InTurn(GENTLE, GENTLE), rows, Linf(0.1), toys.failing_defense(kind))
        assert not found.broken.any()
        counts = {"bad": found.bad_gradients, "zero": found.zero_gradients}
        np.testing.assert_array_equal(counts.pop(name), [6, 6])  # all, of both attacks
        assert not counts.popitem()[1].any()


@pytest.mark.parametrize(
    "misfit",
    [
        lambda key, x, label: (key, x[0], label),
        lambda key, x, label: (key[None], x, label),
        lambda key, x, label: (key, x, label[None]),
        lambda key, x, label: (key, x[None], label[None]),
    ],
)
def test_images_keys_and_labels_that_do_not_fit_are_refused(misfit):
    row = misfit(jax.random.key(0), toys.image(), jnp.int32(0))
    with pytest.raises(UserError, match=r"got images .*, keys .* and labels .*: expected"):
        attacks.run(GENTLE, toys.UNDEFENDED, *row, ball=Linf(0.1))


# What a step costs.


MARK = (7, 13)


@pytree(eq=False)
class Marked(toys.Noisy):
    """Every purification draws bits of an odd shape, which its derivatives do not."""

    def trajectory(self, key, x):
        bits = jax.random.bits(part(key, "forward"), MARK, "uint16")
        return super().trajectory(key, x + 0.0 * jnp.mean(bits.astype(x.dtype)))


def marks(jaxpr) -> int:
    """Purifications that a traced program makes, loops counted by their lengths."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "random_bits":
            total += eqn.outvars[0].aval.shape == MARK
        inner = jax.tree.leaves(list(eqn.params.values()), is_leaf=is_program)
        times = eqn.params.get("length", 1)
        total += times * sum(marks(p.jaxpr) for p in inner if is_program(p))
    return total


def is_program(x) -> bool:
    return hasattr(x, "jaxpr")


PARTS = [(name, i) for name, case in CASES.items() for i in range(len(case.parts))]


@pytest.mark.parametrize(("name", "i"), PARTS)
def test_a_step_calls_the_defense_as_often_as_its_budget_says(name, i):
    """Under policies that differ in it."""
    attack, ball = CASES[name].parts[i], BALL_CASES[CASES[name].balls[0]]
    defense = PurifiedClassifier(Marked(0.05), toys.bent_classifier())
    seen = set()
    for policy in ("fresh", "fixed", "replay,selection=fresh", "replay"):
        objective = attack.objective(defense, toys.policy(policy))

        def one(key, x, objective=objective):
            state = attack.init(objective, ball, key, x, jnp.int32(0))
            return attack.step(objective, ball, state)

        program = jax.make_jaxpr(one)(jax.random.key(0), toys.image())
        budget = attack.budget(objective)
        assert marks(program.jaxpr) == budget.gradient_draws + budget.forward_draws, policy
        seen.add(marks(program.jaxpr))
    # Hill's protocol is its draws; one draw is one under any policy.
    assert len(seen) > 1 or name == "bpda_eot_hill" or attack.eot_samples == 1
