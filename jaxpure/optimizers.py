"""Optimizers of training: Muon, and rates that differ from parameter to parameter."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

# Of a quintic whose iteration drives singular values to near 1 (Jordan et al. 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrix: jax.Array, num_steps: int = 5) -> jax.Array:
    """Near U V^T of `matrix` `(m, n)` = U S V^T, by Newton-Schulz iteration.

    Singular values come to lie between about 0.7 and 1.2; those below 1e-3 of the norm
    come less far.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (jnp.linalg.norm(x) + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(num_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def muon(
    learning_rate: optax.ScalarOrSchedule, *, momentum: float
) -> optax.GradientTransformation:
    """Muon for convolutions `(h, w, C, D)` (Jordan et al. 2024), on normalised weights.

    Each update replaces the kernel by itself at a norm of sqrt(D), less the rate times
    the orthogonalised Nesterov momentum: batch normalisation behind a convolution makes
    its length meaningless but for the rate.
    """

    def change(gradient, kernel):
        outputs = kernel.shape[-1]
        direction = orthogonalised(gradient.reshape(-1, outputs)).reshape(kernel.shape)
        normalised = kernel * (outputs**0.5 / (jnp.linalg.norm(kernel) + 1e-7))
        return direction, normalised

    def update(updates, state, params=None):
        count, trace = state
        trace = jax.tree.map(lambda g, m: momentum * m + g, updates, trace)
        ahead = jax.tree.map(lambda g, m: g + momentum * m, updates, trace)
        rate = learning_rate(count) if callable(learning_rate) else learning_rate

        def one(gradient, kernel):
            direction, normalised = change(gradient, kernel)
            return normalised - rate * direction - kernel

        return jax.tree.map(one, ahead, params), (count + 1, trace)

    def init(params):
        return jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params)

    return optax.GradientTransformation(init, update)


def factors(params: Any, by_name: Mapping[str, float]) -> Any:
    """For each parameter the factor of the first name that its path contains, or 1."""

    def one(path, leaf):
        del leaf
        text = jax.tree_util.keystr(path, simple=True, separator=".")
        return next((f for name, f in by_name.items() if name in text), 1.0)

    return jax.tree_util.tree_map_with_path(one, params)


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float,
    weight_decay: float = 0.0,
    rate_factors: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
    """Nesterov SGD whose decay does not depend on a parameter's factor of the rate.

    Args:
      learning_rate: of parameters whose factor is 1.
      momentum: weight of the previous updates.
      weight_decay: of the gradient, in units where the factor is 1: a parameter of a
        larger factor is not decayed faster.
      rate_factors: factors of the rate by a part of a parameter's path.
    """
    by_name = rate_factors or {}

    def update(updates, state, params=None):
        rates = factors(params, by_name)
        updates = jax.tree.map(
            lambda g, p, f: f * g + weight_decay * p, updates, params, rates
        )
        return updates, state

    scaled = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return optax.chain(scaled, optax.sgd(learning_rate, momentum=momentum, nesterov=True))
