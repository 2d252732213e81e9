"""Digits: PGD+EOT through a five-step surrogate of the chain (Lee and Kim 2023).

    python -m experiments.run --config=digits_surrogate_fresh

The attack has a schedule of its own: it differentiates five DDIM steps and hands over its
last iterate, which the defense then purifies by all of its steps. The majority vote of the
judging keys is their statistic; they take 200 updates and 20 draws, this 40 and 10. For
another t_star give config.purifier.t_star and config.gradient.other.t_star.
"""

from experiments.config import RunConfig
from experiments.configs import digits_bpda_fresh


def get_config() -> RunConfig:
    config = digits_bpda_fresh.get_config()
    config.gradient = "transfer(diffpure(t_star=50,step_rule=ddim(eta=1,num_steps=5)))"
    config.attack = (
        "pgd(step_size=8.5/255,num_steps=40,eot_samples=10,random_start=false,iterate=last)"
    )
    return config
