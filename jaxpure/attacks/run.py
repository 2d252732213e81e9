"""An attack on one image or on many, in one call; without records, on one device.

`evaluation.evaluate` is for whole data sets: it spreads images over devices, keeps records
and can be killed. This is for a look at an attack, for tests, and for training.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.attacks.cascade import cascade
from jaxpure.attacks.progress import Attack, Progress
from jaxpure.errors import UserError
from jaxpure.keys import Key
from jaxpure.losses import margin
from jaxpure.objective import Objective
from jaxpure.policy import PRESETS, Policy, judging_keys
from jaxpure.types import Image, Label


class Found(NamedTuple):
    """What came of an attack; with a leading axis where it was run on many images.

    Attributes:
      adversarial: `(H, W, C)` the best image.
      broken: `()` bool, whether the plain defense misclassifies it under judging key 0.
      evaluations: `()` int32, evaluations of iterates.
      bad_gradients: `()` int32, evaluations whose gradient was not finite.
      zero_gradients: `()` int32, evaluations whose gradient was identically zero.
    """

    adversarial: jax.Array
    broken: jax.Array
    evaluations: jax.Array
    bad_gradients: jax.Array
    zero_gradients: jax.Array


def run(
    attack: Any,
    defense: Any,
    key: Key,
    x: Image,
    label: Label,
    *,
    ball: Any,
    policy: Policy = PRESETS["replay"],
    seen: Any = None,
) -> Found:
    """Attacks one image, or many side by side.

    Args:
      attack: an attack, or a composite of several, each of which goes on with what the
        ones before it left standing.
      defense: `(key, x) -> logits`, a callable pytree, which judges.
      key: the example's key `()`, or one for each image `(n,)`, as
        `jax.vmap(keys.example_key, (None, 0))(root, indices)` makes them.
      x: `(H, W, C)` or `(n, H, W, C)` in [0, 1].
      label: `()` or `(n,)` int.
      ball: what the attack may do.
      policy: which noise the attack knows.
      seen: the defense under a gradient rule, which the attack differentiates; by default
        the defense itself.

    Raises:
      UserError: the keys are not one for each image, or the attack has no way of its own
        in this ball.
    """
    x = jnp.asarray(x, jnp.float32)
    label = jnp.asarray(label, jnp.int32)
    if x.ndim not in (3, 4) or key.shape != x.shape[:-3] or label.shape != x.shape[:-3]:
        raise UserError(
            f"got images {x.shape}, keys {key.shape} and labels {label.shape}: expected "
            "(H, W, C) with one key and label, or (n, H, W, C) with n of each, as "
            "jax.vmap(keys.example_key, (None, 0))(root, indices) makes them"
        )
    stages = cascade(attack, "attack", defense if seen is None else seen, policy)
    pairs = tuple((stage.attack, stage.objective) for stage in stages)
    return _run(pairs, defense, ball, policy, key, x, label)


def search(
    attack: Attack, objective: Objective, ball: Any, key: Key, x: Image, label: Label
) -> Progress:
    """One attack on one image to its end; can be traced, and batched by `vmap`.

    Args:
      attack: hyper-parameters.
      objective: the attack's, of a defense under a gradient rule.
      ball: what the attack may do.
      key: the example's key.
      x: `(H, W, C)` in [0, 1].
      label: `()` int.
    """
    return _search(attack, objective, ball, key, x, label, jnp.zeros((), bool))


def _search(attack, objective, ball, key, x, label, alone: jax.Array) -> Progress:
    """`search`, or nothing where the image is to be left `alone`."""
    calls = attack.budget(objective).calls

    def going(carry):
        count, state = carry
        return ~alone & ~state.progress.done & (count < calls)

    def step(carry):
        count, state = carry
        return count + 1, attack.step(objective, ball, state)

    first = jnp.zeros((), jnp.int32), attack.init(objective, ball, key, x, label)
    return jax.lax.while_loop(going, step, first)[1].progress


@partial(jax.jit, static_argnames="policy")
def _run(stages, defense, ball, policy: Policy, key, x, label) -> Found:
    one = partial(_run_one, stages, defense, ball, policy)
    return jax.vmap(one)(key, x, label) if x.ndim == 4 else one(key, x, label)


def _run_one(stages, defense, ball, policy: Policy, key, x, label) -> Found:
    """A cascade on one image; of attempts that all failed, the one of largest margin."""
    judging = jax.tree.map(lambda k: k[0], judging_keys(policy, key, 1))

    def judge(image: Image) -> tuple[jax.Array, jax.Array]:
        logits = defense(judging, image)
        finite = jnp.all(jnp.isfinite(logits))
        broken = ~finite | (jnp.argmax(logits) != label)
        return broken, jnp.where(finite, margin(logits, label), jnp.inf)

    zero = jnp.zeros((), jnp.int32)
    broken, largest = judge(x)[0], jnp.full((), -jnp.inf)
    found = Found(x, broken, zero, zero, zero)
    for attack, objective in stages:
        progress = _search(attack, objective, ball, key, x, label, found.broken)
        broken, reached = judge(progress.adversarial)
        better = ~found.broken & (broken | (reached > largest))
        largest = jnp.where(better, reached, largest)
        found = Found(
            adversarial=jnp.where(better, progress.adversarial, found.adversarial),
            broken=found.broken | broken,
            evaluations=found.evaluations + progress.evaluations,
            bad_gradients=found.bad_gradients + progress.bad_gradients,
            zero_gradients=found.zero_gradients + progress.zero_gradients,
        )
    return found
