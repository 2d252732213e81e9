"""FAB-T against auto-attack's: minimum norms, images, paths, and who falls at eps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import nhwc

from jaxpure import randomness
from jaxpure.attacks import Fab

from . import toys

POLICY = randomness.PRESETS["fresh"]
FOLLOWED = 4  # images whose path is stored


def cases(quick):
    for classifier in ("gray8", "rgb16"):
        for norm in ("Linf", "L2"):
            for dtype in ("float64", "float32"):
                marks = [] if quick(classifier, norm, dtype) else [pytest.mark.slow]
                yield pytest.param(norm, classifier, dtype, marks=marks)


CASE = ("norm", "classifier", "dtype")


def fab(toy, eps, num_steps=100):
    norm = toy.meta["norm"].lower()
    return Fab.create(toy.defense, POLICY, eps=eps, num_steps=num_steps, norm=norm)


@jax.jit
def run_through(attack, keys, x, y, first_run, calls):
    """States after `calls` steps from the run of that number on; and a few's `x`."""

    def begin(key, x, y):
        state = attack.init(key, x, y)
        return state._replace(count=jnp.full_like(state.count, first_run))

    def body(states, _):
        states = jax.vmap(lambda s: randomness.choose(s.done, s, attack.step(s)))(states)
        return states, states.x[:FOLLOWED]

    last, path = jax.lax.scan(body, jax.vmap(begin)(keys, x, y), calls)
    return last._replace(key=()), path


def check_norms(got, want, dtype):
    error = np.abs(got - want) / want
    if dtype == "float64":
        assert error.max() < 1e-7
    else:
        assert np.median(error) < 1e-4 and error.max() < 5e-2


def is_quick(classifier, norm, dtype):
    return classifier == "gray8" and (norm == "Linf" or dtype == "float64")


@pytest.mark.parametrize(CASE, list(cases(is_quick)))
@pytest.mark.parametrize("rank", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_minimum_norms_are_the_references(golden, norm, classifier, dtype, rank):
    """One run for the class of this rank, whatever eps."""
    stored = golden(f"attack_fab_{norm}_{classifier}")
    name = f"t{rank}_{dtype.replace('float', 'f')}"
    with jax.enable_x64(dtype == "float64"):
        toy = toys.load(stored, dtype)
        run = partial(run_through, keys=toy.keys, x=toy.x, y=toy.y, first_run=rank - 2)
        last, path = run(fab(toy, 0.0), calls=jnp.arange(101))
        early, _ = run(fab(toy, 0.0, 5), calls=jnp.arange(6))
        last, path, early, toy = jax.tree.map(
            np.asarray, (last, path, early, toy._replace(keys=()))
        )
    np.testing.assert_array_equal(np.isfinite(last.distance), stored[f"fooled_{name}"])
    check_norms(last.distance, stored[f"norm_{name}"], dtype)
    check_norms(early.distance, stored[f"norm_5iter_{name}"], dtype)
    # Nothing lies in a ball without radius: the result is the clean image.
    np.testing.assert_array_equal(last.adversarial, toy.x)
    assert (last.broken_at == -1).all()

    if dtype == "float64":
        x_adv = nhwc(stored[f"x_adv_{name}"])
        np.testing.assert_allclose(last.nearest[: len(x_adv)], x_adv, rtol=0, atol=1e-7)
    if f"x1_traj_{name}" in stored:
        # Theirs is written down before a misclassified iterate goes back.
        want = nhwc(stored[f"x1_traj_{name}"])
        clean, found = toy.x[:FOLLOWED], path[1 : 1 + len(want)]
        gone_back = np.abs(clean + (found - clean) / 0.9 - want).max((2, 3, 4))
        stayed = np.abs(found - want).max((2, 3, 4))
        error = np.minimum(gone_back, stayed).max()
        assert error < {"float64": 1e-7, "float32": 1e-5}[dtype]


@pytest.mark.parametrize(
    CASE, list(cases(lambda *case: case == ("gray8", "Linf", "float64")))
)
def test_the_same_images_fall(golden, norm, classifier, dtype):
    """All nine targets, the norm that of the run in which an image falls."""
    stored = golden(f"attack_fab_{norm}_{classifier}")
    name = dtype.replace("float", "f")
    with jax.enable_x64(dtype == "float64"):
        toy = toys.load(stored, dtype)
        attack = fab(toy, toy.meta["eps"])
        calls = jnp.arange(attack.max_steps)
        last, _ = run_through(attack, toy.keys, toy.x, toy.y, 0, calls)
        last, x = jax.tree.map(np.asarray, (last, toy.x))
    assert last.done.all()
    fallen = last.broken_at >= 0
    np.testing.assert_array_equal(fallen, stored[f"success_{name}"])
    check_norms(last.distance[fallen], stored[f"norm_{name}"][fallen], dtype)
    assert (last.distance[~fallen] > toy.meta["eps"]).all()
    np.testing.assert_array_equal(last.adversarial[~fallen], x[~fallen])
    np.testing.assert_array_equal(last.adversarial[fallen], last.nearest[fallen])
