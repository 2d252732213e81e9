"""A small defense, its examples, and attacks that do exactly what they are told."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure import attacks, data, keys
from jaxpure.attacks.verdict import judge_draws
from jaxpure.defenses import PurifiedClassifier
from jaxpure.evaluation import Result, evaluate, lanes
from jaxpure.objective import Objective
from jaxpure.pytrees import Static, pytree

ROOT = jax.random.key(3)
KEYS = 3
BALL = attacks.Linf(0.08)


def noisy(sigma, key, x):
    return x + sigma * keys.noise_at(key, 0, x)


def linear(weights, x):
    return jnp.tanh(3 * (x.reshape(-1) - 0.5)) @ weights


def examples(n):
    """`n` examples of indices 100 and up, and a classifier that has all of them right."""
    random = np.random.default_rng(0)
    images = random.uniform(size=(n, 4, 4, 1)).astype(np.float32)
    weights = random.normal(size=(16, 5)).astype(np.float32)
    labels = np.argmax(np.tanh(3 * (images.reshape(n, -1) - 0.5)) @ weights, -1)
    dataset = data.from_arrays(
        images, labels, name="toy", num_classes=5, indices=np.arange(100, 100 + n)
    )
    return dataset, jax.tree_util.Partial(linear, jnp.asarray(weights))


def purified(classifier, sigma=0.2):
    return PurifiedClassifier(jax.tree_util.Partial(noisy, sigma), classifier)


def problem(n, num_steps=6, classifier=None, sigma=0.2):
    """`(defense, attack, examples)`."""
    dataset, trained = examples(n)
    attack = attacks.Pgd(step_size=0.02, num_steps=num_steps, eot_samples=2)
    return purified(classifier or trained, sigma), attack, dataset


def run(folder, defense, attack, dataset, *, devices=1, **options) -> Result:
    """`evaluate` with the toys' own options where a test does not say otherwise."""
    usual = {
        "ball": BALL,
        "key": ROOT,
        "policy": "replay",
        "gradient": "bpda" if hasattr(defense, "purifier") else "exact",
        "judging_keys": KEYS,
        "batch_size": 4,
        "folder": folder,
        "mesh": lanes.local_mesh(jax.devices()[:devices]),
    }
    return evaluate(defense, attack, dataset, **(usual | options))


def assert_same(one: Result, other: Result, at: Any = slice(None)) -> None:
    """Equal to the bit; with `at`, the other's examples at these positions."""
    for field in dataclasses.fields(Result):
        if field.name != "about":
            a, b = getattr(one, field.name), getattr(other, field.name)[at]
            np.testing.assert_array_equal(a, b, err_msg=field.name)


class NudgeState(NamedTuple):
    example: attacks.Example
    x: jax.Array
    progress: attacks.Progress


@pytree
class Nudge:
    """Adds `shift` to every pixel at each step and keeps what it has, wherever that is.

    It projects nothing and is never done.
    """

    shift: float
    calls: Static[int] = 3

    def objective(self, defense, policy):
        return Objective(defense, policy)

    def budget(self, objective):
        del objective
        return attacks.Budget(self.calls, 1, 0)

    def init(self, objective, ball, key, x, label):
        del objective, ball
        example = attacks.Example(key, x, label)
        return NudgeState(example, x + self.shift, attacks.init_progress(x))

    def step(self, objective, ball, state):
        del ball
        step = state.progress.evaluations
        seen = objective.look(state.example.key, step, state.x, state.example.label)
        verdict = judge_draws(seen.logits, state.example.label)
        progress = state.progress.select(state.x, verdict).count(seen)
        progress = progress._replace(adversarial=state.x)
        return NudgeState(state.example, state.x + self.shift, progress)


@pytree
class InTurn:
    """Attacks in turn, under names of the test's own."""

    first: Any
    second: Any

    def attacks(self):
        return ("first", self.first), ("second", self.second)
