"""The papers' page of CIFAR-10.

python -m experiments.paper --config=cifar10_paper [--quick]
"""

from experiments.config import PaperConfig
from experiments.paper.plans import FEW_STEPS, pairs


def get_config() -> PaperConfig:
    return PaperConfig(
        data="cifar10",
        denoiser="cifar10_denoiser",
        classifier="cifar10_classifier",
        purifier="diffpure(t_star=50)",
        ball="linf(8/255)",
        sweep=(*pairs((10, 25, 50, 75, 100)), *FEW_STEPS),
        batch_size=5,
    )
