"""Digits: DiffAttack, which also pushes the chain's states off course; noise replayed.

    python -m experiments.run --config=digits_diffattack_replay

APGD of 20 updates on cross-entropy, then on DLR. The paper makes 100, and averages 20 draws
for each gradient, which under replay are one and the same.
"""

from experiments.config import RunConfig
from experiments.configs import digits_pgd_replay


def get_config() -> RunConfig:
    config = digits_pgd_replay.get_config()
    config.attack = "diffattack(num_steps=20)"
    return config
