"""Gradients that attacks use against the true one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import plans, programs
from experiments.paper.asks import Ask
from experiments.paper.measures import readings
from experiments.paper.study import Arrays, Rows, Study
from jaxpure.diffusion import Ddim
from jaxpure.dissect import alignment
from jaxpure.purifiers import DiffPure

SURROGATE_STEPS = 10
OTHER_KEYS = 4  # of the EOT mean that gradients are compared with


def gradients(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """Cosines `(n, steps)` with the replayed gradient along the path that it leads.

    `bpda` is under the same key, `surrogate` (of a longer chain alone) through
    `SURROGATE_STEPS` steps in its place, `other_key` exact under judging key 1, `eot` the
    mean of `OTHER_KEYS` exact ones from key 1 on. `signal` and `noise` are of those at the
    image, in units of the largest classifier gradient under any of the keys.
    """
    plan, ball = study.plan, study.ball
    x, cosines = jnp.asarray(rows.images), {}
    short, signal = _surrogate(study.purifier(ask)), None
    for _ in range(plan.path_steps):
        exact, seen = _gradients(study, ask, rows, x)
        true, others = exact[:, 0], exact[:, 1:]
        used = {"bpda": seen[:, 0], "other_key": others[:, 0], "eot": others.mean(1)}
        if short is not None:
            key = readings.judging(study, rows, readings.ONE)[:, 0]
            used["surrogate"] = programs.pull_back(
                short, plan.batch_size, key, np.asarray(x), seen[:, 0]
            )
        for name, gradient in used.items():
            aligned = jax.vmap(alignment.align)(true, gradient)
            cosines.setdefault(name, []).append(aligned.cosine)
        if signal is None:
            signal = jax.vmap(alignment.gradient_signal)(others)
        moved = x + plans.step_size(plan) * jax.vmap(ball.direction)(true)
        x = jax.vmap(ball.project)(moved, jnp.asarray(rows.images))
    assert signal is not None
    found = {name: np.stack(values, 1) for name, values in cosines.items()}
    return found | {"signal": np.asarray(signal.signal), "noise": np.asarray(signal.noise)}


def _surrogate(purifier: Any) -> Any:
    """DiffPure in fewer steps of DDIM, or None where it takes no more than these anyway."""
    if not isinstance(purifier, DiffPure) or len(purifier.chain) <= SURROGATE_STEPS:
        return None
    return DiffPure(
        purifier.denoiser,
        purifier.t_star,
        Ddim(num_steps=SURROGATE_STEPS),
        purifier.schedule,
        purifier.rounds,
        purifier.start,
    )


def _gradients(study: Study, ask: Ask, rows: Rows, x: Any) -> tuple[jax.Array, np.ndarray]:
    """Gradients of the loss under `1 + OTHER_KEYS` judging keys: exact, and BPDA's.

    Each `(n, keys, H, W, C)`. An image's are divided by its largest number under any key,
    for confident ones underflow; what it is does not change which way their mean goes.
    """
    size, numbers = study.plan.batch_size, np.arange(1 + OTHER_KEYS)
    same = readings.repeated(x, len(numbers))
    n, m, *shape = same.shape
    purified = readings.purify(study, ask, rows, numbers, same).reshape(n * m, *shape)
    labels = np.repeat(rows.labels, m)
    seen = programs.classifier_gradient(study.classifier, size, purified, labels)
    largest = np.abs(seen.reshape(n, -1)).max(1).repeat(m)[:, None, None, None]
    seen = seen / np.where(largest > 0, largest, 1)
    keys = readings.judging(study, rows, numbers).reshape(-1)
    flat = same.reshape(n * m, *shape)
    exact = programs.pull_back(study.purifier(ask), size, keys, flat, seen)
    return jnp.asarray(exact.reshape(same.shape)), seen.reshape(same.shape)
