"""Balls: what an attack may do to an image.

A ball says where an attack starts, which way is up, the way back inside, and by how much an
image is outside. Images stay in [0, 1] too: in Linf and L2 a projection is onto the ball
first and the box second, which never leaves the ball, since the centre lies in the box.
In L1 that order would throw most of the ball's radius away, so the projection is onto
what both share.
"""

import math
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxpure.attacks.flow import Flow
from jaxpure.errors import UserError, check_range
from jaxpure.keys import Key, drawn
from jaxpure.pytrees import pytree
from jaxpure.specs import Registry
from jaxpure.types import Image

# A float32 sum of a pixel and eps may leave the ball by a rounding.
RELATIVE_SLACK = 1e-5


class Ball(Protocol):
    """What every ball has; those of pixels also have the methods of `NormBall`.

    Attributes:
      name: of the ball, as specs have it.
      eps: its radius.
    """

    name: ClassVar[str]
    eps: Any

    def start(self, key: Key, x: Image) -> jax.Array:
        """A random point of the ball around `x`: an image, or what makes one of it."""
        ...

    def excess(self, images: np.ndarray, originals: np.ndarray) -> np.ndarray:
        """By how much images `(n, H, W, C)` are outside, `(n,)` float64; 0 inside."""
        ...

    def largest(self, shape: tuple[int, ...]) -> float:
        """The radius at which every image of this shape is within reach."""
        ...


class NormBall(Ball, Protocol):
    """A ball of changed pixels."""

    def direction(self, gradient: jax.Array) -> jax.Array:
        """The change of unit norm that gains most along a gradient; zero for zero."""
        ...

    def project(self, x: Image, centre: Image) -> Image:
        """`x` into the ball around `centre` and the box."""
        ...

    def distance(self, x: Image, centre: Image) -> jax.Array:
        """The norm `()` of the change from `centre` to `x`."""
        ...

    def random_direction(self, key: Key, like: Image) -> Image:
        """Noise of unit norm: uniform noise in Linf, Gaussian in L2 and L1."""
        ...


@pytree
class Linf:
    """No pixel changes by more than `eps`, in units of the image's range [0, 1]."""

    eps: float

    name: ClassVar[str] = "linf"

    def __post_init__(self):
        check_range(0, 1, eps=self.eps)

    def start(self, key: Key, x: Image) -> Image:
        noise = drawn(jax.random.uniform, key, x.shape, x.dtype, -1, 1)
        return self.project(x + self.eps * noise, x)

    def direction(self, gradient: jax.Array) -> jax.Array:
        return jnp.sign(gradient)

    def project(self, x: Image, centre: Image) -> Image:
        return jnp.clip(jnp.clip(x, centre - self.eps, centre + self.eps), 0, 1)

    def distance(self, x: Image, centre: Image) -> jax.Array:
        return jnp.max(jnp.abs(x - centre))

    def random_direction(self, key: Key, like: Image) -> Image:
        noise = drawn(jax.random.uniform, key, like.shape, like.dtype, -1, 1)
        return noise / self.distance(noise, jnp.zeros_like(noise))

    def excess(self, images: np.ndarray, originals: np.ndarray) -> np.ndarray:
        return _beyond(distances(images, originals)["linf"], self.eps)

    def largest(self, shape: tuple[int, ...]) -> float:
        del shape
        return 1.0

    def __str__(self) -> str:
        return f"L-inf {255 * self.eps:.4g}/255"


@pytree
class L2:
    """The changes of all pixels have a Euclidean length of at most `eps`."""

    eps: float

    name: ClassVar[str] = "l2"

    def __post_init__(self):
        check_range(0, eps=self.eps)

    def start(self, key: Key, x: Image) -> Image:
        # A Gaussian in d + 2 dimensions, normalised, is uniform in the ball of its first d.
        noise = jax.random.normal(key, (x.size + 2,), x.dtype)
        point = (noise / jnp.linalg.norm(noise))[: x.size].reshape(x.shape)
        return self.project(x + self.eps * point, x)

    def direction(self, gradient: jax.Array) -> jax.Array:
        # Scaled first: the squares of a confident classifier's gradients underflow.
        largest = jnp.max(jnp.abs(gradient))
        scaled = gradient / jnp.where(largest > 0, largest, 1)
        return scaled / jnp.maximum(jnp.linalg.norm(scaled.ravel()), 1)

    def project(self, x: Image, centre: Image) -> Image:
        delta = x - centre
        length = jnp.linalg.norm(delta.ravel())
        outside = length > self.eps
        factor = jnp.where(outside, self.eps / jnp.where(outside, length, 1), 1)
        return jnp.clip(centre + factor * delta, 0, 1)

    def distance(self, x: Image, centre: Image) -> jax.Array:
        return jnp.linalg.norm((x - centre).ravel())

    def random_direction(self, key: Key, like: Image) -> Image:
        noise = drawn(jax.random.normal, key, like.shape, like.dtype)
        return noise / self.distance(noise, jnp.zeros_like(noise))

    def excess(self, images: np.ndarray, originals: np.ndarray) -> np.ndarray:
        return _beyond(distances(images, originals)["l2"], self.eps)

    def largest(self, shape: tuple[int, ...]) -> float:
        return math.sqrt(math.prod(shape))

    def __str__(self) -> str:
        return f"L2 {self.eps:.4g}"


@pytree
class L1:
    """The absolute changes of all pixels sum up to at most `eps`."""

    eps: float

    name: ClassVar[str] = "l1"

    def __post_init__(self):
        check_range(0, eps=self.eps)

    def start(self, key: Key, x: Image) -> Image:
        # Exponentials over their sum are uniform in the simplex; one more than there are
        # pixels leaves the others uniform in its inside. Every orthant is as likely.
        sizes, signs = jax.random.split(key)
        sizes = jax.random.exponential(sizes, (x.size + 1,), x.dtype)
        signs = drawn(jax.random.rademacher, signs, x.shape, x.dtype)
        point = signs * (sizes / jnp.sum(sizes))[: x.size].reshape(x.shape)
        return jnp.clip(x + self.eps * point, 0, 1)

    def direction(self, gradient: jax.Array) -> jax.Array:
        size = jnp.abs(gradient.ravel())
        largest = jnp.arange(size.size) == jnp.argmax(size)
        return jnp.sign(gradient) * largest.reshape(gradient.shape)

    def project(self, x: Image, centre: Image) -> Image:
        """The nearest point of ball and box together (Croce and Hein 2021, section 3.1).

        With `size` the absolute changes and `room` the way from the centre to the box's
        edge, the change that is kept is `min(max(size - threshold, 0), room)`, and its
        sum has to be eps. That sum falls with the threshold, linearly between
        breakpoints: a pixel begins to shrink at `size - room`, where it leaves the box's
        edge, and is back at the centre at `size`.
        """
        delta = (x - centre).ravel()
        size = jnp.abs(delta)
        room = jnp.where(delta > 0, 1 - centre.ravel(), centre.ravel())
        begins = jnp.maximum(size - room, 0)
        breakpoints = jnp.concatenate([begins, size])
        slopes = jnp.concatenate([-jnp.ones_like(size), jnp.ones_like(size)])
        order = jnp.argsort(breakpoints)
        breakpoints, slopes = breakpoints[order], jnp.cumsum(slopes[order])
        drops = jnp.diff(breakpoints, append=breakpoints[-1:]) * slopes
        total = jnp.sum(size - begins)
        length_at = total + jnp.concatenate(
            [jnp.zeros_like(drops[:1]), jnp.cumsum(drops)[:-1]]
        )
        last = jnp.maximum(jnp.sum(length_at >= self.eps) - 1, 0)  # the last too low
        falls = jnp.maximum(-slopes[last], 1)
        threshold = breakpoints[last] + (length_at[last] - self.eps) / falls
        kept = jnp.minimum(jnp.maximum(size - threshold, 0), room)
        length = jnp.sum(kept)  # eps, but for the rounding of the running sums
        outside = length > self.eps
        kept = kept * jnp.where(outside, self.eps / jnp.where(outside, length, 1), 1)
        moved = centre + (jnp.sign(delta) * kept).reshape(x.shape)
        return jnp.clip(jnp.where(total > self.eps, moved, x), 0, 1)

    def distance(self, x: Image, centre: Image) -> jax.Array:
        return jnp.sum(jnp.abs(x - centre))

    def random_direction(self, key: Key, like: Image) -> Image:
        noise = drawn(jax.random.normal, key, like.shape, like.dtype)
        return noise / self.distance(noise, jnp.zeros_like(noise))

    def excess(self, images: np.ndarray, originals: np.ndarray) -> np.ndarray:
        return _beyond(distances(images, originals)["l1"], self.eps)

    def largest(self, shape: tuple[int, ...]) -> float:
        return float(math.prod(shape))

    def __str__(self) -> str:
        return f"L1 {self.eps:.4g}"


BALLS = Registry(
    "ball",
    {
        "linf": Linf,
        "l2": L2,
        "l1": L1,
        "flow": Flow,
    },
)


def ascend(
    ball: NormBall,
    x: Image,
    original: Image,
    gradient: jax.Array,
    step_size: jax.Array | float,
) -> Image:
    """One step up the gradient and back into the ball and the box."""
    return ball.project(x + step_size * ball.direction(gradient), original)


def check_ball(attack: str, ball: Any, names: tuple[str, ...]) -> None:
    """Raises UserError where an attack has no way of its own in this ball."""
    if ball.name not in names:
        raise UserError(
            f"{attack} attacks in {', '.join(names)}, not in {ball.name}; give it one of "
            "these balls, or choose another attack"
        )


def check_radius(ball: Ball, shape: tuple[int, ...]) -> None:
    """Raises UserError for a ball of one image, and for one that holds all there are."""
    most = ball.largest(shape)
    if not 0 < ball.eps <= most:
        raise UserError(
            f"ball {ball.name} with eps={ball.eps!r}: expected above 0, where an attack "
            f"has nothing to change, to {most:g}, where every image is within reach"
        )


def distances(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """Norms of the change between images `(n, H, W, C)`, each `(n,)` float64."""
    size = np.abs(a.astype(np.float64) - b).reshape(len(a), -1)
    return {
        "linf": size.max(1),
        "l2": np.sqrt(np.square(size).sum(1)),
        "l1": size.sum(1),
    }


def _beyond(distance: np.ndarray, eps: float) -> np.ndarray:
    return np.maximum(distance - float(eps) * (1 + RELATIVE_SLACK), 0)
