"""Digits: the reverse half of DiffPure alone, noise replayed.

python -m experiments.run --config=digits_revpure_replay
"""

from experiments.config import RunConfig
from experiments.configs import digits_bpda_replay


def get_config() -> RunConfig:
    config = digits_bpda_replay.get_config()
    config.purifier = "revpure(t_star=50)"
    return config
