"""CIFAR-10: DiffHammer, ten draws a step, 150 steps, with its N-evaluation.

    python -m experiments.run --config=cifar_diffhammer_fresh --data_dir=DIR

The paper's settings. With published weights give --config.denoiser, --config.classifier
and --config.purifier.t_star=100.
"""

from experiments.config import RunConfig
from experiments.configs import cifar_bpda_fresh


def get_config() -> RunConfig:
    config = cifar_bpda_fresh.get_config()
    config.attack = "diffhammer(step_size=1/255)"
    config.gradient = "exact"
    return config
