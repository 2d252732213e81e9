"""CIFAR-10: DiffHammer, ten draws a step, 150 steps, with its N-evaluation.

    python -m experiments.run --config=cifar_diffhammer_fresh --data_dir=DIR

The paper's settings. With published weights give --config.denoiser, --config.classifier and
--config.purifier.t_star=100.
"""

from experiments.config import AttackConfig, RunConfig
from experiments.configs import cifar_bpda_fresh


def get_config() -> RunConfig:
    config = cifar_bpda_fresh.get_config()
    config.gradient = "exact"
    config.attack = AttackConfig(
        name="diffhammer", step_size_255=1.0, num_steps=150, eot_samples=10
    )
    return config
