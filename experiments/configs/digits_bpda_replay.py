"""Digits: DiffPure under BPDA, the attack given the defense's own noise.

    python -m experiments.run --config=digits_bpda_replay

The main job on the embedded data. Its pair is digits_bpda_fresh.
"""

from experiments.config import RunConfig


def get_config() -> RunConfig:
    return RunConfig(
        data="digits(num_examples=200)",
        denoiser="digits_denoiser",
        classifier="digits_classifier",
        purifier="diffpure(t_star=50)",
        ball="linf(51/255)",
        attack="pgd(step_size=8.5/255,num_steps=20)",
        policy="replay",
        gradient="bpda",
        judging_keys=8,
        batch_size=50,
    )
