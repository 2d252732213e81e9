"""A defense: a purifier, then a classifier; and what each costs."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp

from jaxpure.randomness import PartKeys
from jaxpure.types import Image, Key, Logits, Purifier, register_pytree


@partial(
    register_pytree,
    data_fields=["purifier", "classifier"],
    meta_fields=[],
)
@dataclass(frozen=True, eq=False)
class PurifiedClassifier:
    """`(key, x) -> logits`: classifies the purified image.

    Where the purified image is not finite the logits are NaN, whatever the classifier would
    make of it: such a draw is never right.

    Attributes:
      purifier: `(key, x) -> x`, a callable pytree.
      classifier: `(x) -> logits`, a callable pytree.
    """

    purifier: Any
    classifier: Any

    def __call__(self, key: Key | PartKeys, x: Image) -> Logits:
        purified = self.purifier(key, x)
        logits = self.classifier(purified)
        return jnp.where(jnp.all(jnp.isfinite(purified)), logits, jnp.nan)


def noise_parts(purifier: Purifier) -> tuple[str, ...]:
    """The named parts of a purifier's noise; none for a plain function."""
    return getattr(purifier, "noise_parts", ())


def denoiser_evaluations(purifier: Purifier) -> int | None:
    """Calls of the denoiser in one purification; None where the purifier does not say."""
    return getattr(purifier, "denoiser_evaluations", None)
