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

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxpure.attacks.apgd import Apgd
from jaxpure.attacks.autoattack import Sequence
from jaxpure.defense import PurifiedClassifier
from jaxpure.randomness import PartKeys, Policy
from jaxpure.types import Image, Key, Logits, register_pytree

EVERY = 3  # levels from one that is compared to the next


@partial(register_pytree, data_fields=["weight"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class Deviation:
    """`(defense, key, x) -> (logits, weighted deviation)`, an `Objective.addend`.

    Attributes:
      weight: of the deviation beside the classification loss (lambda, 1 in the paper).
    """

    weight: Any

    def __call__(
        self, defense: PurifiedClassifier, key: Key | PartKeys, x: Image
    ) -> tuple[Logits, jax.Array]:
        found = defense.purifier.trajectory(key, x)
        strayed = (found.noised - found.denoised)[::-1][::EVERY]  # the last one first
        deviation = jnp.mean(jnp.square(strayed))
        return defense.classifier(found.purified), self.weight * deviation


def diffattack(
    defense: PurifiedClassifier,
    policy: Policy,
    *,
    eps: float,
    norm: str = "linf",
    num_steps: int = 100,
    eot_samples: int = 20,
    deviation_weight: float = 1.0,
    selection: str = "reference",
) -> Sequence:
    """DiffAttack on a defense under the exact gradient rule.

    Args:
      defense: a purified classifier whose purifier tells its `trajectory` (DiffPure does).
      policy: which keys.
      eps: radius of the ball.
      norm: "linf", "l2" or "l1".
      num_steps: updates of each APGD (100 in the paper).
      eot_samples: draws averaged for every gradient (20 in the paper).
      deviation_weight: lambda, 1 in the paper.
      selection: see `Apgd`.

    Raises:
      ValueError: the purifier, under its gradient rule, has no trajectory.
    """
    if not hasattr(getattr(defense, "purifier", None), "trajectory"):
        raise ValueError(
            "diffattack compares the states of the forward and the reverse pass, which "
            "diffpure and ddim have under the exact gradient; for another purifier or "
            "rule use apgd"
        )
    if not deviation_weight >= 0:
        raise ValueError(f"{deviation_weight=}, expected at least 0")

    def apgd(loss: str) -> Apgd:
        attack = Apgd.create(
            defense,
            policy,
            eps=eps,
            norm=norm,
            num_steps=num_steps,
            loss=loss,
            eot_samples=eot_samples,
            selection=selection,
        )
        deviated = dataclasses.replace(attack.objective, addend=Deviation(deviation_weight))
        return dataclasses.replace(attack, objective=deviated)

    return Sequence((("apgd-ce", apgd("cross_entropy")), ("apgd-dlr", apgd("dlr"))))
