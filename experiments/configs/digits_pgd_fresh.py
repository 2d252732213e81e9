"""Digits: exact gradients on noise that the attack will not be judged under.

    python -m experiments.run --config=digits_pgd_fresh

Differs from digits_pgd_replay in the policy alone.
"""

from experiments.config import RunConfig
from experiments.configs import digits_pgd_replay


def get_config() -> RunConfig:
    config = digits_pgd_replay.get_config()
    config.policy = "fresh"
    return config
