"""What an attack climbs: the loss of a defense under a policy of randomness.

Expectation over transformation (Athalye et al. 2018) is the mean over keys, taken in
turn, or so many at once as the device's memory allows.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxpure.errors import check_in, check_range
from jaxpure.keys import AnyKey, Key, map_draws
from jaxpure.losses import is_targeted, loss_named, loss_of
from jaxpure.policy import Policy, Sources, attack_keys
from jaxpure.pytrees import Static, pytree
from jaxpure.types import Image, Label

Average = Literal["loss", "logits"]


class Evaluation(NamedTuple):
    """What an attack sees of the defense at one image.

    Attributes:
      gradient: `(H, W, C)` of the loss under the gradient keys; zero where it is not
        finite.
      logits: `(draws, classes)` of the gradient's draws, or under the selection keys.
      bad: `()` int32, 1 where the gradient was not finite.
      zero: `()` int32, 1 where it was identically zero.
      finite: `()` bool, whether the image itself was finite.
    """

    gradient: jax.Array
    logits: jax.Array
    bad: jax.Array
    zero: jax.Array
    finite: jax.Array


@pytree(eq=False)
class Objective:
    """A loss of a defense, its keys chosen by a policy.

    Attributes:
      defense: `(key, x) -> logits`, under a gradient rule.
      policy: which keys.
      loss: `(logits, label) -> ()`, or `(logits, label, target) -> ()`, or a name of
        `losses.LOSSES`.
      average: "loss" is the mean loss over draws, "logits" the loss of mean logits.
      eot_samples: draws for every gradient and every selection.
      auxiliary_loss: `(defense, key, x) -> (logits, ())`, a callable pytree, in place of
        the defense where a gradient is taken: its second result is added to the loss of
        the draw. Selection does not look at it.
      draws_at_once: draws side by side. The evaluation sets it; it changes no key, and
        results by rounding alone.
    """

    defense: Any
    policy: Static[Policy]
    loss: Static[Any] = "cross_entropy"
    average: Static[Average] = "loss"
    eot_samples: Static[int] = 1
    auxiliary_loss: Any = None
    draws_at_once: Static[int] = 1

    def __post_init__(self):
        loss_named(self.loss)
        check_in("average", self.average, ("loss", "logits"))
        check_range(1, eot_samples=self.eot_samples, draws_at_once=self.draws_at_once)

    @property
    def targeted(self) -> bool:
        return is_targeted(self.loss)

    def draws(self, sources: Sources) -> int:
        """Draws that differ: under replay all samples are one and the same."""
        return 1 if sources.all("replay") else self.eot_samples

    @property
    def gradient_draws(self) -> int:
        return self.draws(self.policy.gradient)

    @property
    def selection_draws(self) -> int:
        return self.draws(self.policy.selection)

    @property
    def extra_draws(self) -> int:
        """Evaluations without a gradient that `look` makes."""
        return 0 if self.policy.selection_is_free else self.selection_draws

    def look(
        self,
        key: Key,
        step: jax.Array,
        x: Image,
        label: Label,
        target: Label | None = None,
    ) -> Evaluation:
        """Gradient and logits at `x` under the keys of this step of example `key`."""
        seen = self.gradient(self.gradient_keys(key, step), x, label, target)
        if self.policy.selection_is_free:
            return seen
        return seen._replace(logits=self.selection_logits(key, step, x))

    def gradient_keys(self, key: Key, step: jax.Array) -> Any:
        """The keys of this step's gradient, stacked."""
        return attack_keys(self.policy, "gradient", key, step, self.gradient_draws)

    def selection_logits(self, key: Key, step: jax.Array, x: Image) -> jax.Array:
        """Logits `(draws, classes)` at `x` under the selection keys of this step."""
        keys = attack_keys(self.policy, "selection", key, step, self.selection_draws)
        return self.map(lambda k: self.defense(k, x), keys)

    def map(self, f: Callable[[Any], Any], keys: Any) -> Any:
        """`f` of the keys of every draw, `draws_at_once` side by side."""
        return map_draws(f, keys, self.draws_at_once)

    def gradient(
        self, keys: Any, x: Image, label: Label, target: Label | None = None
    ) -> Evaluation:
        """The loss's gradient over stacked `keys`, and the logits of its draws."""
        loss = loss_of(self.loss, label, target)
        if self.average == "logits":

            def of_mean(x):
                logits, added = self.map(lambda k: self._seen(k, x), keys)
                return loss(jnp.mean(logits, 0)) + jnp.mean(added), logits

            gradient, logits = jax.grad(of_mean, has_aux=True)(x)
        else:

            def of_one(x, key):
                logits, added = self._seen(key, x)
                return loss(logits) + added, logits

            gradients, logits = self.map(
                lambda k: jax.grad(of_one, has_aux=True)(x, k), keys
            )
            gradient = jnp.mean(gradients, 0)
        return Evaluation(
            *clean_gradient(gradient, logits), finite=jnp.all(jnp.isfinite(x))
        )

    def mean_loss(
        self, logits: jax.Array, label: Label, target: Label | None = None
    ) -> jax.Array:
        """Mean loss `()` of draws `(n, classes)`; -inf where one is not finite."""
        losses = jax.vmap(loss_of(self.loss, label, target))(logits)
        finite = jnp.all(jnp.isfinite(logits)) & jnp.all(jnp.isfinite(losses))
        return jnp.where(finite, jnp.mean(losses), -jnp.inf)

    def _seen(self, key: AnyKey, x: Image) -> tuple[jax.Array, jax.Array]:
        """Logits, and what is added to their loss."""
        if self.auxiliary_loss is None:
            logits = self.defense(key, x)
            return logits, jnp.zeros((), logits.dtype)
        return self.auxiliary_loss(self.defense, key, x)


def clean_gradient(
    gradient: jax.Array, logits: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """`(gradient or zeros if not finite, logits, was not finite, was all zero)`."""
    finite = jnp.all(jnp.isfinite(gradient))
    gradient = jnp.where(finite, gradient, 0)
    zero = finite & jnp.all(gradient == 0)
    return gradient, logits, (~finite).astype(jnp.int32), zero.astype(jnp.int32)
