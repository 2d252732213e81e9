"""The identity: a purifier that does nothing, for the undefended classifier."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from jaxpure.randomness import PartKeys
from jaxpure.types import Image, Key, register_pytree


@partial(register_pytree, data_fields=[], meta_fields=[])
@dataclass(frozen=True, eq=False)
class Identity:
    """Returns the image as it is."""

    noise_parts: ClassVar[tuple[str, ...]] = ()
    denoiser_evaluations: ClassVar[int] = 0

    def __call__(self, key: Key | PartKeys, x: Image) -> Image:
        del key
        return x
