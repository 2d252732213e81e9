"""What an attack climbs: the loss of a defense under a policy of randomness.

Expectation over transformation (Athalye et al. 2018) is the mean over keys, taken in
turn so that memory does not grow with the number of draws.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.attacks.losses import LOSSES, TARGETED_LOSSES
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
    data_fields=["defense", "addend"],
    meta_fields=["policy", "loss", "average", "eot_samples", "targeted"],
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
      targeted: the loss is one of TARGETED_LOSSES, and `look` is told the target.
      addend: `(defense, key, x) -> (logits, ())`, a callable pytree, in place of the
        defense where a gradient is taken: its second result is added to the loss of the
        draw. Selection does not look at it.
    """

    defense: Any
    policy: Policy
    loss: str = "cross_entropy"
    average: str = "loss"
    eot_samples: int = 1
    targeted: bool = False
    addend: Any = None

    def __post_init__(self):
        losses = TARGETED_LOSSES if self.targeted else LOSSES
        for what, value, known in (
            ("loss", self.loss, tuple(losses)),
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

    def look(
        self,
        key: Key,
        step: jax.Array,
        x: Image,
        label: Label,
        target: Label | None = None,
    ) -> Look:
        """Gradient and logits at `x` under the keys of this step of example `key`."""
        gradient, logits = self.gradient(self.gradient_keys(key, step), x, label, target)
        if not self.policy.selection_is_free:
            logits = self.selection_logits(key, step, x)
        return Look(gradient, logits)

    def gradient_keys(self, key: Key, step: jax.Array) -> Any:
        draws = self.draws(self.policy.gradient)
        return attack_keys(self.policy, "gradient", key, step, draws)

    def selection_logits(self, key: Key, step: jax.Array, x: Image) -> jax.Array:
        """Logits `(draws, classes)` at `x` under the selection keys of this step."""
        draws = self.draws(self.policy.selection)
        keys = attack_keys(self.policy, "selection", key, step, draws)
        return jax.lax.map(lambda k: self.defense(k, x), keys)

    def gradient(
        self, keys: Any, x: Image, label: Label, target: Label | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The loss's gradient over stacked `keys`, and the logits `(draws, classes)`."""
        loss = self.loss_of(label, target)
        if self.average == "logits":

            def of_mean(x):
                logits, added = jax.lax.map(lambda k: self._seen(k, x), keys)
                return loss(jnp.mean(logits, 0)) + jnp.mean(added), logits

            return jax.grad(of_mean, has_aux=True)(x)

        def of_one(x, key):
            logits, added = self._seen(key, x)
            return loss(logits) + added, logits

        gradients, logits = jax.lax.map(
            lambda k: jax.grad(of_one, has_aux=True)(x, k), keys
        )
        return jnp.mean(gradients, 0), logits

    def _seen(self, key: Any, x: Image) -> tuple[jax.Array, jax.Array]:
        """Logits, and what is added to their loss."""
        if self.addend is None:
            logits = self.defense(key, x)
            return logits, jnp.zeros((), logits.dtype)
        return self.addend(self.defense, key, x)

    def loss_of(self, label: Label, target: Label | None = None) -> Callable:
        """The loss as a function of logits `(classes,)` alone."""
        if self.targeted and target is not None:
            return lambda logits: TARGETED_LOSSES[self.loss](logits, label, target)
        return lambda logits: LOSSES[self.loss](logits, label)

    def mean_loss(
        self, logits: jax.Array, label: Label, target: Label | None = None
    ) -> jax.Array:
        """Mean loss `()` of draws `(n, classes)`; -inf where one is not finite."""
        losses = jax.vmap(self.loss_of(label, target))(logits)
        finite = jnp.all(jnp.isfinite(logits)) & jnp.all(jnp.isfinite(losses))
        return jnp.where(finite, jnp.mean(losses), -jnp.inf)


def check_targets(num_targets: int, classes: int) -> None:
    """Raises ValueError where a defense has too few classes for so many targets."""
    if num_targets > classes - 1:
        raise ValueError(
            f"{num_targets=} is more than the wrong classes of a defense with {classes} "
            f"classes; use at most {classes - 1}"
        )
