"""MNIST: DiffPure under BPDA in L-inf 0.2, the defense's own noise replayed.

python -m experiments.run --config=mnist_bpda_replay --data_dir=DIR
"""

from experiments.config import AttackConfig, DataConfig, PurifierConfig, RunConfig


def get_config() -> RunConfig:
    return RunConfig(
        data=DataConfig(name="mnist", num_examples=200),
        denoiser="mnist_denoiser",
        classifier="mnist_classifier",
        purifier=PurifierConfig(name="diffpure", t_star=100),
        attack=AttackConfig(
            name="pgd", norm="linf", eps_255=51.0, step_size_255=8.5, num_steps=20
        ),
        policy="replay",
        gradient="bpda",
        judging_keys=8,
        batch_size=25,
    )
