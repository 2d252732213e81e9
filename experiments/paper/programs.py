"""What runs on the devices: few programs, each compiled once for a purifier's structure.

Examples lie side by side, split over the devices; a chunk that is not full is filled up
with its first row, so that nothing is compiled anew for it. Everything else that the
measures do is composed of these on the host.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from experiments.paper import plans
from jaxpure.attacks import Pgd, search
from jaxpure.defenses import PurifiedClassifier
from jaxpure.dissect import compression, denoising, draws, geometry, thresholds
from jaxpure.evaluation import local_mesh
from jaxpure.gradients import GRADIENTS
from jaxpure.keys import defense_key, example_key
from jaxpure.losses import cross_entropy
from jaxpure.policy import PRESETS
from jaxpure.pytrees import pytree
from jaxpure.specs import build


@pytree(eq=False)
class Known:
    """A defense under judging keys that are settled in advance: the mean of its logits.

    Attributes:
      defense: `(key, x) -> logits`.
      example: the example's key.
      numbers: `(m,)` of its judging keys that it is called with, whatever it is given.
    """

    defense: Any
    example: Any
    numbers: Any

    def __call__(self, key, x):
        del key
        under = jax.lax.map(
            lambda n: self.defense(defense_key(self.example, n), x), self.numbers
        )
        return jnp.mean(under, 0)


def example_keys(root, indices: np.ndarray) -> jax.Array:
    """`(n,)` the examples' keys."""
    return jax.vmap(example_key, (None, 0))(root, jnp.asarray(indices, jnp.int32))


def judging(root, indices: np.ndarray, numbers: np.ndarray) -> jax.Array:
    """`(n, m)` the examples' judging keys of these numbers `(m,)`."""
    keys, wanted = example_keys(root, indices), jnp.asarray(numbers)
    return jax.vmap(lambda k: jax.vmap(lambda n: defense_key(k, n))(wanted))(keys)


def attack(
    defense: Any,
    gradient: str,
    policy: str,
    eot: int,
    ball: Any,
    plan: Any,
    size: int,
    *rows,
) -> Any:
    """PGD on images side by side: its `Progress`, with a leading axis.

    Args:
      defense: a purified classifier.
      gradient: a rule without options: "exact" or "bpda".
      policy: "replay" gives the attack the known keys; "fresh" draws its own.
      eot: draws of a fresh gradient.
      ball: what it may do.
      plan: whose step size and number of steps.
      size: of a chunk.
      rows: examples' keys `(n,)`, known judging keys' numbers `(n, m)`, images and labels.
    """
    seen = PurifiedClassifier(
        build(GRADIENTS, gradient)(defense.purifier), defense.classifier
    )
    pgd = Pgd(step_size=plans.step_size(plan), num_steps=plan.num_steps, eot_samples=eot)
    return chunked(_attack, (pgd, seen, ball), rows, size, policy=policy)


def _attack(given, key, known, x, label, *, policy: str):
    pgd, seen, ball = given
    seen = Known(seen, key, known) if policy == "replay" else seen
    objective = pgd.objective(seen, PRESETS[policy])
    return search(pgd, objective, ball, key, x, label)


def purify(purifier: Any, size: int, keys, images) -> np.ndarray:
    """Purified images `(n, H, W, C)` of images under keys, row by row."""
    return chunked(_purify, purifier, (keys, images), size)


def _purify(purifier, key, x):
    return purifier(key, x)


def pull_back(purifier: Any, size: int, keys, images, cotangents) -> np.ndarray:
    """The transposed Jacobian times a cotangent `(n, H, W, C)`, row by row."""
    return chunked(_pull_back, purifier, (keys, images, cotangents), size)


def _pull_back(purifier, key, x, cotangent):
    return jax.vjp(lambda x: purifier(key, x), x)[1](cotangent)[0]


def classify(classifier: Any, size: int, images) -> np.ndarray:
    """Logits `(n, classes)`; NaN where an image is not finite, as a defense has it."""
    return chunked(_classify, classifier, (images,), size)


def _classify(classifier, x):
    return jnp.where(jnp.all(jnp.isfinite(x)), classifier(x), jnp.nan)


def classifier_gradient(classifier: Any, size: int, images, labels) -> np.ndarray:
    """The cross-entropy's gradient `(n, H, W, C)` at what the classifier sees."""
    return chunked(_classifier_gradient, classifier, (images, labels), size)


def _classifier_gradient(classifier, x, label):
    return jax.grad(lambda x: cross_entropy(classifier(x), label))(x)


def threshold(classifier: Any, maximum: float, size: int, images, directions) -> np.ndarray:
    """Critical thresholds `(n,)` of the classifier along directions."""
    return chunked(_threshold, (classifier, maximum), (images, directions), size)


def _threshold(given, x, direction):
    classifier, maximum = given
    return thresholds.critical_threshold(classifier, x, direction, maximum=maximum)


def system_threshold(defense: Any, maximum: float, size: int, *rows) -> np.ndarray:
    """Critical thresholds `(n,)` of a defense under keys: keys, images, directions."""
    return chunked(_system_threshold, (defense, maximum), rows, size)


def _system_threshold(given, key, x, direction):
    defense, maximum = given
    classify = partial(defense, key)
    return thresholds.critical_threshold(classify, x, direction, maximum=maximum)


def singular_values(purifier: Any, size: int, *rows, count: int, iterations: int) -> Any:
    """Leading singular values of the Jacobian: keys of judging, of the start, images."""
    static = {"count": count, "iterations": iterations}
    return chunked(_singular_values, purifier, rows, size, **static)


def _singular_values(purifier, key, start, x, *, count: int, iterations: int):
    under = partial(purifier, key)
    return compression.leading_singular_values(
        under, x, start, count, iterations=iterations
    )


def correlation_along(purifier: Any, size: int, keys, images) -> np.ndarray:
    """`geometry.correlation_along` over keys `(n, k)`: `(n, states)`."""
    return chunked(_correlation_along, purifier, (keys, images), size)


def _correlation_along(purifier, keys, x):
    def states(key):
        found = denoising.path(purifier, key, x)
        return denoising.rescaled(found.states, found.signal)[1:]  # the first is x itself

    return geometry.correlation_along(jax.lax.map(states, keys[1:]), x)


def correlation_of_part(purifier: Any, name: str, size: int, keys, images) -> np.ndarray:
    """Mean correlation `(n,)` where keys `(n, 1 + k)` after the first vary one part."""
    rows = keys, images
    return chunked(_correlation_of_part, purifier, rows, size, name=name)


def _correlation_of_part(purifier, keys, x, *, name: str):
    varied = draws.part_keys(keys[0], keys[1:], (name,))
    moved = jax.lax.map(lambda key: purifier(key, x) - x, varied)
    matrix, k = geometry.correlations(moved), len(moved)
    return (jnp.sum(matrix) - jnp.trace(matrix)) / (k * (k - 1))


def fate(purifier: Any, classifier: Any, size: int, *rows) -> Any:
    """`denoising.fate` with the signal's shrinking undone, without the states themselves.

    Args:
      purifier: one that has a path.
      classifier: `(x) -> logits`.
      size: of a chunk.
      rows: keys, clean images, perturbations, labels.
    """
    return chunked(_fate, (purifier, classifier), rows, size)


def _fate(given, key, x, perturbation, label):
    purifier, classifier = given
    found = denoising.fate(purifier, classifier, key, x, perturbation, label, rescale=True)
    return found._replace(path=found.path._replace(states=jnp.zeros(())))


def denoising_error(denoiser: Any, signal: Any, t: Any, size: int, keys, images) -> Any:
    """Mean squared error `(n,)` of the predicted noise at one noise level."""
    return chunked(_denoising_error, (denoiser, signal, t), (keys, images), size)


def _denoising_error(given, key, x):
    denoiser, signal, t = given
    noise = jax.random.normal(key, x.shape, x.dtype)
    noisy = jnp.sqrt(signal) * (2 * x - 1) + jnp.sqrt(1 - signal) * noise
    predicted = denoiser(noisy, t)[..., : x.shape[-1]]
    return jnp.mean(jnp.square(predicted - noise))


def chunked(one: Callable, given: Any, rows: tuple, size: int, **static: Any) -> Any:
    """`one(given, *row)` of every row, `size` (rounded up to the devices) at a time."""
    mesh = local_mesh()
    size = -(-size // mesh.size) * mesh.size
    program = _compiled(one, mesh, tuple(sorted(static.items())), len(rows))
    n, found = len(rows[0]), []
    for start in range(0, n, size):
        part = [row[start : start + size] for row in rows]
        count = len(part[0])
        part = [_filled(row, size) for row in part]
        out = jax.device_get(program(given, *part))
        found.append(jax.tree.map(lambda a, count=count: np.asarray(a)[:count], out))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def _filled(row: Any, size: int) -> Any:
    """Rows `(size, ...)`: those given, and then the first again."""
    places = np.arange(size)
    return row if len(row) == size else row[np.where(places < len(row), places, 0)]


@lru_cache
def _compiled(one: Callable, mesh, static: tuple, rows: int) -> Callable:
    def local(given, *arrays):
        return jax.vmap(partial(one, given, **dict(static)))(*arrays)

    return jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(), *[P("data")] * rows),
            out_specs=P("data"),
            check_vma=False,
        )
    )
