"""Purification at another size of image: bilinear there, bilinear back.

DiffPure's way with ImageNet: images and classifiers have 224 pixels, the denoiser 256
(torch's `interpolate`, bilinear without antialiasing, corners not aligned).
"""

from collections.abc import Callable
from typing import Annotated, Any

import jax

from jaxpure.errors import check_range
from jaxpure.keys import AnyKey
from jaxpure.purifiers.common import Trajectory
from jaxpure.pytrees import Static, pytree
from jaxpure.specs import Registry
from jaxpure.types import Image


def _purifiers() -> Registry:
    """The registry that `Resized` is itself in."""
    from jaxpure.purifiers import PURIFIERS

    return PURIFIERS


@pytree(eq=False)
class Resized:
    """Runs a purifier on images of `image_size`, whatever the size of its input.

    Attributes:
      purifier: `(key, x) -> x`, a callable pytree.
      image_size: height and width at which it runs.
    """

    purifier: Annotated[Any, _purifiers]
    image_size: Static[int]

    def __post_init__(self):
        check_range(1, image_size=self.image_size)

    @property
    def noise_parts(self) -> tuple[str, ...]:
        return getattr(self.purifier, "noise_parts", ())

    @property
    def denoiser_evaluations(self) -> int | None:
        return getattr(self.purifier, "denoiser_evaluations", None)

    def __call__(self, key: AnyKey, x: Image) -> Image:
        there = resize(x, (self.image_size, self.image_size))
        return resize(self.purifier(key, there), x.shape[:2])

    @property
    def trajectory(self) -> Callable[[AnyKey, Image], Trajectory]:
        """That of the purifier, if it has one; its states are of `image_size`."""
        inner = self.purifier.trajectory

        def run(key: AnyKey, x: Image) -> Trajectory:
            found = inner(key, resize(x, (self.image_size, self.image_size)))
            return found._replace(purified=resize(found.purified, x.shape[:2]))

        return run


def resize(x: Image, size: tuple[int, ...]) -> Image:
    """Bilinear interpolation of `(H, W, C)` to `(*size, C)`, pixels as areas."""
    shape = (*size, x.shape[-1])
    return jax.image.resize(x, shape, method="linear", antialias=False)
