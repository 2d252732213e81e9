"""Digits: Square, 1000 queries without a gradient, noise replayed; a check for masking.

    python -m experiments.run --config=digits_square_replay

On the margin, as in the paper and in AutoAttack, which takes 5000 queries. An attack that
sees less and does better than one along a gradient shows that the gradient is masked;
experiments.table says so where it meets the two.
"""

from experiments.config import RunConfig
from experiments.configs import digits_pgd_replay


def get_config() -> RunConfig:
    config = digits_pgd_replay.get_config()
    config.attack = "square(num_queries=1000)"
    return config
