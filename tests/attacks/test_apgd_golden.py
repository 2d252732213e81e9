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
from drawn import nhwc

from jaxpure.attacks import Apgd
from jaxpure.policy import PRESETS
from jaxpure.pytrees import choose

from . import reference, toys

LOSSES = {"ce": "cross_entropy", "dlr": "dlr", "t": "targeted_dlr"}
POLICY = PRESETS["fresh"]
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
def run_through(attack, objective, ball, keys, x, y, starts, calls):
    """The last states, and `Trace`'s other fields; every run begins where it is told."""

    def one(state, start):
        after = attack.step(objective, ball, state)
        begun = (state.iteration < 0) & ~after.progress.done
        after = after._replace(x=jnp.where(begun, start, after.x))
        return choose(state.progress.done, state, after)

    def body(states, _):
        after = jax.vmap(one)(states, starts)
        run = after.run
        loss = jnp.where(states.iteration == 0, run.best_loss, run.last_loss)
        return after, (
            states.iteration,
            ~states.progress.done,
            states.target,
            loss,
            run.best_loss,
            states.x[:FOLLOWED],
        )

    init = jax.vmap(lambda *example: attack.init(objective, ball, *example))
    last, seen = jax.lax.scan(body, init(keys, x, y), calls)
    return last._replace(example=()), seen


def follow(problem, steps, defense=None):
    attack = Apgd(num_steps=steps, loss=LOSSES[problem.meta["loss"]])
    objective = attack.objective(problem.defense if defense is None else defense, POLICY)
    calls = jnp.arange(attack.budget(objective).calls)
    rows = problem.keys, problem.x, problem.y, problem.x_init
    last, seen = run_through(attack, objective, problem.ball(), *rows, calls)
    return Trace(*jax.tree.map(np.asarray, (last, *seen)))


def relative(got, want):
    return np.abs(got - want) / (1 + np.abs(want))


@pytest.mark.parametrize(("loss", "norm", "classifier", "steps", "dtype"), list(cases()))
def test_apgd_is_the_references(golden, loss, norm, classifier, steps, dtype):
    """Losses, targets, images and who falls.

    Where an update leads back to the point that it came from, to a rounding, it is that
    rounding which decides whether the loss rose, and so the step from there; and where
    the true class is third, dlr is 1 and its gradient the rounding of 0. There, and only
    there, a run may part from the reference's in float64: one that does has to part from
    itself too, when a weight is changed by a rounding.
    """
    stored = golden(f"attack_apgd_{loss}_{norm}_{classifier}")
    name = f"{steps}_{dtype.replace('float', 'f')}"
    exact = dtype == "float64"
    with jax.enable_x64(exact):
        problem = reference.load(stored, dtype)
        trace = follow(problem, steps)
        x = np.asarray(problem.x)
        errors = errors_of(trace, stored, name, loss, steps, x)
        tolerance = 1e-4 if loss == "dlr" else 1e-8
        # Of the changes, seven are enough for all that part by one.
        parts = {of: np.zeros_like(error, bool) for of, error in errors.items()}
        for number in range(7 if exact else 0):
            if not any((errors[of] > tolerance)[~parts[of]].any() for of in errors):
                break
            changed = reference.rounded(problem.defense.classifier, number)
            other = follow(problem, steps, toys.undefended(changed))
            for of, moved in moves_of(trace, other, loss, steps, x, errors).items():
                parts[of] |= moved > tolerance
    last, stable = trace.last, stored[f"stable_{name}"]
    progress = last.progress
    assert progress.done.all() and not progress.bad_gradients.any()
    assert not progress.nonfinite.any()

    # Who falls.
    fallen = progress.broken_at >= 0
    allowed = 0 if exact else 1
    assert np.sum(fallen != stored[f"success_{name}"]) <= allowed

    # Targets, where an image still stands.
    shape = shape_of(loss, steps, len(stable))
    active = trace.active.reshape(shape)[:, 0]
    if loss == "t":
        targets = np.where(active, trace.target.reshape(shape)[:, -1], -1)
        wrong = (targets != stored[f"target_{name}"]).any(0)
        assert np.sum(wrong) <= allowed

    # The first two rows of losses: of every image, before rounding decides anything.
    first = errors["loss"][:, :2]
    assert first.max() < (1e-5 if loss == "ce" else 2e-4)
    shown = stable[: errors["loss"].shape[-1]]
    if exact:
        for of, error in errors.items():
            compared = error[..., stable[: error.shape[-1]]]
            parted = parts[of][..., stable[: error.shape[-1]]]
            assert not np.any((compared > tolerance) & ~parted), of
            assert np.mean(compared > tolerance) < 0.03, of
        assert first[..., shown].max() < tolerance
        assert np.median(errors["loss"][..., shown]) < 1e-14
        assert np.sum(stable) > 40
        return
    if loss == "ce":
        assert errors["loss"][..., shown].max() < 1e-3
        assert errors["best loss"][..., stable].max() < 1e-3
    # A near-zero gradient's sign moves a pixel across the ball and back.
    result = errors["image"]
    assert np.median(result[stable[: len(result)]]) < 1e-6


def shape_of(loss: str, steps: int, n: int) -> tuple[int, int, int]:
    """Runs, evaluations of each, images."""
    return (9 if loss == "t" else 1), steps + 2, n


def numbers_of(trace: Trace, loss: str, steps: int, x: np.ndarray) -> dict:
    """What is compared, images last: losses `(runs, evaluations, n)`, and images."""
    last, shape = trace.last, shape_of(loss, steps, len(x))
    fallen = last.progress.broken_at >= 0
    result = np.where(fallen[:, None, None, None], last.progress.adversarial, x)
    return {
        "loss": trace.loss.reshape(shape)[:, 1:],
        "best loss": trace.best_loss.reshape(shape)[:, -1],
        "image": np.moveaxis(result, 0, -1),
        "best image": np.moveaxis(last.run.best, 0, -1),
        "path": np.moveaxis(trace.x[1:], 1, -1),
    }


def errors_of(trace, stored, name, loss, steps, x) -> dict:
    """Differences from the reference by what is stored, images last; 0 where nothing is.

    Losses are relative to `1 + |loss|`; of an image it is the pixel that differs most.
    """
    found, pixels = numbers_of(trace, loss, steps, x), (0, 1, 2)
    active = trace.active.reshape(shape_of(loss, steps, len(x)))[:, 0]
    want = stored[f"loss_{name}"].reshape(-1, steps + 1, stored[f"loss_{name}"].shape[-1])
    runs, shown = len(want), want.shape[-1]
    compared = active[:runs, None, :shown] & np.isfinite(want)
    losses = found["loss"][:runs, :, :shown]
    best = stored[f"loss_best_{name}"].reshape(-1, len(x))
    with np.errstate(invalid="ignore"):
        errors = {
            "loss": np.where(compared, relative(losses, want), 0),
            "best loss": np.where(
                active & np.isfinite(best), relative(found["best loss"], best), 0
            ),
        }
    x_adv = np.moveaxis(nhwc(stored[f"x_adv_{name}"]), 0, -1)
    errors["image"] = np.abs(found["image"][..., : x_adv.shape[-1]] - x_adv).max(pixels)
    if loss != "t":
        x_best = np.moveaxis(nhwc(stored[f"x_best_{name}"]), 0, -1)
        best_image = found["best image"][..., : x_best.shape[-1]]
        errors["best image"] = np.abs(best_image - x_best).max(pixels)
    if f"x_traj_{name}" in stored:
        path = np.moveaxis(nhwc(stored[f"x_traj_{name}"]), 1, -1)
        errors["path"] = np.abs(found["path"] - path).max((1, 2, 3))
    return errors


def moves_of(trace, other, loss, steps, x, errors) -> dict:
    """Differences between two of our own runs, of the shapes of `errors`."""
    one, two = (numbers_of(t, loss, steps, x) for t in (trace, other))
    moves = {}
    for of, error in errors.items():
        shown = error.shape[-1]
        a, b = one[of][..., :shown], two[of][..., :shown]
        if of in ("loss", "best loss"):
            moves[of] = relative(a, b)[: len(error)]
        else:
            axes = (1, 2, 3) if of == "path" else (0, 1, 2)
            moves[of] = np.abs(a - b).max(axes)
    return moves
