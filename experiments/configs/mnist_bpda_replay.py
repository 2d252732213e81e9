"""MNIST: DiffPure under BPDA in L-inf 0.2, the defense's own noise replayed.

python -m experiments.run --config=mnist_bpda_replay --data_dir=DIR
"""

from experiments.config import RunConfig


def get_config() -> RunConfig:
    return RunConfig(
        data="mnist(num_examples=200)",
        denoiser="mnist_denoiser",
        classifier="mnist_classifier",
        purifier="diffpure(t_star=100)",
        ball="linf(51/255)",
        attack="pgd(step_size=8.5/255,num_steps=20)",
        policy="replay",
        gradient="bpda",
        judging_keys=8,
        batch_size=25,
    )
