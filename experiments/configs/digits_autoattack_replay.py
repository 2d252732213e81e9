"""Handwritten digits: AutoAttack `standard` on exact gradients, all noise replayed.

    python -m experiments.run --config=digits_autoattack_replay

To a replaying attack the defense is deterministic, so the version for deterministic
defenses is the one that fits.
"""

from experiments.config import AttackConfig, RunConfig
from experiments.configs import digits_bpda_replay


def get_config() -> RunConfig:
    config = digits_bpda_replay.get_config()
    config.gradient = "exact"
    config.attack = AttackConfig(name="autoattack", norm="linf", eps_255=51.0)
    return config
