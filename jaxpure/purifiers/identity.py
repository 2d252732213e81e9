"""The identity: a purifier that does nothing, for the undefended classifier."""

from typing import ClassVar

from jaxpure.keys import AnyKey
from jaxpure.pytrees import pytree
from jaxpure.types import Image


@pytree(eq=False)
class Identity:
    """Returns the image as it is."""

    noise_parts: ClassVar[tuple[str, ...]] = ()
    denoiser_evaluations: ClassVar[int] = 0

    def __call__(self, key: AnyKey, x: Image) -> Image:
        del key
        return x
