"""Digits: StAdv, pixels moved by up to one and none changed; noise replayed.

    python -m experiments.run --config=digits_stadv_replay

A flow of 0.25 half-sides is a pixel of eight.
"""

from experiments.config import AttackConfig, RunConfig
from experiments.configs import digits_pgd_replay


def get_config() -> RunConfig:
    config = digits_pgd_replay.get_config()
    config.attack = AttackConfig(name="stadv", num_steps=20, flow_bound=0.25, loss="margin")
    return config
