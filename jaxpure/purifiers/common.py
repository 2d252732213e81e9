"""What purifiers share: where they start, and what a purification passed through."""

from typing import Literal, NamedTuple, get_args

import jax

from jaxpure.errors import check_in, check_range
from jaxpure.types import Image

Start = Literal["t_star_minus_1", "t_star"]


class Trajectory(NamedTuple):
    """A purification with what it passed through, in the diffusion's range [-1, 1].

    Attributes:
      purified: `(H, W, C)` its result, in [0, 1].
      noised: `(n, H, W, C)` what noising, under the round's own noise, makes of the image
        at each level that the reverse chain reaches.
      denoised: `(n, H, W, C)` what the reverse chain makes of it there.
    """

    purified: Image
    noised: jax.Array
    denoised: jax.Array


def first_timestep(t_star: int, start: str) -> int:
    """The first timestep that is denoised, which is also where the noising ends."""
    check_in("start", start, get_args(Start))
    check_range(1, t_star=t_star)
    return t_star - 1 if start == "t_star_minus_1" else t_star
