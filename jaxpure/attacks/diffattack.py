"""DiffAttack (Kang, Song and Li 2023, arXiv:2311.16124): APGD that also pushes the states
of a purification off their course.

To the classification loss it adds how far the reverse chain strays from the noised image
(the deviated-reconstruction loss, section 3.2): the mean, over a third of the chain's
levels, of the mean squared difference between what noising and what denoising give there.
It reaches the early steps of the chain directly, where the classifier's gradient has come
a long way. APGD runs on cross-entropy first, then on DLR on what stands (section 4.1).

Choices: noising uses the forward noise of the very purification; the levels are every
third one, the end of the chain among them; the deviation enters the gradient alone, and
APGD's choice of step and best iterate goes by the classification loss, as in the authors'
code. Their segment-wise backward pass is what `diffusion.reverse` does in any case.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxpure.attacks.apgd import Apgd
from jaxpure.errors import UserError, check_range
from jaxpure.keys import AnyKey
from jaxpure.pytrees import Static, pytree
from jaxpure.types import Image, Logits

EVERY = 3  # levels from one that is compared to the next


@pytree
class Deviation:
    """`(defense, key, x) -> (logits, weighted deviation)`, an auxiliary loss.

    Attributes:
      weight: of the deviation beside the classification loss (lambda, 1 in the paper).
    """

    weight: float

    def __call__(self, defense: Any, key: AnyKey, x: Image) -> tuple[Logits, jax.Array]:
        if not hasattr(getattr(defense, "purifier", None), "trajectory"):
            raise UserError(
                "diffattack compares the states of the forward and the reverse pass, which "
                "diffpure and ddim have under the exact gradient; for another purifier or "
                "rule use apgd"
            )
        found = defense.purifier.trajectory(key, x)
        strayed = (found.noised - found.denoised)[::-1][::EVERY]  # the last one first
        deviation = jnp.mean(jnp.square(strayed))
        return defense.classifier(found.purified), self.weight * deviation


@pytree
class DiffAttack:
    """DiffAttack on a defense under the exact gradient rule.

    Attributes:
      num_steps: updates of each APGD (100 in the paper).
      eot_samples: draws averaged for every gradient (20 in the paper).
      deviation_weight: lambda, 1 in the paper.
      selection: see `Apgd`.
    """

    num_steps: int = 100
    eot_samples: Static[int] = 20
    deviation_weight: float = 1.0
    selection: Static[Literal["reference", "consistent"]] = "reference"

    def __post_init__(self):
        check_range(0, deviation_weight=self.deviation_weight)
        self.attacks()  # whose options are checked

    def attacks(self) -> tuple[tuple[str, Apgd], ...]:
        deviation = Deviation(self.deviation_weight)
        return (
            ("apgd-ce", self._apgd("cross_entropy", deviation)),
            ("apgd-dlr", self._apgd("dlr", deviation)),
        )

    def undefended(self) -> Apgd:
        return self._apgd("cross_entropy", None)

    def _apgd(self, loss: str, deviation: Deviation | None) -> Apgd:
        return Apgd(
            num_steps=self.num_steps,
            eot_samples=self.eot_samples,
            loss=loss,
            selection=self.selection,
            auxiliary_loss=deviation,
        )
