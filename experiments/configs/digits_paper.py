"""The papers' page of the embedded digits.

python -m experiments.paper --config=digits_paper [--quick]
"""

from experiments.config import PaperConfig
from experiments.paper.plans import FEW_STEPS, pairs


def get_config() -> PaperConfig:
    return PaperConfig(
        data="digits",
        denoiser="digits_denoiser",
        classifier="digits_classifier",
        purifier="diffpure(t_star=50)",
        ball="linf(51/255)",
        sweep=(*pairs((10, 25, 50, 75, 100, 150)), *FEW_STEPS),
        batch_size=10,
    )
