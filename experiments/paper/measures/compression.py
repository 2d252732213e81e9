"""Compression rates, critical thresholds, and the Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import plans, programs
from experiments.paper.asks import Ask
from experiments.paper.measures import readings
from experiments.paper.study import Arrays, Rows, Study
from jaxpure.dissect.derivatives import normalise

FARTHEST = 5  # times the ball's L2 radius, how far a critical threshold is looked for
RADII = (0.003, 0.01, 0.03, 0.1)  # a pixel (root mean square), of the rate's stability
STABLE_KEYS = 3
SINGULAR, POWER = 4, 3  # leading singular values, and iterations that find them
ON_MANIFOLD = 0.9  # of the data's variance, by principal components


def rates(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """Compression rates under judging key 0 (lower is stronger).

    `expected` over isotropic directions at a small radius, `local` from the Jacobian with
    its error, `adversarial` along what the replayed attack returned, `finite` over
    isotropic directions of that length, `on` and `off` along directions inside and outside
    of the data's leading principal components.
    """
    plan, n = study.plan, len(rows.labels)
    size = rows.images[0].size
    radius = np.full((n, 1), readings.RADIUS * size**0.5, np.float32)
    even = np.asarray(readings.isotropic(study, rows))
    on, off = on_and_off(even, study.dataset.floats())
    adversarial = readings.replayed(study, ask, rows)["images"] - rows.images
    length = np.sqrt(np.sum(adversarial**2, (1, 2, 3)))[:, None]
    along = np.asarray(jax.vmap(normalise)(jnp.asarray(adversarial)))[:, None]
    found = {
        "expected": readings.rates(study, ask, rows, even, radius),
        "on": readings.rates(study, ask, rows, on, radius),
        "off": readings.rates(study, ask, rows, off, radius),
        "finite": readings.rates(study, ask, rows, even, length),
        "adversarial": readings.rates(study, ask, rows, along, length),
    }
    squares = _jacobian_squares(study, ask, rows) / size
    local = np.sqrt(squares.mean(1))
    error = squares.std(1, ddof=1) / plan.directions**0.5 / (2 * local)
    return {name: values.mean(1) for name, values in found.items()} | {
        "local": local,
        "local_error": error,
    }


def thresholds(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """Critical thresholds of the classifier along the replayed attack's direction, L2.

    At the image and at its anchor, and of purifier and classifier under judging key 0 at
    both; where no place has another class, the farthest that was looked at, and `reached`
    (at the anchor) is false. `balls` are the classes, under judging key 0, of what
    the replayed attacks and random points make of the ball, `(n, points)`.
    """
    found = {"exact": readings.replayed(study, ask, rows)}
    bpda = ask.other("attack", policy="replay", gradient="bpda")
    found["bpda"] = study.unit(bpda, rows)
    direction = found["exact"]["images"] - rows.images
    anchors = study.unit(ask.other("clean"), rows)["anchors"]
    size = rows.images[0].size
    radius = plans.eps(study.plan) * (size**0.5 if study.ball.name == "linf" else 1)
    given = (study.classifier, FARTHEST * radius, study.plan.batch_size)
    at_image = programs.threshold(*given, rows.images, direction)
    at_anchor = programs.threshold(*given, anchors, direction)
    system = [
        programs.system_threshold(
            study.defense(ask),
            *given[1:],
            readings.judging(study, rows, readings.ONE)[:, 0],
            x,
            direction,
        )
        for x in (rows.images, anchors)
    ]
    points = readings.starts(study, rows, 4)
    random = readings.classify(
        study, readings.purify(study, ask, rows, np.zeros(4, int), points)
    )
    logits = [found["exact"]["logits"][:, :1], found["bpda"]["logits"][:, :1], random]
    balls = np.concatenate(logits, 1).argmax(-1)
    found = {"at_image": at_image, "at_anchor": at_anchor}
    found |= {"system_at_image": system[0], "system_at_anchor": system[1]}
    bounded = {k: np.where(np.isinf(v), FARTHEST * radius, v) for k, v in found.items()}
    return bounded | {"reached": np.isfinite(at_anchor), "balls": balls}


def stability(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """Compression rates at `RADII` under `STABLE_KEYS` judging keys, and singular values.

    `rates` is `(n, keys, directions, radii)`, `radii` `(n, radii)` in L2. `singular` are
    the `SINGULAR` largest of the Jacobian under judging key 0, `(n, SINGULAR)`, and `on`
    the share of each one's direction that lies inside of the data's components.
    """
    plan, n = study.plan, len(rows.labels)
    size = rows.images[0].size
    directions = np.asarray(readings.isotropic(study, rows))
    radii = np.array(RADII, np.float32) * size**0.5
    found = np.stack(
        [
            np.stack(
                [
                    readings.rates(study, ask, rows, directions, np.full((n, 1), radius), k)
                    for k in range(STABLE_KEYS)
                ],
                1,
            )
            for radius in radii
        ],
        -1,
    )
    keys, probes = (
        readings.judging(study, rows, readings.ONE)[:, 0],
        readings.streams(study, rows, "paper/singular"),
    )
    given = study.purifier(ask), plan.batch_size, keys, probes, rows.images
    leading = programs.singular_values(*given, count=min(SINGULAR, size), iterations=POWER)
    inside, _ = on_and_off(np.asarray(leading.inputs), study.dataset.floats())
    return {
        "rates": found,
        "radii": np.tile(radii, (n, 1)),
        "singular": leading.values,
        "on": np.sum(inside.reshape(*inside.shape[:2], -1) ** 2, -1),
    }


def on_and_off(directions: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directions `(n, d, ...)` split into their parts inside and outside of a subspace.

    The subspace is that of the principal components of `images` `(m, ...)` that carry
    `ON_MANIFOLD` of their variance.
    """
    flat = images.reshape(len(images), -1).astype(np.float64)
    _, singular, components = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    share = np.cumsum(singular**2) / np.sum(singular**2)
    basis = components[: int(np.searchsorted(share, ON_MANIFOLD)) + 1]
    rows = directions.reshape(*directions.shape[:2], -1)
    on = rows @ basis.T @ basis
    shape = directions.shape
    return (
        on.reshape(shape).astype(np.float32),
        (rows - on).reshape(shape).astype(np.float32),
    )


def _jacobian_squares(study: Study, ask: Ask, rows: Rows) -> np.ndarray:
    """||J^T u||^2 `(n, probes)` for standard normal u, under judging key 0."""
    n, probes, shape = len(rows.labels), study.plan.directions, rows.images.shape[1:]
    images = readings.repeated(rows.images, probes)
    streams = readings.streams(study, rows, "paper/probes")
    cotangents = jax.vmap(lambda k: jax.random.normal(k, (probes, *shape)))(streams)
    found = programs.pull_back(
        study.purifier(ask),
        study.plan.batch_size,
        readings.judging(study, rows, np.zeros(probes, int)).reshape(-1),
        images.reshape(-1, *shape),
        cotangents.reshape(-1, *shape),
    )
    return np.sum(found.reshape(n, probes, -1) ** 2, -1)
