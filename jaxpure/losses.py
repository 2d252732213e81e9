"""Losses that attacks climb: `(logits, label) -> ()`, larger is worse for the defense.

Targeted ones are `(logits, label, target) -> ()` and rise as the logit of one wrong class,
the target, overtakes the true one. Any function of either form does for an attack's
`loss`; those of `LOSSES` also go by name.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxpure.errors import UserError, check_in
from jaxpure.types import Label, Logits, LossFn

TargetedLossFn = Callable[[Logits, Label, Label], jax.Array]


def cross_entropy(logits: Logits, label: Label) -> jax.Array:
    """Cross-entropy of `logits` `(classes,)` with the true `label`."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def margin(logits: Logits, label: Label) -> jax.Array:
    """Best wrong logit minus the true one (Carlini and Wagner 2017); > 0 when wrong."""
    return _best_wrong(logits, label) - logits[label]


def dlr(logits: Logits, label: Label) -> jax.Array:
    """Difference of logits ratio (Croce and Hein 2020, eq. 6): the margin over z1 - z3.

    Unchanged by shifts and scales of the logits. Needs three classes or more.
    """
    if logits.shape[-1] < 3:
        raise UserError(
            f"the dlr loss needs at least 3 classes, got {logits.shape[-1]}; use margin"
        )
    top = jax.lax.top_k(logits, 3)[0]
    return margin(logits, label) / (top[0] - top[2] + 1e-12)


def targeted_margin(logits: Logits, label: Label, target: Label) -> jax.Array:
    """The target's logit minus the true one."""
    return logits[target] - logits[label]


def targeted_dlr(logits: Logits, label: Label, target: Label) -> jax.Array:
    """Targeted difference of logits ratio (Croce and Hein 2020, eq. 7).

    The targeted margin over z1 - (z3 + z4) / 2. Needs four classes or more.
    """
    if logits.shape[-1] < 4:
        raise UserError(
            f"the targeted_dlr loss needs at least 4 classes, got {logits.shape[-1]}; "
            "use margin"
        )
    top = jax.lax.top_k(logits, 4)[0]
    spread = top[0] - 0.5 * (top[2] + top[3])
    return targeted_margin(logits, label, target) / (spread + 1e-12)


def _best_wrong(logits: Logits, label: Label) -> jax.Array:
    is_true = jnp.arange(logits.shape[-1]) == label
    return jnp.max(jnp.where(is_true, -jnp.inf, logits))


LOSSES: dict[str, Callable[..., jax.Array]] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
    "targeted_margin": targeted_margin,
    "targeted_dlr": targeted_dlr,
}


def loss_named(loss: str | Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The loss of this name; a function is returned as it is.

    Raises:
      UserError: an unknown name; lists the known ones.
    """
    if callable(loss):
        return loss
    check_in("loss", loss, LOSSES)
    return LOSSES[loss]


def is_targeted(loss: str | Callable[..., Any]) -> bool:
    """Whether a loss takes a target: a third argument without a default."""
    parameters = inspect.signature(loss_named(loss)).parameters.values()
    return sum(p.default is p.empty for p in parameters) == 3


def is_ratio(loss: str | Callable[..., Any]) -> bool:
    """Whether the loss is a ratio of logits, flat where its numerator is constant."""
    return loss_named(loss) in (dlr, targeted_dlr)


def loss_of(
    loss: str | LossFn | TargetedLossFn, label: Label, target: Label | None = None
) -> Callable[[Logits], jax.Array]:
    """The loss as a function of logits `(classes,)` alone."""
    function, targeted = loss_named(loss), is_targeted(loss)
    arguments = (label, target) if targeted else (label,)
    return lambda logits: function(logits, *arguments)
