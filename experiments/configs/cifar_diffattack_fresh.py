"""CIFAR-10: DiffAttack, APGD of 100 updates with 20 draws for each gradient.

    python -m experiments.run --config=cifar_diffattack_fresh --data_dir=DIR

The paper's settings. With published weights give --config.denoiser, --config.classifier
and --config.purifier.t_star=100.
"""

from experiments.config import RunConfig
from experiments.configs import cifar_bpda_fresh


def get_config() -> RunConfig:
    config = cifar_bpda_fresh.get_config()
    config.attack = "diffattack"
    config.gradient = "exact"
    return config
