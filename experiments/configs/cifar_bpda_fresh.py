"""CIFAR-10: the same attack on noise that it will not be judged under.

    python -m experiments.run --config=cifar_bpda_fresh --data_dir=DIR

Differs from cifar_bpda_replay in the policy alone.
"""

from experiments.config import RunConfig
from experiments.configs import cifar_bpda_replay


def get_config() -> RunConfig:
    config = cifar_bpda_replay.get_config()
    config.policy = "fresh"
    return config
