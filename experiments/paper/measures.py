"""The measurements, of one batch of examples: attacks, clouds of draws, gradients, rates.

Each is `(study, ask, rows, **options) -> arrays` with a row an example, composed of the
`programs`. Attacks and readings use the library's keys: judging key 0 is the replayed one.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import programs
from experiments.paper.asks import Ask
from experiments.paper.plans import Plan
from experiments.paper.study import Arrays, Measure, Rows, Study
from jaxpure.dissect import alignment, compression, denoising
from jaxpure.dissect.derivatives import normalise
from jaxpure.keys import stream

RADIUS = 0.01  # of a step that stands for an infinitesimal one, a pixel (root mean square)
FARTHEST = 5  # times the ball's L2 radius, how far a critical threshold is looked for
GRADIENT = 3  # purifications that a gradient through one costs, about
INPUTS, KEYS = 4, 8  # of the variance split
OTHER_KEYS = 4  # of the EOT mean that gradients are compared with
ONE = np.zeros(1, int)  # judging key 0 alone
ON_MANIFOLD = 0.9  # of the data's variance, by principal components


def attack(
    study: Study,
    ask: Ask,
    rows: Rows,
    *,
    policy: str,
    gradient: str = "exact",
    eot: int = 1,
    first: int = 0,
    known: int = 1,
) -> Arrays:
    """PGD, and what the defense makes of its images under all judging keys.

    Under replay it knows judging keys `first` to `first + known - 1` and climbs their mean
    logits. Images that it leaves are the best by its own lights.
    """
    plan = study.plan
    numbers = np.tile(first + np.arange(known, dtype=np.int32), (len(rows.labels), 1))
    keys = programs.example_keys(study.root, rows.indices)
    given = (study.defense(ask), gradient, policy, eot, study.ball, plan, plan.batch_size)
    found = programs.attack(*given, keys, numbers, rows.images, rows.labels)
    return {
        "images": found.adversarial,
        "logits": _logits(study, ask, rows, found.adversarial),
        "unusable": found.zero_gradients + found.bad_gradients,
    }


def clean(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """The images themselves: purified under judging key 0, and logits under all."""
    anchors = _purify(study, ask, rows, ONE, rows.images[:, None])[:, 0]
    return {"anchors": anchors, "logits": _logits(study, ask, rows, rows.images)}


def cloud(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """Purified minus original: of one image under many keys, of many starts under one key.

    Starts are random points of the ball about the image. `grid` is `INPUTS` starts, each
    under `KEYS` keys, purified.
    """
    plan, n = study.plan, len(rows.labels)
    starts = _starts(study, rows, plan.cloud)
    many, one = np.arange(plan.cloud), np.zeros(plan.cloud, int)
    same = np.repeat(rows.images[:, None], plan.cloud, axis=1)
    inputs = np.repeat(starts[:, :INPUTS, None], KEYS, axis=2)
    shape = rows.images.shape[1:]
    numbers = np.tile(np.arange(KEYS), INPUTS)
    grid = _purify(study, ask, rows, numbers, inputs.reshape(n, -1, *shape))
    return {
        "by_key": _purify(study, ask, rows, many, same) - same,
        "by_start": _purify(study, ask, rows, one, starts) - starts,
        "grid": grid.reshape(n, INPUTS, KEYS, *shape),
    }


def fate(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """What becomes of the replayed attack's perturbation along the chain, and of a random
    one of the same length: arrays `(n, 2, steps)`, in this order.
    """
    plan = study.plan
    adversarial = _replayed(study, ask, rows)["images"] - rows.images
    keys = _streams(study, rows, "paper/random")
    random = np.asarray(jax.vmap(denoising.random_like)(keys, jnp.asarray(adversarial)))
    found = [
        programs.fate(
            study.purifier(ask),
            study.classifier,
            plan.batch_size,
            _judging(study, rows, ONE)[:, 0],
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


def gradients(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """Cosines `(n, steps)` with the replayed gradient along the path that it leads.

    `bpda` is under the same key, `other_key` exact under judging key 1, `eot` the mean of
    `OTHER_KEYS` exact ones from key 1 on. `signal` and `noise` are of those at the image.
    """
    plan, ball = study.plan, study.ball
    x, cosines = jnp.asarray(rows.images), {"bpda": [], "other_key": [], "eot": []}
    signal = None
    for _ in range(plan.path_steps):
        seen = [_gradient(study, ask, rows, k, x) for k in range(1 + OTHER_KEYS)]
        (true, bpda), others = seen[0], jnp.stack([exact for exact, _ in seen[1:]], 1)
        used = {"bpda": bpda, "other_key": others[:, 0], "eot": jnp.mean(others, 1)}
        for name, gradient in used.items():
            cosines[name].append(
                jax.vmap(alignment.align)(jnp.asarray(true), gradient).cosine
            )
        if signal is None:
            signal = jax.vmap(alignment.gradient_signal)(others)
        moved = x + plan.step_size * jax.vmap(ball.direction)(true)
        x = jax.vmap(ball.project)(moved, jnp.asarray(rows.images))
    assert signal is not None
    found = {name: np.stack(values, 1) for name, values in cosines.items()}
    # In units of the true gradient's mean length nothing underflows.
    return found | {"signal": np.asarray(signal.signal), "noise": np.asarray(signal.noise)}


def rates(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """Compression rates under judging key 0 (lower is stronger).

    `expected` over isotropic directions at a small radius, `local` from the Jacobian with
    its error, `adversarial` along what the replayed attack returned, `finite` over
    isotropic directions of that length, `on` and `off` along directions inside and outside
    of the data's leading principal components.
    """
    plan, n = study.plan, len(rows.labels)
    shape, size = rows.images.shape[1:], rows.images[0].size
    radius = np.full((n, 1), RADIUS * size**0.5, np.float32)
    keys = _streams(study, rows, "paper/directions")
    like = jnp.zeros(shape)
    even = np.asarray(
        jax.vmap(lambda k: compression.isotropic(k, plan.directions, like))(keys)
    )
    on, off = on_and_off(even, study.dataset.floats())
    adversarial = _replayed(study, ask, rows)["images"] - rows.images
    length = np.sqrt(np.sum(adversarial**2, (1, 2, 3)))[:, None]
    along = np.asarray(jax.vmap(normalise)(jnp.asarray(adversarial)))[:, None]
    found = {
        "expected": _rates(study, ask, rows, even, radius),
        "on": _rates(study, ask, rows, on, radius),
        "off": _rates(study, ask, rows, off, radius),
        "finite": _rates(study, ask, rows, even, length),
        "adversarial": _rates(study, ask, rows, along, length),
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

    At the image and at its anchor; where no place has another class, the farthest that was
    looked at, and `reached` is false. `balls` are the classes, under judging key 0, of what
    the replayed attacks and random points make of the ball, `(n, points)`.
    """
    found = {"exact": _replayed(study, ask, rows)}
    bpda = ask.other("attack", policy="replay", gradient="bpda")
    found["bpda"] = study.unit(bpda, rows)
    direction = found["exact"]["images"] - rows.images
    anchors = study.unit(ask.other("clean"), rows)["anchors"]
    size = rows.images[0].size
    radius = study.plan.eps * (size**0.5 if study.ball.name == "linf" else 1)
    given = (study.classifier, FARTHEST * radius, study.plan.batch_size)
    at_image = programs.threshold(*given, rows.images, direction)
    at_anchor = programs.threshold(*given, anchors, direction)
    points = _starts(study, rows, 4)
    random = _classify(study, _purify(study, ask, rows, np.zeros(4, int), points))
    logits = [found["exact"]["logits"][:, :1], found["bpda"]["logits"][:, :1], random]
    balls = np.concatenate(logits, 1).argmax(-1)
    return {
        "at_image": np.where(np.isinf(at_image), FARTHEST * radius, at_image),
        "at_anchor": np.where(np.isinf(at_anchor), FARTHEST * radius, at_anchor),
        "reached": np.isfinite(at_anchor),
        "balls": balls,
    }


def sweep(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """One setting: clean and robust under replay, expected compression rate, seconds.

    `seconds` is the time of a purification, in a batch, compiled.
    """
    plan, n = study.plan, len(rows.labels)
    keys = programs.example_keys(study.root, rows.indices)
    given = (study.defense(ask), "exact", "replay", 1, study.ball, plan, plan.batch_size)
    known = np.zeros((n, 1), np.int32)
    found = programs.attack(*given, keys, known, rows.images, rows.labels)
    images = np.stack([rows.images, found.adversarial], 1)
    _purify(study, ask, rows, ONE, images[:, :1])  # compiled
    started = time.perf_counter()
    purified = _purify(study, ask, rows, np.zeros(2, int), images)
    seconds = (time.perf_counter() - started) / images.shape[0] / 2
    right = _classify(study, purified).argmax(-1) == rows.labels[:, None]
    size = rows.images[0].size
    streams = _streams(study, rows, "paper/directions")
    like = jnp.zeros(rows.images.shape[1:])
    even = jax.vmap(lambda k: compression.isotropic(k, plan.directions, like))(streams)
    radius = np.full((n, 1), RADIUS * size**0.5, np.float32)
    rate = _rates(study, ask, rows, np.asarray(even), radius)
    return {
        "clean": right[:, 0],
        "robust": right.all(1),
        "rate": rate.mean(1),
        "seconds": np.full(n, seconds),
    }


def quality(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """A denoiser's mean squared error at noise levels that its purifier goes through."""
    purifier = study.purifier(ask)
    levels = np.unique(np.linspace(0, len(purifier.chain) - 1, 4).astype(int))
    # The state that a step begins with has the signal of the step before it.
    signal = np.r_[float(purifier.signal), np.asarray(purifier.chain.signal)[:-1]]
    told = np.asarray(purifier.chain.labels, np.float32)
    keys = _streams(study, rows, "paper/quality")
    errors = [
        programs.denoising_error(
            purifier.denoiser,
            np.float32(signal[i]),
            told[i],
            study.plan.batch_size,
            keys,
            rows.images,
        )
        for i in levels
    ]
    return {"error": np.mean(errors, 0)}


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


def _gradient(study: Study, ask: Ask, rows: Rows, number: int, x: Any):
    """The exact and the BPDA gradient of the loss `(n, H, W, C)` under one judging key."""
    size, purifier, numbers = study.plan.batch_size, study.purifier(ask), np.array([number])
    purified = _purify(study, ask, rows, numbers, np.asarray(x)[:, None])[:, 0]
    seen = programs.classifier_gradient(study.classifier, size, purified, rows.labels)
    largest = np.abs(seen).max((1, 2, 3), keepdims=True)
    seen = seen / np.where(largest > 0, largest, 1)  # confident gradients underflow
    keys = _judging(study, rows, numbers)[:, 0]
    return programs.pull_back(purifier, size, keys, np.asarray(x), seen), seen


def _jacobian_squares(study: Study, ask: Ask, rows: Rows) -> np.ndarray:
    """||J^T u||^2 `(n, probes)` for standard normal u, under judging key 0."""
    n, probes, shape = len(rows.labels), study.plan.directions, rows.images.shape[1:]
    images = np.repeat(rows.images[:, None], probes, axis=1)
    streams = _streams(study, rows, "paper/probes")
    cotangents = jax.vmap(lambda k: jax.random.normal(k, (probes, *shape)))(streams)
    found = programs.pull_back(
        study.purifier(ask),
        study.plan.batch_size,
        _judging(study, rows, np.zeros(probes, int)).reshape(-1),
        images.reshape(-1, *shape),
        cotangents.reshape(-1, *shape),
    )
    return np.sum(found.reshape(n, probes, -1) ** 2, -1)


def _rates(study: Study, ask: Ask, rows: Rows, directions, radius) -> np.ndarray:
    """Compression rates `(n, d)` at radii `(n, 1)`, under judging key 0."""
    n, d = directions.shape[:2]
    lengths = np.sqrt(np.sum(directions.reshape(n, d, -1) ** 2, -1))
    steps = directions * (radius / np.where(lengths > 0, lengths, 1))[..., None, None, None]
    moved = np.concatenate([rows.images[:, None], rows.images[:, None] + steps], 1)
    numbers = np.zeros(d + 1, int)
    purified = _purify(study, ask, rows, numbers, moved.astype(np.float32))
    away = (purified[:, 1:] - purified[:, :1]).reshape(n, d, -1)
    # A perturbation of no length was not compressed: the attack left the image alone.
    return np.sqrt(np.sum(away**2, -1)) / np.where(radius > 0, radius, 1)


def _replayed(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """The replayed attack along the exact gradient."""
    return study.unit(ask.other("attack", policy="replay", gradient="exact"), rows)


def _starts(study: Study, rows: Rows, count: int) -> np.ndarray:
    """Random points `(n, count, H, W, C)` of the ball about each image."""
    keys = jax.vmap(lambda k: jax.random.split(k, count))(
        _streams(study, rows, "paper/starts")
    )
    images = jnp.asarray(rows.images)
    points = jax.vmap(lambda ks, x: jax.vmap(lambda k: study.ball.start(k, x))(ks))
    return np.asarray(points(keys, images))


def _judging(study: Study, rows: Rows, numbers: np.ndarray) -> jax.Array:
    """The judging keys of these numbers, `(n, m)`; made anew, for a key is used once."""
    return programs.judging(study.root, rows.indices, numbers)


def _streams(study: Study, rows: Rows, name: str) -> jax.Array:
    return jax.vmap(lambda k: stream(k, name))(
        programs.example_keys(study.root, rows.indices)
    )


def _purify(
    study: Study, ask: Ask, rows: Rows, numbers: np.ndarray, images: Any
) -> np.ndarray:
    """Purified `(n, m, H, W, C)` of such images under judging keys of `numbers` `(m,)`."""
    shape = images.shape
    found = programs.purify(
        study.purifier(ask),
        study.plan.batch_size,
        _judging(study, rows, numbers).reshape(-1),
        images.reshape(-1, *shape[2:]),
    )
    return found.reshape(shape)


def _classify(study: Study, images: np.ndarray) -> np.ndarray:
    """Logits `(n, m, classes)` of purified images `(n, m, H, W, C)`."""
    n, m, *shape = images.shape
    flat = images.reshape(-1, *shape)
    found = programs.classify(study.classifier, study.plan.batch_size, flat)
    return found.reshape(n, m, -1)


def _logits(study: Study, ask: Ask, rows: Rows, images: np.ndarray) -> np.ndarray:
    """Logits `(n, keys, classes)` of images `(n, H, W, C)` under all judging keys."""
    count = study.plan.judging_keys
    same = np.repeat(np.asarray(images)[:, None], count, axis=1)
    return _classify(study, _purify(study, ask, rows, np.arange(count), same))


def _attack_cost(
    plan: Plan, policy: str, gradient: str = "exact", eot: int = 1, first=0, known: int = 1
) -> float:
    del first
    each = (GRADIENT if gradient == "exact" else 1) + (policy == "fresh")
    return (plan.num_steps + 1) * each * max(eot, known) + plan.judging_keys


MEASURES = {
    "attack": Measure(attack, _attack_cost),
    "clean": Measure(clean, lambda plan: plan.judging_keys + 1),
    "cloud": Measure(
        cloud, lambda plan: 2 * plan.cloud + INPUTS * KEYS, lambda plan: plan.cloud_images
    ),
    "fate": Measure(fate, lambda plan: 4),
    "gradients": Measure(
        gradients, lambda plan: plan.path_steps * (1 + OTHER_KEYS) * (1 + GRADIENT)
    ),
    "rates": Measure(rates, lambda plan: plan.directions * (4 + GRADIENT) + 6),
    "thresholds": Measure(thresholds, lambda plan: 4),
    "sweep": Measure(
        sweep, lambda plan: (plan.num_steps + 1) * GRADIENT + plan.directions + 4
    ),
    "quality": Measure(quality, lambda plan: 0.1),
}
