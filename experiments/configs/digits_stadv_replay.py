"""Digits: StAdv, pixels moved by up to one and none changed; noise replayed.

    python -m experiments.run --config=digits_stadv_replay

A flow of 0.25 half-sides is a pixel of eight. 20 updates, where the default is 100.
"""

from experiments.config import RunConfig
from experiments.configs import digits_pgd_replay


def get_config() -> RunConfig:
    config = digits_pgd_replay.get_config()
    config.ball = "flow(0.25)"
    config.attack = "stadv(num_steps=20)"
    return config
