"""Digits: the same attack on noise that it will not be judged under.

    python -m experiments.run --config=digits_bpda_fresh

Differs from digits_bpda_replay in the policy alone.
"""

from experiments.config import RunConfig
from experiments.configs import digits_bpda_replay


def get_config() -> RunConfig:
    config = digits_bpda_replay.get_config()
    config.policy = "fresh"
    return config
