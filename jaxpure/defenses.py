"""A defense: a purifier, then a classifier; and what each costs."""

from typing import Any

import jax.numpy as jnp

from jaxpure.errors import UserError
from jaxpure.keys import AnyKey
from jaxpure.pytrees import pytree
from jaxpure.types import Image, Logits, Purifier


@pytree(eq=False)
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

    def __call__(self, key: AnyKey, x: Image) -> Logits:
        purified = self.purifier(key, x)
        if purified.shape != x.shape:
            raise UserError(
                f"the purifier makes {purified.shape} of an image of {x.shape}; expected "
                "the same shape"
            )
        logits = self.classifier(purified)
        if logits.ndim != 1:
            raise UserError(
                f"the classifier gives {logits.shape} for one image, expected logits "
                "(classes,)"
            )
        return jnp.where(jnp.all(jnp.isfinite(purified)), logits, jnp.nan)


def noise_parts(purifier: Purifier | None) -> tuple[str, ...]:
    """The named parts of a purifier's noise; none for a plain function."""
    return getattr(purifier, "noise_parts", ())


def denoiser_evaluations(purifier: Purifier | None) -> int | None:
    """Calls of the denoiser in one purification; None where the purifier does not say."""
    return getattr(purifier, "denoiser_evaluations", None)
