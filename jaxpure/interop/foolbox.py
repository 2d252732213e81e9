"""Any attack of Foolbox on a defense under a fixed key (`pip install foolbox`).

Foolbox (Rauber et al. 2020) attacks deterministic models; a defense under one key is one.
That is replay: the attack meets the noise that the key stands for, in every image.
"""

from typing import Any

import jax

from jaxpure.types import Defense


def foolbox_model(defense: Defense, key: Any) -> Any:
    """The defense under `key` as a `foolbox.JAXModel` of images `(n, H, W, C)` in [0, 1].

    Args:
      defense: `(key, x) -> logits`, a callable pytree; under a gradient rule if the
        attack is to follow that rule.
      key: the noise; the same for all images, and for every call.
    """
    from foolbox.models.jax import JAXModel

    batched = jax.jit(jax.vmap(lambda d, x: d(key, x), (None, 0)))
    return JAXModel(lambda x: batched(defense, x), bounds=(0, 1))
