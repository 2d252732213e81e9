"""What an image of an attack must be: inside its ball and in [0, 1], in every record."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxpure.errors import UserError

BALL_SLACK = 1e-6  # beyond a ball's own relative one: a float32 sum of a pixel and eps


class AttackError(UserError):
    """An attack left its ball, or went astray; names the example."""


def outside(
    ball: Any, indices: Iterable[int], images: np.ndarray, originals: np.ndarray
) -> dict[int, str]:
    """What is wrong with each image that is not where it may be, by index.

    Args:
      ball: what the attack may do.
      indices: `(n,)` of the examples.
      images: `(n, H, W, C)` that the attack made.
      originals: `(n, H, W, C)` that it made them of.
    """
    excess = ball.excess(images, originals)
    in_range = np.all((images >= 0) & (images <= 1), axis=(1, 2, 3))  # NaN is neither
    return {
        int(index): f"is {far:.6g} outside {ball}, or outside [0, 1]"
        for index, far, within in zip(indices, excess, in_range, strict=True)
        if not (far <= BALL_SLACK and within)
    }
