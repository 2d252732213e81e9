r"""ImageNet photographs: the same attack on noise that it will not be judged under.

    python -m experiments.run --config=imagenet_samples_bpda_fresh \
        --config.denoiser=PATH.safetensors --config.data.path=FOLDER

Differs from imagenet_samples_bpda_replay in the policy alone.
"""

from experiments.config import RunConfig
from experiments.configs import imagenet_samples_bpda_replay


def get_config() -> RunConfig:
    config = imagenet_samples_bpda_replay.get_config()
    config.policy = "fresh"
    return config
