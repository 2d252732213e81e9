"""CIFAR-10: DiffPure under BPDA in L-inf 8/255, the defense's own noise replayed.

    python -m experiments.run --config=cifar_bpda_replay --data_dir=DIR

Runs on the project's own compact weights, at half of the usual t_star because they blur
more than a full-size denoiser; give --config.purifier.t_star=100, --config.denoiser and
--config.classifier for others. Its pair is cifar_bpda_fresh.
"""

from experiments.config import AttackConfig, DataConfig, PurifierConfig, RunConfig


def get_config() -> RunConfig:
    return RunConfig(
        data=DataConfig(name="cifar10", num_examples=512),
        denoiser="cifar10_denoiser",
        classifier="cifar10_classifier",
        purifier=PurifierConfig(name="diffpure", t_star=50),
        attack=AttackConfig(
            name="pgd", norm="linf", eps_255=8.0, step_size_255=2.0, num_steps=50
        ),
        policy="replay",
        gradient="bpda",
        judging_keys=10,
        batch_size=32,
    )
