"""Losses that attacks climb: `(logits, label) -> ()`, larger is worse for the defense."""

import jax
import jax.numpy as jnp
import optax

from jaxpure.types import Label, Logits, LossFn


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
        raise ValueError(
            f"the dlr loss needs at least 3 classes, got {logits.shape[-1]}; use margin"
        )
    top = jax.lax.top_k(logits, 3)[0]
    return margin(logits, label) / (top[0] - top[2] + 1e-12)


def _best_wrong(logits: Logits, label: Label) -> jax.Array:
    is_true = jnp.arange(logits.shape[-1]) == label
    return jnp.max(jnp.where(is_true, -jnp.inf, logits))


LOSSES: dict[str, LossFn] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
}
