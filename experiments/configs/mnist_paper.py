"""The papers' page of MNIST.

python -m experiments.paper --config=mnist_paper [--quick]
"""

from experiments.config import PaperConfig
from experiments.paper.plans import FEW_STEPS, pairs


def get_config() -> PaperConfig:
    return PaperConfig(
        data="mnist",
        denoiser="mnist_denoiser",
        classifier="mnist_classifier",
        purifier="diffpure(t_star=100)",
        ball="linf(51/255)",
        sweep=(*pairs((25, 50, 100, 150, 200)), *FEW_STEPS),
        batch_size=10,
    )
