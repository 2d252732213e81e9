"""The defenses that attack tests share, whose truth is known or whose steps are cheap."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure import attacks
from jaxpure.defenses import PurifiedClassifier
from jaxpure.keys import example_key, noise_at, part
from jaxpure.policy import PRESETS, judging_keys, parse_policy
from jaxpure.pytrees import pytree

SHAPE = (4, 4, 2)
SIZE = 32
CLASSES = 5
PARTS = ("forward", "reverse")
EPS = {"linf": 0.1, "l2": 0.5, "l1": 2.0, "flow": 0.3}
"""Radii at which these defenses are hard, but not impossible, to break."""


def identity(key: Any, x: jax.Array) -> jax.Array:
    del key
    return x


def undefended(classifier: Any) -> PurifiedClassifier:
    """A classifier without a purifier."""
    return PurifiedClassifier(jax.tree_util.Partial(identity), classifier)


class States(NamedTuple):
    """What `trajectory` gives; see `purifiers.Trajectory`."""

    purified: jax.Array
    noised: jax.Array
    denoised: jax.Array


@pytree(eq=False)
class Noisy:
    """A purifier of the least kind, with two parts of noise and states on the way.

    Attributes:
      strength: of its noise.
    """

    strength: Any

    @property
    def noise_parts(self) -> tuple[str, ...]:
        return PARTS

    def __call__(self, key: Any, x: jax.Array) -> jax.Array:
        return self.trajectory(key, x).purified

    def trajectory(self, key: Any, x: jax.Array) -> States:
        forward, backward = (noise_at(part(key, name), 0, x) for name in PARTS)
        purified = x + self.strength * (forward + x * backward)
        levels = jnp.arange(4.0)[:, None, None, None] / 4
        noised = x[None] + levels[::-1] * self.strength * forward[None]
        return States(purified, noised, purified[None] - levels[::-1] * jnp.sin(x)[None])


def bent(weights: Any, x: jax.Array) -> jax.Array:
    """Logits of a classifier that is linear in `tanh` of the pixels."""
    return weights @ jnp.tanh(2 * x.reshape(-1) - 1)


def bent_classifier(seed: int = 0, classes: int = CLASSES, scale: float = 1.0) -> Any:
    weights = np.random.default_rng(seed).normal(size=(classes, SIZE))
    return jax.tree_util.Partial(bent, jnp.asarray(scale * weights, jnp.float32))


PURIFIER = Noisy(0.05)
DEFENSE = PurifiedClassifier(PURIFIER, bent_classifier())
UNDEFENDED = undefended(bent_classifier())


def failing(kind: Any, x: jax.Array) -> jax.Array:
    """Logits in one of four ways of being of no use to an attack; right for label 0."""
    sound = jnp.arange(CLASSES, 0, -1, dtype=x.dtype)
    return jax.lax.switch(
        kind,
        [
            lambda: sound * jnp.nan * jnp.mean(x),
            lambda: sound * jnp.inf * jnp.mean(x),
            lambda: sound + jnp.sqrt(jnp.abs(x - jax.lax.stop_gradient(x))).sum(),
            lambda: sound + 0 * x.sum(),
        ],
    )


FAILURES = ("nan", "infinite", "infinite slope", "flat")


def failing_defense(kind: str) -> PurifiedClassifier:
    number = jnp.int32(FAILURES.index(kind))
    return PurifiedClassifier(Noisy(0.0), jax.tree_util.Partial(failing, number))


def margin_of(weights: Any, bias: Any, x: jax.Array) -> jax.Array:
    """Two classes; label 1 has the margin `weights . x + bias`."""
    margin = weights @ x.ravel() + bias
    return jnp.stack([-margin / 2, margin / 2])


def plane(distance: float, norm: str, seed: int = 0, shape: tuple[int, ...] = (3, 2, 2)):
    """`(image, defense, unit)`: label 1 there, class 0 beyond `distance` along -unit.

    `unit` is the steepest direction of unit length in the norm.
    """
    random = np.random.default_rng(seed)
    x = random.uniform(0.4, 0.6, shape).astype(np.float32)
    weights = random.normal(size=x.size).astype(np.float32)
    unit = {
        "linf": np.sign(weights),
        "l2": weights / np.linalg.norm(weights),
        "l1": np.sign(weights) * (np.abs(weights) == np.abs(weights).max()),
    }[norm]
    bias = jnp.float32(distance * (weights @ unit) - weights @ x.ravel())
    classifier = jax.tree_util.Partial(margin_of, jnp.asarray(weights), bias)
    return x, undefended(classifier), unit.reshape(shape)


def image(seed: int = 0, low: float = 0.0, high: float = 1.0, shape=SHAPE) -> jax.Array:
    random = np.random.default_rng(seed)
    return jnp.asarray(random.uniform(low, high, shape).astype(np.float32))


def policy(text: str):
    return parse_policy(text, PARTS)


def example(seed: int, defense: Any = DEFENSE) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(key, image, label)`: the label that the defense gives under judging key 0."""
    key, x = example_key(jax.random.key(0), seed), image(seed)
    return key, x, predicted(defense, key, x)


@jax.jit
def predicted(defense: Any, key: jax.Array, x: jax.Array) -> jax.Array:
    """The class under judging key 0 of this example, where noise is replayed."""
    judging = judging_keys(PRESETS["replay"], key, 1)
    return jnp.argmax(defense(judging[0], x)).astype(jnp.int32)


@jax.jit
def _to_its_end(attack: Any, objective: Any, ball: Any, key, x, label):
    def going(carry):
        state, calls = carry
        return ~state.progress.done & (calls < attack.budget(objective).calls)

    def body(carry):
        state, calls = carry
        return attack.step(objective, ball, state), calls + 1

    return jax.lax.while_loop(going, body, (attack.init(objective, ball, key, x, label), 0))


def stages(attack: Any, defense: Any, policy_text: str = "fresh"):
    """The stages of an attack on a defense."""
    return attacks.cascade(attack, "attack", defense, policy(policy_text))


def final(attack: Any, defense: Any, ball: Any, key, x, label, policy_text="fresh"):
    """The final state of a single attack, checked to be one within its budget."""
    objective = attack.objective(defense, policy(policy_text))
    state, calls = _to_its_end(
        attack, objective, ball, key, jnp.asarray(x), jnp.asarray(label, jnp.int32)
    )
    assert bool(state.progress.done)
    assert int(calls) <= attack.budget(objective).calls
    return state
