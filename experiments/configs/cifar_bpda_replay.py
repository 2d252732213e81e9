"""CIFAR-10: DiffPure under BPDA in L-inf 8/255, the defense's own noise replayed.

    python -m experiments.run --config=cifar_bpda_replay --data_dir=DIR

Runs on the project's own compact weights, at half of the usual t_star because they blur
more than a full-size denoiser; give --config.purifier.t_star=100, --config.denoiser and
--config.classifier for others. Its pair is cifar_bpda_fresh.
"""

from experiments.config import RunConfig


def get_config() -> RunConfig:
    return RunConfig(
        data="cifar10(num_examples=512)",
        denoiser="cifar10_denoiser",
        classifier="cifar10_classifier",
        purifier="diffpure(t_star=50)",
        ball="linf(8/255)",
        attack="pgd(step_size=2/255,num_steps=50)",
        policy="replay",
        gradient="bpda",
        judging_keys=10,
        batch_size=32,
    )
