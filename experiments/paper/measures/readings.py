"""What measurements are composed of: keys, purified images, their logits, rates, PGD.

Arrays have a row an example. Attacks and readings use the library's keys: judging key 0 is
the replayed one.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import programs
from experiments.paper.asks import Ask
from experiments.paper.study import Arrays, Rows, Study
from jaxpure.dissect import compression
from jaxpure.keys import stream

RADIUS = 0.01  # of a step that stands for an infinitesimal one, a pixel (root mean square)
ONE = np.zeros(1, int)  # judging key 0 alone


def judging(study: Study, rows: Rows, numbers: np.ndarray) -> jax.Array:
    """The judging keys of these numbers, `(n, m)`; made anew, for a key is used once."""
    return programs.judging(study.root, rows.indices, numbers)


def streams(study: Study, rows: Rows, name: str) -> jax.Array:
    """A key `(n,)` of each example, of this name."""
    return jax.vmap(lambda k: stream(k, name))(
        programs.example_keys(study.root, rows.indices)
    )


def repeated(images: np.ndarray, count: int) -> np.ndarray:
    """Each image `count` times: `(n, count, H, W, C)`."""
    return np.repeat(np.asarray(images)[:, None], count, axis=1)


def starts(study: Study, rows: Rows, count: int) -> np.ndarray:
    """Random points `(n, count, H, W, C)` of the ball about each image."""
    keys = jax.vmap(lambda k: jax.random.split(k, count))(
        streams(study, rows, "paper/starts")
    )
    images = jnp.asarray(rows.images)
    points = jax.vmap(lambda ks, x: jax.vmap(lambda k: study.ball.start(k, x))(ks))
    return np.asarray(points(keys, images))


def isotropic(study: Study, rows: Rows) -> jax.Array:
    """Even directions `(n, d, H, W, C)`."""
    like = jnp.zeros(rows.images.shape[1:])
    directions = partial(compression.isotropic, n=study.plan.directions, like=like)
    return jax.vmap(directions)(streams(study, rows, "paper/directions"))


def purify(
    study: Study, ask: Ask, rows: Rows, numbers: np.ndarray, images: Any
) -> np.ndarray:
    """Purified `(n, m, H, W, C)` of such images under judging keys of `numbers` `(m,)`."""
    return purified(study, study.purifier(ask), rows, numbers, images)


def purified(
    study: Study, purifier: Any, rows: Rows, numbers: np.ndarray, images: Any
) -> np.ndarray:
    """`purify` of a purifier that no ask names."""
    shape = images.shape
    found = programs.purify(
        purifier,
        study.plan.batch_size,
        judging(study, rows, numbers).reshape(-1),
        images.reshape(-1, *shape[2:]),
    )
    return found.reshape(shape)


def classify(study: Study, images: np.ndarray) -> np.ndarray:
    """Logits `(n, m, classes)` of purified images `(n, m, H, W, C)`."""
    n, m, *shape = images.shape
    flat = images.reshape(-1, *shape)
    found = programs.classify(study.classifier, study.plan.batch_size, flat)
    return found.reshape(n, m, -1)


def logits(study: Study, ask: Ask, rows: Rows, images: np.ndarray) -> np.ndarray:
    """Logits `(n, keys, classes)` of images `(n, H, W, C)` under all judging keys."""
    count = study.plan.judging_keys
    same = repeated(images, count)
    return classify(study, purify(study, ask, rows, np.arange(count), same))


def rates(
    study: Study, ask: Ask, rows: Rows, directions, radius, number: int = 0
) -> np.ndarray:
    """Compression rates `(n, d)` at radii `(n, 1)`, under a judging key."""
    n, d = directions.shape[:2]
    lengths = np.sqrt(np.sum(directions.reshape(n, d, -1) ** 2, -1))
    steps = directions * (radius / np.where(lengths > 0, lengths, 1))[..., None, None, None]
    moved = np.concatenate([rows.images[:, None], rows.images[:, None] + steps], 1)
    numbers = np.full(d + 1, number)
    purified = purify(study, ask, rows, numbers, moved.astype(np.float32))
    away = (purified[:, 1:] - purified[:, :1]).reshape(n, d, -1)
    # A perturbation of no length was not compressed: the attack left the image alone.
    return np.sqrt(np.sum(away**2, -1)) / np.where(radius > 0, radius, 1)


def pgd(
    study: Study,
    ask: Ask,
    rows: Rows,
    policy: str,
    gradient: str,
    eot: int,
    numbers: np.ndarray,
) -> Any:
    """PGD's `Progress`; under replay it knows the judging keys of `numbers`."""
    plan = study.plan
    keys = programs.example_keys(study.root, rows.indices)
    known = np.tile(numbers, (len(rows.labels), 1))
    given = (study.defense(ask), gradient, policy, eot, study.ball, plan, plan.batch_size)
    return programs.attack(*given, keys, known, rows.images, rows.labels)


def replayed(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """The replayed attack along the exact gradient."""
    return study.unit(ask.other("attack", policy="replay", gradient="exact"), rows)
