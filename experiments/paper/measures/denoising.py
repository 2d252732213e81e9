"""What becomes of a perturbation along the chain."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import programs
from experiments.paper.asks import Ask
from experiments.paper.measures import readings
from experiments.paper.study import Arrays, Rows, Study
from jaxpure.dissect import denoising


def fate(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """What becomes of the replayed attack's perturbation along the chain, and of a random
    one of the same length: arrays `(n, 2, steps)`, in this order.
    """
    plan = study.plan
    adversarial = readings.replayed(study, ask, rows)["images"] - rows.images
    keys = readings.streams(study, rows, "paper/random")
    random = np.asarray(jax.vmap(denoising.random_like)(keys, jnp.asarray(adversarial)))
    found = [
        programs.fate(
            study.purifier(ask),
            study.classifier,
            plan.batch_size,
            readings.judging(study, rows, readings.ONE)[:, 0],
            rows.images,
            perturbation,
            rows.labels,
        )
        for perturbation in (adversarial, random)
    ]
    columns = {
        "l2": [f.distances.l2 for f in found],
        "linf": [f.distances.linf for f in found],
        "ssim": [f.distances.ssim for f in found],
        "along": [f.projection.along for f in found],
        "orthogonal": [f.projection.orthogonal for f in found],
        "paired": [f.paired.along for f in found],
        "margin": [f.margin for f in found],
    }
    path = {"signal": found[0].path.signal, "forward": found[0].path.forward}
    return {name: np.stack(values, 1) for name, values in columns.items()} | path
