"""Is the gradient that an attack follows the derivative of the defense it attacks?

Under one key a defense is a deterministic function, so finite differences tell. They are
taken in float64, in which the networks here compute if their input is float64.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure.diffusion import reverse
from jaxpure.losses import loss_of

STEP = 1e-5  # of the central differences: their error is its square


class Segment(NamedTuple):
    """The derivative of a piece of the reverse chain.

    Attributes:
      first: timestep at which the piece begins.
      last: timestep at which it ends, lower.
      relative_error: of its derivative against finite differences.
    """

    first: int
    last: int
    relative_error: float


class GradientCheck(NamedTuple):
    """What came of a check.

    Attributes:
      relative_error: length of `gradient . d - differences along d` over random
        directions d, in units of the differences' own: 0 is the derivative, 1 is no
        better than a gradient of zero.
      cosine: between the two lists of slopes; 1 where only the length is wrong.
      gradient_norm: L2.
      finite: whether every entry of the gradient is.
      segments: of the purifier's reverse chain, if it has one; first the noisiest.
    """

    relative_error: float
    cosine: float
    gradient_norm: float
    finite: bool
    segments: list[Segment]


def check_gradient(
    seen: Any,
    plain: Any,
    key: Any,
    x: np.ndarray,
    label: int,
    *,
    loss: Any = "cross_entropy",
    auxiliary_loss: Any = None,
    num_directions: int = 8,
    num_segments: int = 5,
    seed: int = 0,
) -> GradientCheck:
    """Compares a rule's gradient with finite differences of the plain defense.

    Args:
      seen: `PurifiedClassifier` under a gradient rule: whose gradient is checked.
      plain: the same without a rule: whose value is differenced.
      key: the noise, the same for every evaluation.
      x: `(H, W, C)` in [0, 1].
      label: the true class.
      loss: a name of `losses.LOSSES`, or a function `(logits, label) -> ()`.
      auxiliary_loss: what an attack adds to it; see `Objective.auxiliary_loss`.
      num_directions: random directions of unit length.
      num_segments: pieces into which a purifier's reverse chain is cut.
      seed: of the directions.
    """
    raw = jax.random.key_data(key)
    with jax.enable_x64(True):
        key = jax.random.wrap_key_data(jnp.asarray(np.asarray(raw)))
        seen, plain = _widened(seen), _widened(plain)
        wide = jnp.asarray(x, jnp.float64)

        def value(defense, x):
            logits, added = (
                (defense(key, x), 0.0)
                if auxiliary_loss is None
                else (auxiliary_loss(defense, key, x))
            )
            return loss_of(loss, jnp.asarray(label))(logits) + added

        gradient = jax.jit(jax.grad(lambda x: value(seen, x)))(wide)
        directions = _directions(seed, num_directions, wide.shape)
        slopes = _slopes(gradient, directions)
        differences = _differences(jax.jit(lambda x: value(plain, x)), wide, directions)
        return GradientCheck(
            _relative(slopes - differences, differences),
            float(_cosine(slopes, differences)),
            float(jnp.linalg.norm(gradient)),
            bool(jnp.isfinite(gradient).all()),
            _check_chain(plain.purifier, key, wide, directions, num_segments),
        )


def _check_chain(
    purifier: Any, key: Any, x: jax.Array, directions: np.ndarray, num_segments: int
) -> list[Segment]:
    """Each piece of the chain from the state that it meets, against a random cotangent."""
    chain, denoiser = getattr(purifier, "chain", None), getattr(purifier, "denoiser", None)
    if chain is None or denoiser is None:
        return []
    state, segments = 2 * x - 1, []
    cotangent = _directions(1, 1, x.shape)[0]
    for piece in np.array_split(np.arange(len(chain)), min(num_segments, len(chain))):
        part = jax.tree.map(lambda a, i=piece: jnp.asarray(a)[i], chain)

        def run(x, part=part):
            return reverse(part, denoiser, key, x)

        result, pullback = jax.jit(lambda x, run=run: jax.vjp(run, x))(state)
        slopes = _slopes(pullback(jnp.asarray(cotangent))[0], directions)
        along = jax.jit(lambda x, run=run: jnp.vdot(run(x), cotangent))
        differences = _differences(along, state, directions)
        first, last = chain.noise_index[piece[0]], chain.noise_index[piece[-1]]
        error = _relative(slopes - differences, differences)
        segments.append(Segment(int(first), int(last), error))
        state = result
    return segments


def _directions(seed: int, count: int, shape: tuple[int, ...]) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((count, *shape))
    lengths = np.sqrt(np.square(drawn).sum(tuple(range(1, drawn.ndim)), keepdims=True))
    return drawn / lengths


def _slopes(gradient: jax.Array, directions: np.ndarray) -> np.ndarray:
    return np.array([float(jnp.vdot(gradient, d)) for d in directions])


def _differences(
    f: Callable[[jax.Array], jax.Array], x: jax.Array, directions: np.ndarray
) -> np.ndarray:
    """Central differences of `f` at `x` along each direction."""
    return np.array(
        [float((f(x + STEP * d) - f(x - STEP * d)) / (2 * STEP)) for d in directions]
    )


def _relative(error: np.ndarray, reference: np.ndarray) -> float:
    size = float(np.linalg.norm(reference))
    return float(np.linalg.norm(error)) / size if size else float("inf")


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else 0.0


def _widened(tree: Any) -> Any:
    """Every float of a pytree in float64."""

    def widen(leaf):
        is_float = jnp.issubdtype(getattr(leaf, "dtype", jnp.int32), jnp.floating)
        return jnp.asarray(leaf, jnp.float64) if is_float else leaf

    return jax.tree.map(widen, tree)
