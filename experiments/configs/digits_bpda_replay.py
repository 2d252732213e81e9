"""Digits: DiffPure under BPDA, the attack given the defense's own noise.

    python -m experiments.run --config=digits_bpda_replay

The main job on the embedded data. Its pair is digits_bpda_fresh.
"""

from experiments.config import AttackConfig, DataConfig, PurifierConfig, RunConfig


def get_config() -> RunConfig:
    return RunConfig(
        data=DataConfig(name="digits", num_examples=200),
        denoiser="digits_denoiser",
        classifier="digits_classifier",
        purifier=PurifierConfig(name="diffpure", t_star=50),
        attack=AttackConfig(
            name="pgd", norm="linf", eps_255=51.0, step_size_255=8.5, num_steps=20
        ),
        policy="replay",
        gradient="bpda",
        judging_keys=8,
        batch_size=50,
    )
