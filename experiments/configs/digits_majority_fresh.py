"""Digits: PGD on the majority vote of eight draws (DiffBreak's protocol), exact gradients.

    python -m experiments.run --config=digits_majority_fresh

The defense to be read is "Majority vote"; "Resubmitted, vote of 8" is what the attack saw
while it made the images.
"""

from experiments.config import RunConfig
from experiments.configs import digits_pgd_fresh


def get_config() -> RunConfig:
    config = digits_pgd_fresh.get_config()
    config.attack = "pgd(step_size=8.5/255,num_steps=20,eot_samples=8,criterion=vote)"
    return config
