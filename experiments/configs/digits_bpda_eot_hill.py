"""Digits: BPDA+EOT with the protocol of Hill et al. (15 attack, 150 defense draws).

    python -m experiments.run --config=digits_bpda_eot_hill

The paper's 50 steps and draws, with a step of a quarter of this ball's radius, as theirs
is.
"""

from experiments.config import RunConfig
from experiments.configs import digits_bpda_fresh


def get_config() -> RunConfig:
    config = digits_bpda_fresh.get_config()
    config.attack = "bpda_eot_hill(step_size=12.75/255)"
    return config
