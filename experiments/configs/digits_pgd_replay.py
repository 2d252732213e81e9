"""Digits: DiffPure under exact gradients through the whole chain, noise replayed.

python -m experiments.run --config=digits_pgd_replay
"""

from experiments.config import RunConfig
from experiments.configs import digits_bpda_replay


def get_config() -> RunConfig:
    config = digits_bpda_replay.get_config()
    config.gradient = "exact"
    return config
