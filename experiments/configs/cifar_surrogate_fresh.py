"""CIFAR-10: PGD+EOT through a five-step surrogate of the chain (Lee and Kim 2023).

    python -m experiments.run --config=cifar_surrogate_fresh --data_dir=DIR

The paper's settings. With published weights give --config.denoiser, --config.classifier and
--config.purifier.t_star=100.
The attack has a schedule of its own, and hands over its last iterate.
"""

from experiments.config import AttackConfig, RunConfig
from experiments.configs import cifar_bpda_fresh


def get_config() -> RunConfig:
    config = cifar_bpda_fresh.get_config()
    config.gradient = "transfer(step_rule=ddim(eta=1,num_steps=5))"
    config.attack = AttackConfig(
        step_size_255=0.007 * 255,
        num_steps=200,
        eot_samples=20,
        random_start=False,
        iterate="last",
    )
    return config
