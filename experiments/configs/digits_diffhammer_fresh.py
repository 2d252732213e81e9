"""Digits: DiffHammer, exact gradients, five draws a step, with its N-evaluation.

    python -m experiments.run --config=digits_diffhammer_fresh

The report's rows "Resubmitted" are what the draws of the attack said while the images were
made; the paper takes 10 draws and 150 steps.
"""

from experiments.config import AttackConfig, RunConfig
from experiments.configs import digits_pgd_fresh


def get_config() -> RunConfig:
    config = digits_pgd_fresh.get_config()
    config.attack = AttackConfig(
        name="diffhammer",
        eps_255=51.0,
        step_size_255=8.5,
        num_steps=20,
        eot_samples=5,
    )
    return config
