"""AutoAttack (Croce and Hein 2020, arXiv:2003.01690): attacks one after another.

Each goes on with the images that the ones before it left standing, which the evaluation
decides by the plain defense under the headline key. The versions are the original's, with
two differences. `plus` has FAB in its targeted form alone, with more restarts. And `rand`,
the original's for randomised defenses, averages 20 draws; under a policy that replays all
noise there is one draw, the defense is deterministic to the attack, and `standard` is the
stronger choice.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxpure.attacks.apgd import Apgd
from jaxpure.attacks.fab import Fab
from jaxpure.attacks.square import Square
from jaxpure.randomness import Policy, stream
from jaxpure.types import Image, Key

VERSIONS = ("standard", "plus", "rand")


@dataclass(frozen=True)
class Sequence:
    """Attacks in turn, each on the images that stand after the one before it.

    Attributes:
      stages: names and attacks, all on one ball and under one policy.
    """

    stages: tuple[tuple[str, Any], ...]

    def __post_init__(self):
        balls = {(attack.norm, float(attack.eps)) for _, attack in self.stages}
        policies = {attack.policy for _, attack in self.stages}
        if len(balls) != 1 or len(policies) != 1:
            raise ValueError(f"attacks in a sequence share ball and policy, got {balls}")

    @property
    def norm(self) -> str:
        return self.stages[0][1].norm

    @property
    def eps(self) -> float:
        return self.stages[0][1].eps

    @property
    def policy(self) -> Policy:
        return self.stages[0][1].policy


def stages_of(attack: Any) -> tuple[tuple[str, Any], ...]:
    """The attacks of a sequence, or the attack itself, without a name."""
    return attack.stages if isinstance(attack, Sequence) else (("", attack),)


def autoattack(
    defense: Any,
    policy: Policy,
    *,
    eps: float,
    norm: str = "linf",
    version: str = "standard",
    num_targets: int = 9,
    selection: str = "reference",
) -> Sequence:
    """AutoAttack on a defense that is already under a gradient rule.

    Args:
      defense: `(key, x) -> logits`.
      policy: which keys.
      eps: radius of the ball.
      norm: "linf" or "l2".
      version: "standard" (APGD on cross-entropy, targeted APGD, FAB-T, Square), "plus"
        (five restarts of APGD on both losses and of FAB-T, Square, targeted APGD), or
        "rand" (APGD on both losses, 20 draws for each gradient).
      num_targets: classes that the targeted ones try, 9 in the original; at most one less
        than there are classes.
      selection: see `Apgd`: "reference" is the original's, "consistent" lets the mean over
        draws decide.
    """
    if version not in VERSIONS:
        raise ValueError(f"{version=}, expected one of {', '.join(VERSIONS)}")
    if norm not in ("linf", "l2"):
        raise ValueError(f"{norm=}, but autoattack has linf and l2; use apgd for l1")
    ball = {"eps": eps, "norm": norm}

    def apgd(loss: str, restarts: int = 1, draws: int = 1) -> Apgd:
        return Apgd.create(
            defense,
            policy,
            loss=loss,
            num_restarts=restarts,
            num_targets=num_targets,
            eot_samples=draws,
            selection=selection,
            **ball,
        )

    def fab(restarts: int = 1) -> Fab:
        return Fab.create(
            defense, policy, num_targets=num_targets, num_restarts=restarts, **ball
        )

    square = Square.create(defense, policy, **ball)
    stages = {
        "standard": (
            ("apgd-ce", apgd("cross_entropy")),
            ("apgd-t", apgd("targeted_dlr")),
            ("fab-t", fab()),
            ("square", square),
        ),
        "plus": (
            ("apgd-ce", apgd("cross_entropy", 5)),
            ("apgd-dlr", apgd("dlr", 5)),
            ("fab-t", fab(5)),
            ("square", square),
            ("apgd-t", apgd("targeted_dlr")),
        ),
        "rand": (
            ("apgd-ce", apgd("cross_entropy", draws=20)),
            ("apgd-dlr", apgd("dlr", draws=20)),
        ),
    }
    return Sequence(stages[version])


def advice(defense: Any, policy: Policy, version: str, key: Key, x: Image) -> str | None:
    """What AutoAttack's own check says of a randomised defense; None if all is well.

    Calls the defense on one image under five keys; logits that differ by more than 1e-4
    mean that it is randomised.
    """
    keys = jax.random.split(stream(key, "advice"), 5)
    logits = jax.jit(lambda d, x: jax.lax.map(lambda k: d(k, x), keys))(defense, x)
    randomised = bool(jnp.max(jnp.abs(logits - logits[:1])) > 1e-4)
    if randomised and not policy.replays_all and version != "rand":
        return (
            f"the defense is randomised and the policy {policy} does not replay its noise: "
            f"{version} optimises against other noise than it is judged on; use the policy "
            "replay, or version=rand"
        )
    if version == "rand" and (not randomised or policy.replays_all):
        what = "replayed" if randomised else "not there"
        return f"the defense's randomness is {what}: version=standard is stronger than rand"
    return None
