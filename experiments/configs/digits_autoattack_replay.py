"""Handwritten digits: AutoAttack `standard` on exact gradients, all noise replayed.

    python -m experiments.run --config=digits_autoattack_replay

To a replaying attack the defense is deterministic, so the version for deterministic
defenses is the one that fits.
"""

from experiments.config import RunConfig
from experiments.configs import digits_pgd_replay


def get_config() -> RunConfig:
    config = digits_pgd_replay.get_config()
    config.attack = "autoattack"
    return config
