"""CIFAR-10: PGD+EOT through a five-step surrogate of the chain (Lee and Kim 2023).

    python -m experiments.run --config=cifar_surrogate_fresh --data_dir=DIR

The paper's settings: the attack has a schedule of its own, and hands over its last
iterate. With published weights give --config.denoiser, --config.classifier,
--config.purifier.t_star=100 and --config.gradient.other.t_star=100.
"""

from experiments.config import RunConfig
from experiments.configs import cifar_bpda_fresh


def get_config() -> RunConfig:
    config = cifar_bpda_fresh.get_config()
    config.gradient = "transfer(diffpure(t_star=50,step_rule=ddim(eta=1,num_steps=5)))"
    config.attack = (
        "pgd(step_size=0.007,num_steps=200,eot_samples=20,random_start=false,iterate=last)"
    )
    return config
