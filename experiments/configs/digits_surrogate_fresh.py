"""Digits: PGD+EOT through a five-step surrogate of the chain (Lee and Kim 2023).

    python -m experiments.run --config=digits_surrogate_fresh

The attack has a schedule of its own: it differentiates five DDIM steps and hands over its
last iterate, which the defense then purifies by all of its steps. The majority vote of the
judging keys is their statistic; they take 200 updates and 20 draws.
"""

from experiments.config import AttackConfig, RunConfig
from experiments.configs import digits_bpda_fresh


def get_config() -> RunConfig:
    config = digits_bpda_fresh.get_config()
    config.gradient = "transfer(step_rule=ddim(eta=1,num_steps=5))"
    config.attack = AttackConfig(
        eps_255=51.0,
        step_size_255=8.5,
        num_steps=40,
        eot_samples=10,
        random_start=False,
        iterate="last",
    )
    return config
