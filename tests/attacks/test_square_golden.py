"""Square attack against auto-attack's: as many images fall, after as many queries."""

import jax
import numpy as np
import pytest

from jaxpure.attacks import Square, search
from jaxpure.policy import PRESETS

from . import reference

POLICY = PRESETS["replay"]


def cases():
    for norm in ("Linf", "L2"):
        for classifier in ("gray8", "rgb16"):
            for eps in (0, 1) if norm == "Linf" else (0,):
                quick = eps == 0 and (norm, classifier) != ("Linf", "rgb16")
                marks = [] if quick else [pytest.mark.slow]
                yield pytest.param(norm, classifier, eps, marks=marks)


@jax.jit
def run(attack, objective, ball, keys, x, y):
    """What the attack keeps in the end."""
    return jax.vmap(lambda *example: search(attack, objective, ball, *example))(keys, x, y)


@pytest.mark.parametrize(("norm", "classifier", "eps"), list(cases()))
def test_as_many_images_fall(golden, norm, classifier, eps):
    stored = golden(f"attack_square_{norm}_{classifier}")
    problem = reference.load(stored, "float32")
    radius = np.unique(stored["eps"])[eps]
    runs = stored["eps"] == radius
    queries = {"Linf": 5000, "L2": 1000}[norm]
    attack = Square(num_queries=queries)
    objective = attack.objective(problem.defense, POLICY)
    ball = problem.ball(radius)
    last = run(attack, objective, ball, problem.keys, problem.x, problem.y)
    assert last.done.all()
    fallen = np.asarray(last.broken_at >= 0)
    assert abs(np.sum(fallen) - stored["success"][runs].sum(1).mean()) <= 3

    # Both count the first image as query 1. Medians of their runs are up to a factor of
    # two apart.
    theirs = np.median(stored["queries"][runs][stored["success"][runs]])
    ours = np.median(last.broken_at[fallen])
    assert theirs / 2.5 < ours < theirs * 2.5

    change = np.asarray(last.adversarial - problem.x, np.float64).reshape(len(fallen), -1)
    length = {"Linf": np.abs(change).max(1), "L2": np.linalg.norm(change, axis=1)}[norm]
    assert length.max() <= radius * (1 + 1e-5)
    assert np.median(length) > radius * (1 - 1e-3)  # on the edge, where no pixel is cut
