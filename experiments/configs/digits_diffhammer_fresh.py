"""Digits: DiffHammer, exact gradients, five draws a step, with its N-evaluation.

    python -m experiments.run --config=digits_diffhammer_fresh

The report's rows "Resubmitted" are what the draws of the attack said while the images were
made. The paper takes 10 draws and 150 steps; this is 5 and 20, to end in minutes.
"""

from experiments.config import RunConfig
from experiments.configs import digits_pgd_fresh


def get_config() -> RunConfig:
    config = digits_pgd_fresh.get_config()
    config.attack = "diffhammer(step_size=8.5/255,num_steps=20,eot_samples=5)"
    return config
