"""FAB-T against auto-attack's: minimum norms, images, paths, and who falls at eps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import nhwc

from jaxpure.attacks import Fab
from jaxpure.policy import PRESETS
from jaxpure.pytrees import choose

from . import reference

POLICY = PRESETS["fresh"]
FOLLOWED = 4  # images whose path is stored


def cases(quick):
    for classifier in ("gray8", "rgb16"):
        for norm in ("Linf", "L2"):
            for dtype in ("float64", "float32"):
                marks = [] if quick(classifier, norm, dtype) else [pytest.mark.slow]
                yield pytest.param(norm, classifier, dtype, marks=marks)


CASE = ("norm", "classifier", "dtype")


def follow(problem, eps, calls, num_steps=100, first_run=0, count=None):
    """The last states and a few paths of the first `count` images, as numpy arrays."""
    attack = Fab(num_steps=num_steps)
    objective = attack.objective(problem.defense, POLICY)
    calls = jnp.arange(attack.budget(objective).calls if calls is None else calls)
    rows = problem.keys[:count], problem.x[:count], problem.y[:count]
    found = run_through(attack, objective, problem.ball(eps), *rows, first_run, calls)
    return jax.tree.map(np.asarray, found)


@jax.jit
def run_through(attack, objective, ball, keys, x, y, first_run, calls):
    """States after `calls` steps from the run of that number on; and a few's `x`."""

    def begin(key, x, y):
        state = attack.init(objective, ball, key, x, y)
        return state._replace(count=jnp.full_like(state.count, first_run))

    def one(state):
        return choose(state.progress.done, state, attack.step(objective, ball, state))

    def body(states, _):
        states = jax.vmap(one)(states)
        return states, states.x[:FOLLOWED]

    last, path = jax.lax.scan(body, jax.vmap(begin)(keys, x, y), calls)
    return last._replace(example=()), path


@jax.jit
def misclassified(defense, images, y):
    """Of images `(calls, n, H, W, C)`, which are: `(calls, n)`."""
    one = jax.vmap(lambda x, y: jnp.argmax(defense(jax.random.key(0), x)) != y)
    return jax.lax.map(lambda x: one(x, y), images)


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
        problem = reference.load(stored, dtype)
        last, path = follow(problem, 0.0, 101, first_run=rank - 2)
        early, _ = follow(problem, 0.0, 6, num_steps=5, first_run=rank - 2)
        x, progress = np.asarray(problem.x), last.progress
        if f"x1_traj_{name}" in stored:
            # Theirs is written down before a misclassified iterate goes back.
            want = nhwc(stored[f"x1_traj_{name}"])
            shown = jnp.asarray(want[:, :FOLLOWED], dtype)
            wrong = misclassified(problem.defense, shown, problem.y[:FOLLOWED])
            wrong = np.asarray(wrong)[..., None, None, None]
    np.testing.assert_array_equal(np.isfinite(last.distance), stored[f"fooled_{name}"])
    check_norms(last.distance, stored[f"norm_{name}"], dtype)
    check_norms(early.distance, stored[f"norm_5iter_{name}"], dtype)
    # Nothing lies in a ball without radius: the result is the clean image.
    np.testing.assert_array_equal(progress.adversarial, x)
    assert (progress.broken_at == -1).all()

    if dtype == "float64":
        x_adv = nhwc(stored[f"x_adv_{name}"])
        np.testing.assert_allclose(last.nearest[: len(x_adv)], x_adv, rtol=0, atol=1e-7)
    if f"x1_traj_{name}" in stored:
        clean, found = x[:FOLLOWED], path[1 : 1 + len(want)]
        gone_back = np.where(wrong, clean + 0.9 * (want - clean), want)
        error = np.abs(found - gone_back).max()
        assert error < {"float64": 1e-7, "float32": 1e-5}[dtype]


@pytest.mark.parametrize(
    CASE, list(cases(lambda *case: case == ("gray8", "Linf", "float64")))
)
def test_the_same_images_fall(golden, norm, classifier, dtype):
    """All nine targets, the norm that of the run in which an image falls.

    Of the larger images, whose projections sort 768 pixels, a part.
    """
    count = {"gray8": reference.COUNT, "rgb16": 16}[classifier]
    stored = golden(f"attack_fab_{norm}_{classifier}")
    name = dtype.replace("float", "f")
    with jax.enable_x64(dtype == "float64"):
        problem = reference.load(stored, dtype)
        last, _ = follow(problem, None, None, count=count)
        x = np.asarray(problem.x)[:count]
        eps, progress = problem.meta["eps"], last.progress
    assert progress.done.all()
    fallen = progress.broken_at >= 0
    np.testing.assert_array_equal(fallen, stored[f"success_{name}"][:count])
    check_norms(last.distance[fallen], stored[f"norm_{name}"][:count][fallen], dtype)
    assert (last.distance[~fallen] > eps).all()
    np.testing.assert_array_equal(progress.adversarial[~fallen], x[~fallen])
    np.testing.assert_array_equal(progress.adversarial[fallen], last.nearest[fallen])
