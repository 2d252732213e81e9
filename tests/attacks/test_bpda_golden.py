"""BPDA+EOT against DiffPure's port of Hill et al. 2021, update by update.

Ten updates, four attack draws, six verification draws or none, on a toy purifier whose
noise is looked up by the very keys that the attack's policy should hand out: under any
other key it is NaN.

The reference begins with an evaluation of the clean images, its row 0; the library
leaves that to the clean accuracy, so its evaluation s is the reference's s + 1.
"""

import json
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import NoiseTable, nhwc

from jaxpure.attacks import L2, BpdaEotHill, Linf, Pgd
from jaxpure.defenses import PurifiedClassifier
from jaxpure.keys import example_key
from jaxpure.policy import PRESETS, attack_keys
from jaxpure.pytrees import choose, pytree

from . import reference

FIXTURES = ["l_inf_def0", "l_inf_def6", "l_2_def0", "l_2_def6"]
WITHOUT_VERIFICATION = pytest.mark.parametrize(
    "run", ["l_inf_def0", "l_2_def0"], indirect=True
)
POLICY = PRESETS["fresh"]


@pytree
class TheirL2(L2):
    """The L2 ball as the port projects into it: the distance plus 1e-10
    divides, inside of the ball too."""

    def project(self, x, centre):
        delta = x - centre
        length = jnp.linalg.norm(delta.ravel())
        factor = jnp.minimum(length, self.eps) / (length + 1e-10)
        return jnp.clip(centre + factor * delta, 0, 1)


BALLS = {"l_inf": Linf, "l_2": TheirL2}


def purify(x, noise):
    return 0.5 + 0.9 * (x - 0.5) + 0.05 * jnp.sin(3 * x) + 0.15 * noise


@pytree(eq=False)
class ToyPurifier:
    """The reference's toy under BPDA: its value, the derivative of the identity.

    Attributes:
      table: its noise.
    """

    table: Any

    def __call__(self, key, x):
        purified = jax.lax.stop_gradient(purify(x, self.table(key)))
        return purified + (x - jax.lax.stop_gradient(x))


class Run(NamedTuple):
    """What the reference did, images `(..., H, W, C)`, and what to attack.

    Attributes:
      meta: its settings.
      keys: `(n,)` the examples' keys.
      x, y: images and labels.
      noise: `(evaluations, draws, n, H, W, C)` of the attack.
      defense: the toy under BPDA, its noise by key.
      classifier: the defense's.
      iterates: `(11, n, H, W, C)`.
      gradients: `(10, n, H, W, C)`, up to a factor.
      defended: `(12, n)` bool, after each evaluation.
      adversarial: `(n, H, W, C)`, the result.
      verified: set of `(evaluation, image)`.
    """

    meta: dict
    keys: jax.Array
    x: jax.Array
    y: jax.Array
    noise: np.ndarray
    defense: Any
    classifier: Any
    iterates: np.ndarray
    gradients: np.ndarray
    defended: np.ndarray
    adversarial: np.ndarray
    verified: set


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture(params=FIXTURES)
def run(request, golden, dtype):
    stored = golden(f"attack_bpda_{request.param}_gray8")
    meta = json.loads(str(stored["meta"]))
    assert meta["purifier"].items() >= dict(s=0.15, g=0.9, k=0.05, w=3.0).items()
    assert meta["classifier"].items() >= dict(pre=4.0, scale=2.0, act="tanh").items()

    classifier = reference.classifier_of(meta, dtype)

    n = len(stored["y"])
    root = jax.random.key(0)
    keys = jax.vmap(example_key, (None, 0))(root, jnp.arange(n))
    purifier = ToyPurifier(tabulate(stored, keys, meta, dtype))
    suffix = {"float32": "f32", "float64": "f64"}[dtype]
    return Run(
        meta,
        keys,
        jnp.asarray(nhwc(stored["x"]), dtype),
        jnp.asarray(stored["y"], jnp.int32),
        nhwc(stored["noise_attack"]),
        PurifiedClassifier(purifier, classifier),
        classifier,
        nhwc(stored[f"x_adv_seq_{suffix}"]),
        nhwc(stored[f"grad_seq_{suffix}"]),
        stored[f"class_batch_{suffix}"],
        nhwc(stored[f"ims_adv_{suffix}"]),
        {tuple(row) for row in stored[f"verified_{suffix}"].astype(int).tolist()},
    )


def tabulate(stored, keys, meta, dtype):
    """The stored noise under the keys of every example, evaluation and draw."""
    evaluations = jnp.arange(meta["adv_steps"] + 1)

    def keys_of(role, draws):
        def of(key, step):
            return attack_keys(POLICY, role, key, step, draws)

        return jax.jit(jax.vmap(jax.vmap(of, (None, 0)), (0, None)))(keys, evaluations)

    # Both as (image, evaluation, draw, H, W, C).
    noise = np.moveaxis(nhwc(stored["noise_attack"])[1:], 2, 0)
    tables = [(keys_of("gradient", meta["eot_attack_reps"]), noise)]
    if meta["eot_defense_reps"]:
        noise = nhwc(stored["noise_verify"])[1:].swapaxes(0, 1)
        tables.append((keys_of("selection", meta["eot_defense_reps"]), noise))
    return NoiseTable.create(
        jnp.concatenate([k.ravel() for k, _ in tables]),
        np.concatenate([n.reshape(-1, *n.shape[3:]) for _, n in tables]),
        dtype,
    )


@jax.jit
def run_through(attack, objective, ball, states, calls):
    """The states after, and those before each call of `step`, without their examples.

    Images that are done stay as they are, as the engine leaves them.
    """

    def one(state):
        return choose(state.progress.done, state, attack.step(objective, ball, state))

    def body(states, _):
        return jax.vmap(one)(states), states._replace(example=None)

    last, before = jax.lax.scan(body, states, calls)
    return last._replace(example=None), before


def trace(attack, run):
    """All states of the attack as numpy arrays, stacked: `(calls + 1, n, ...)`."""
    objective, ball = attack.objective(run.defense, POLICY), ball_of(run.meta)
    init = jax.vmap(partial(attack.init, objective, ball))
    calls = jnp.arange(attack.budget(objective).calls)
    states = init(run.keys, run.x, run.y)
    last, before = run_through(attack, objective, ball, states, calls)
    return jax.tree.map(lambda a, b: np.append(a, b[None], 0), before, last)


TOLERANCE = {"float32": 1e-5, "float64": 1e-14}


def ball_of(meta):
    return BALLS[meta["norm"]](meta["eps"])


def steps_of(meta):
    """The options that both attacks have, as the reference set them."""
    return dict(
        step_size=meta["eta"],
        num_steps=meta["adv_steps"],
        eot_samples=meta["eot_attack_reps"],
    )


def hill(run):
    return BpdaEotHill(**steps_of(run.meta), verify_samples=run.meta["eot_defense_reps"])


def test_the_toy_is_the_references(run):
    """The reference's row 0, all right by the mean logits, and the start of its path."""
    np.testing.assert_array_equal(run.iterates[0], run.x)
    noise = jnp.asarray(run.noise[0], run.x.dtype)

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0))  # draws
    @jax.vmap
    def look(x, noise):
        return run.classifier(purify(x, noise))

    logits = look(run.x, noise)
    right = jnp.argmax(jnp.mean(logits, 0), -1) == run.y
    np.testing.assert_array_equal(right, run.defended[0])


def test_attack_is_the_references(run, dtype):
    attack = hill(run)
    states = trace(attack, run)
    last = jax.tree.map(lambda a: a[-1], states)
    progress, evaluated = last.progress, states.progress.evaluations
    assert progress.done.all()

    # Who has fallen, after every evaluation.
    evaluations = np.arange(run.meta["adv_steps"] + 1)[:, None]
    defended = (progress.broken_at < 0) | (evaluations < progress.broken_at)
    np.testing.assert_array_equal(defended, run.defended[1:])
    assert 0 < np.sum(run.defended[-1]) < len(run.x)

    # Who was looked at twice, and when.
    begun = np.argwhere((states.verified == 0) & ~states.progress.done)
    verified = {(int(evaluated[call, i]) + 1, int(i)) for call, i in begun}
    assert verified == run.verified

    # Every iterate until then, and the result.
    tolerance = TOLERANCE[dtype]
    moving = (states.verified == -1) & ~states.progress.done
    seen = 0
    for call, i in np.argwhere(moving):
        want = run.iterates[evaluated[call, i], i]
        np.testing.assert_allclose(states.x[call, i], want, rtol=0, atol=tolerance)
        seen += 1
    assert seen == np.sum(progress.evaluations)
    found = progress.adversarial
    np.testing.assert_allclose(found, run.adversarial, rtol=0, atol=tolerance)
    steps = np.where(progress.broken_at < 0, len(evaluations), progress.broken_at + 1)
    np.testing.assert_array_equal(progress.evaluations, steps)
    assert not progress.bad_gradients.any() and not progress.zero_gradients.any()


@WITHOUT_VERIFICATION
def test_gradients_are_the_references_up_to_a_factor(run, dtype):
    objective = hill(run).objective(run.defense, POLICY)
    draws = run.meta["eot_attack_reps"]

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None, 0, 0))
    def gradients(key, step, x, y):
        keys = attack_keys(POLICY, "gradient", key, step, draws)
        return objective.gradient(keys, x, y).gradient

    got = np.stack(
        [
            gradients(run.keys, step, jnp.asarray(run.iterates[step]), run.y)
            for step in range(run.meta["adv_steps"])
        ]
    )
    # Theirs is averaged over the batch too, and once more over the draws.
    got = got / (len(run.x) * draws)
    scale = np.max(np.abs(run.gradients))
    tolerance = scale * {"float32": 1e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(got, run.gradients, rtol=0, atol=tolerance)


@WITHOUT_VERIFICATION
def test_pgd_on_mean_logits_makes_the_same_updates(run, dtype):
    """Without a start, for all images and to the end: nothing stops it.

    The reference keeps moving images that have fallen. The draws by which PGD compares
    its iterates are not in the table, hence NaN; they must not touch its path.
    """
    attack = Pgd(**steps_of(run.meta), average="logits", random_start=False)
    states = trace(attack, run)
    np.testing.assert_array_equal(
        states.progress.evaluations, np.repeat(np.arange(12)[:, None], len(run.x), 1)
    )
    np.testing.assert_allclose(states.x[:-1], run.iterates, rtol=0, atol=TOLERANCE[dtype])
    progress = states.progress
    assert progress.done[-1].all() and not progress.bad_gradients[-1].any()
