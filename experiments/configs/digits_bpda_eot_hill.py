"""Digits: BPDA+EOT with the protocol of Hill et al. (15 attack, 150 defense draws).

python -m experiments.run --config=digits_bpda_eot_hill
"""

from experiments.config import AttackConfig, RunConfig
from experiments.configs import digits_bpda_fresh


def get_config() -> RunConfig:
    config = digits_bpda_fresh.get_config()
    config.attack = AttackConfig(
        name="bpda_eot_hill",
        eps_255=51.0,
        step_size_255=12.75,
        num_steps=50,
        eot_samples=15,
        verify_samples=150,
    )
    return config
