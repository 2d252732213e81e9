"""CIFAR-10: AutoAttack `standard` on the classifier alone, without purification.

    python -m experiments.run --config=cifar_autoattack_undefended --data_dir=DIR

What an attack must do to a classifier that was not defended: leave nothing.
"""

from experiments.config import RunConfig
from experiments.configs import cifar_bpda_replay


def get_config() -> RunConfig:
    config = cifar_bpda_replay.get_config()
    config.purifier = "identity"
    config.attack = "autoattack"
    config.gradient = "exact"
    config.judging_keys = 2
    return config
