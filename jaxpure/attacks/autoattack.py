"""AutoAttack (Croce and Hein 2020, arXiv:2003.01690): attacks one after another.

Each goes on with the images that the ones before it left standing, which the evaluation
decides by the plain defense under the headline key. The versions are the original's, with
two differences. `plus` has FAB in its targeted form alone, with more restarts. And `rand`,
the original's for randomised defenses, averages 20 draws; under a policy that replays all
noise there is one draw, the defense is deterministic to the attack, and `standard` is the
stronger choice.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxpure.attacks.apgd import Apgd
from jaxpure.attacks.fab import Fab
from jaxpure.attacks.square import Square
from jaxpure.errors import check_in
from jaxpure.keys import Key, stream
from jaxpure.policy import Policy
from jaxpure.pytrees import Static, pytree
from jaxpure.types import Image


@pytree
class AutoAttack:
    """AutoAttack in Linf and L2.

    Attributes:
      version: "standard" (APGD on cross-entropy, targeted APGD, FAB-T, Square), "plus"
        (five restarts of APGD on both losses and of FAB-T, Square, targeted APGD), or
        "rand" (APGD on both losses, 20 draws for each gradient).
      num_targets: classes that the targeted ones try, 9 in the original; at most one less
        than there are classes.
      selection: see `Apgd`: "reference" is the original's, "consistent" lets the mean over
        draws decide.
    """

    version: Static[Literal["standard", "plus", "rand"]] = "standard"
    num_targets: Static[int] = 9
    selection: Static[Literal["reference", "consistent"]] = "reference"

    def __post_init__(self):
        check_in("version", self.version, ("standard", "plus", "rand"))
        self.attacks()  # whose options are checked

    def attacks(self) -> tuple[tuple[str, Any], ...]:
        square = ("square", Square())
        match self.version:
            case "standard":
                apgd_ce, apgd_t = self._apgd("cross_entropy"), self._apgd("targeted_dlr")
                fab = Fab(num_targets=self.num_targets)
                return ("apgd-ce", apgd_ce), ("apgd-t", apgd_t), ("fab-t", fab), square
            case "plus":
                return (
                    ("apgd-ce", self._apgd("cross_entropy", restarts=5)),
                    ("apgd-dlr", self._apgd("dlr", restarts=5)),
                    ("fab-t", Fab(num_targets=self.num_targets, num_restarts=5)),
                    square,
                    ("apgd-t", self._apgd("targeted_dlr")),
                )
            case _:
                apgd_ce = self._apgd("cross_entropy", draws=20)
                return ("apgd-ce", apgd_ce), ("apgd-dlr", self._apgd("dlr", draws=20))

    def _apgd(self, loss: str, restarts: int = 1, draws: int = 1) -> Apgd:
        return Apgd(
            loss=loss,
            num_restarts=restarts,
            num_targets=self.num_targets,
            eot_samples=draws,
            selection=self.selection,
        )

    def advice(self, defense: Any, policy: Policy, key: Key, x: Image) -> str | None:
        """What AutoAttack's own check says of a randomised defense; None if all is well.

        Calls the defense on one image under five keys; logits that differ by more than
        1e-4 mean that it is randomised.
        """
        keys = jax.random.split(stream(key, "advice"), 5)
        logits = jax.jit(lambda d, x: jax.lax.map(lambda k: d(k, x), keys))(defense, x)
        randomised = bool(jnp.max(jnp.abs(logits - logits[:1])) > 1e-4)
        rand = self.version == "rand"
        if randomised and not policy.replays_all and not rand:
            return (
                f"the defense is randomised and the policy {policy} does not replay its "
                f"noise: {self.version} optimises against other noise than it is judged "
                "on; use the policy replay, or version=rand"
            )
        if rand and (not randomised or policy.replays_all):
            what = "replayed" if randomised else "not there"
            return (
                f"the defense's randomness is {what}: version=standard is stronger than "
                "rand"
            )
        return None
