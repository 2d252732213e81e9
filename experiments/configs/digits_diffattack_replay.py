"""Digits: DiffAttack, which also pushes the chain's states off course; noise replayed.

    python -m experiments.run --config=digits_diffattack_replay

APGD of 20 updates on cross-entropy, then on DLR; the paper makes 100 under fresh noise,
20 draws for each gradient.
"""

from experiments.config import AttackConfig, RunConfig
from experiments.configs import digits_pgd_replay


def get_config() -> RunConfig:
    config = digits_pgd_replay.get_config()
    config.attack = AttackConfig(name="diffattack", eps_255=51.0, num_steps=20)
    return config
