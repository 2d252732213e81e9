"""What an attack climbs: the loss of a defense under a policy of randomness.

Expectation over transformation (Athalye et al. 2018) is the mean over keys, taken in
turn so that memory does not grow with the number of draws.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.attacks.losses import LOSSES, margin
from jaxpure.randomness import Policy, attack_keys
from jaxpure.types import Image, Key, Label, register_pytree

AVERAGES = ("loss", "logits")


class Look(NamedTuple):
    """What an attack sees of the defense at one image.

    Attributes:
      gradient: `(H, W, C)` of the loss under the gradient keys.
      logits: `(draws, classes)` under the selection keys.
    """

    gradient: jax.Array
    logits: jax.Array


@partial(
    register_pytree,
    data_fields=["defense"],
    meta_fields=["policy", "loss", "average", "eot_samples"],
)
@dataclass(frozen=True, eq=False)
class Objective:
    """A loss of a defense, its keys chosen by a policy.

    Attributes:
      defense: `(key, x) -> logits`, under a gradient rule.
      policy: which keys.
      loss: name of the loss.
      average: "loss" is the mean loss over draws, "logits" the loss of mean logits.
      eot_samples: draws for every gradient and every selection.
    """

    defense: Any
    policy: Policy
    loss: str = "cross_entropy"
    average: str = "loss"
    eot_samples: int = 1

    def __post_init__(self):
        for what, value, known in (
            ("loss", self.loss, tuple(LOSSES)),
            ("average", self.average, AVERAGES),
        ):
            if value not in known:
                raise ValueError(f"{what}={value!r}, expected one of {', '.join(known)}")
        if self.eot_samples < 1:
            raise ValueError(f"eot_samples={self.eot_samples}, expected at least 1")

    def draws(self, rule: tuple) -> int:
        """Draws that differ: under replay all samples are one and the same."""
        sources = {source for _, source in rule}
        return 1 if sources == {"replay"} else self.eot_samples

    @property
    def purifications_per_look(self) -> int:
        extra = 0 if self.policy.selection_is_free else self.draws(self.policy.selection)
        return self.draws(self.policy.gradient) + extra

    def look(self, key: Key, step: jax.Array, x: Image, label: Label) -> Look:
        """Gradient and logits at `x` under the keys of this step of example `key`."""
        policy = self.policy
        draws = self.draws(policy.gradient)
        keys = attack_keys(policy, "gradient", key, step, draws)
        gradient, logits = self.gradient(keys, x, label)
        if not policy.selection_is_free:
            draws = self.draws(policy.selection)
            keys = attack_keys(policy, "selection", key, step, draws)
            logits = jax.lax.map(lambda k: self.defense(k, x), keys)
        return Look(gradient, logits)

    def gradient(self, keys: Any, x: Image, label: Label) -> tuple[jax.Array, jax.Array]:
        """The loss's gradient over stacked `keys`, and the logits `(draws, classes)`."""
        loss = LOSSES[self.loss]
        if self.average == "logits":

            def of_mean(x):
                logits = jax.lax.map(lambda k: self.defense(k, x), keys)
                return loss(jnp.mean(logits, 0), label), logits

            return jax.grad(of_mean, has_aux=True)(x)

        def of_one(x, key):
            logits = self.defense(key, x)
            return loss(logits, label), logits

        gradients, logits = jax.lax.map(
            lambda k: jax.grad(of_one, has_aux=True)(x, k), keys
        )
        return jnp.mean(gradients, 0), logits


class Verdict(NamedTuple):
    """How well an image fools the draws that the attack compares its iterates under.

    Attributes:
      wrong: `()` share of draws that are misclassified.
      margin: `()` mean margin, best wrong logit minus the true one.
    """

    wrong: jax.Array
    margin: jax.Array

    def better_than(self, other: "Verdict") -> jax.Array:
        return (self.wrong > other.wrong) | (
            (self.wrong == other.wrong) & (self.margin > other.margin)
        )


def judge_draws(logits: jax.Array, label: Label) -> Verdict:
    """The verdict of draws `(n, classes)`; one that is not finite counts for nothing."""
    finite = jnp.all(jnp.isfinite(logits), -1)
    wrong = finite & (jnp.argmax(logits, -1) != label)
    margins = jax.vmap(margin, (0, None))(logits, label)
    return Verdict(
        jnp.mean(wrong.astype(logits.dtype)),
        jnp.mean(jnp.where(finite, margins, -jnp.inf)),
    )
