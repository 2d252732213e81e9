"""APGD against auto-attack's, evaluation by evaluation, from the same starts.

Under a policy that does not replay, an image is attacked to the end of the run in which
it falls, as the reference does; the toy is deterministic, so the policy changes nothing
else. `stable` marks the images whose path the reference itself finds again when its
weights move by a rounding.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import nhwc

from jaxpure import randomness
from jaxpure.attacks import Apgd

from . import toys

LOSSES = {"ce": "cross_entropy", "dlr": "dlr", "t": "targeted_dlr"}
POLICY = randomness.PRESETS["fresh"]
FOLLOWED = 4  # images whose iterates are stored


def cases():
    for classifier in ("gray8", "rgb16"):
        for steps in (20, 100):
            for loss in LOSSES:
                for norm in ("Linf", "L2"):
                    for dtype in ("float64", "float32"):
                        case = (loss, norm, classifier, steps, dtype)
                        exact = dtype == "float64" or (loss, norm) == ("ce", "L2")
                        quick = classifier == "gray8" and steps == 20 and exact
                        marks = [] if quick else [pytest.mark.slow]
                        yield pytest.param(*case, marks=marks)


class Trace(NamedTuple):
    """What the attack did, a leading axis for its evaluations, `n` images.

    Attributes:
      last: the states in the end.
      iteration: `(calls, n)` what was evaluated, -1 for the clean image.
      active: `(calls, n)` bool, not done before.
      target: `(calls, n)`.
      loss: `(calls, n)`, undefined where the clean image was evaluated.
      best_loss: `(calls, n)` of the run so far.
      x: `(calls, FOLLOWED, H, W, C)` the evaluated images.
    """

    last: Any
    iteration: np.ndarray
    active: np.ndarray
    target: np.ndarray
    loss: np.ndarray
    best_loss: np.ndarray
    x: np.ndarray


@jax.jit
def run_through(attack, keys, x, y, starts, calls):
    """The last states, and `Trace`'s other fields; every run begins where it is told."""

    def one(state, start):
        after = attack.step(state)
        begun = (state.iteration < 0) & ~after.done
        after = after._replace(x=jnp.where(begun, start, after.x))
        return randomness.choose(state.done, state, after)

    def body(states, _):
        after = jax.vmap(one)(states, starts)
        run = after.run
        loss = jnp.where(states.iteration == 0, run.best_loss, run.last_loss)
        return after, (
            states.iteration,
            ~states.done,
            states.target,
            loss,
            run.best_loss,
            states.x[:FOLLOWED],
        )

    last, seen = jax.lax.scan(body, jax.vmap(attack.init)(keys, x, y), calls)
    return last._replace(key=()), seen


def follow(toy, steps):
    attack = Apgd.create(
        toy.defense,
        POLICY,
        eps=toy.meta["eps"],
        num_steps=steps,
        norm=toy.meta["norm"].lower(),
        loss=LOSSES[toy.meta["loss"]],
    )
    calls = jnp.arange(attack.max_steps)
    last, seen = run_through(attack, toy.keys, toy.x, toy.y, toy.x_init, calls)
    return Trace(*jax.tree.map(np.asarray, (last, *seen)))


def relative(got, want):
    return np.abs(got - want) / (1 + np.abs(want))


# Where an update leads back to the point that it came from, to a rounding, it is that
# rounding which decides whether the loss rose, and so the step from there. And where the
# true class is third, dlr is 1 and its gradient the rounding of 0. The reference, run
# again on other weights by a rounding, parts from itself there too. So many pairs of run
# and image may part in float64.
MAY_PART = {"ce": 0, "dlr": 1, "t": 6}


@pytest.mark.parametrize(("loss", "norm", "classifier", "steps", "dtype"), list(cases()))
def test_apgd_is_the_references(golden, loss, norm, classifier, steps, dtype):
    stored = golden(f"attack_apgd_{loss}_{norm}_{classifier}")
    name = f"{steps}_{dtype.replace('float', 'f')}"
    with jax.enable_x64(dtype == "float64"):
        toy = toys.load(stored, dtype)
        trace = follow(toy, steps)
    last, stable = trace.last, stored[f"stable_{name}"]
    assert last.done.all() and not last.bad_gradients.any()

    # Who falls.
    fallen = last.broken_at >= 0
    allowed = {"float64": 0, "float32": 1}[dtype]
    assert np.sum(fallen != stored[f"success_{name}"]) <= allowed

    # Targets, where an image still stands.
    runs = 9 if loss == "t" else 1
    shape = (runs, steps + 2, len(stable))
    active = trace.active.reshape(shape)[:, 0]
    if loss == "t":
        targets = np.where(active, trace.target.reshape(shape)[:, -1], -1)
        wrong = (targets != stored[f"target_{name}"]).any(0)
        assert np.sum(wrong) <= allowed

    # Losses: of each run the best, and for some runs and images, all.
    best = trace.best_loss.reshape(shape)[:, -1]
    compared = active & stable & np.isfinite(stored[f"loss_best_{name}"])
    error_of_best = np.where(compared, relative(best, stored[f"loss_best_{name}"]), 0)
    want = stored[f"loss_{name}"].reshape(-1, steps + 1, stored[f"loss_{name}"].shape[-1])
    some = slice(len(want)), slice(None), slice(want.shape[-1])
    found = trace.loss.reshape(shape)[:, 1:][some]
    error = np.where(compared[:, None][some], relative(found, want), 0)
    if dtype == "float64":
        tolerance = 1e-4 if loss == "dlr" else 1e-8
        assert np.sum(error_of_best > tolerance) <= MAY_PART[loss]
        assert np.sum(error.max(1) > tolerance) <= MAY_PART[loss]
        assert np.sum(compared) > 40 and np.median(error) < 1e-14
    else:
        assert error[:, :2].max() < (1e-5 if loss == "ce" else 2e-4)
        if loss == "ce":
            assert max(error.max(), error_of_best.max()) < 1e-3

    # The result, and in float64 the best point and a few whole paths.
    x_adv = nhwc(stored[f"x_adv_{name}"])
    shown = stable[: len(x_adv)]
    fallen = fallen[: len(x_adv), None, None, None]
    result = np.where(fallen, last.adversarial[: len(x_adv)], toy.x[: len(x_adv)])
    distance = np.abs(result - x_adv).max((1, 2, 3))[shown]
    if dtype == "float32":
        # A near-zero gradient's sign moves a pixel across the ball and back.
        assert np.median(distance) < 1e-6
        return
    assert np.sum(distance > tolerance) <= (1 if loss == "dlr" else 0)
    if loss != "t":
        x_best = nhwc(stored[f"x_best_{name}"])
        distance = np.abs(last.run.best[: len(x_best)] - x_best).max((1, 2, 3))
        assert distance[stable[: len(x_best)]].max() < tolerance
    if f"x_traj_{name}" in stored:
        path = nhwc(stored[f"x_traj_{name}"])
        assert np.abs(trace.x[1:] - path)[:, stable[:FOLLOWED]].max() < tolerance
