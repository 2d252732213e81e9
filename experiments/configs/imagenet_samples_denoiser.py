r"""Training: a U-Net of gates for photographs, on patches of 64 pixels.

    python -m experiments.train --config=imagenet_samples_denoiser \
        --config.data.name='folder(FOLDER)'

FOLDER is that of imagenet_samples_bpda_replay. Every tenth photograph is kept out, and
those are what the configs imagenet_samples_bpda_* evaluate.
"""

from experiments.config import DataConfig, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        task="denoiser",
        data=DataConfig(
            name="folder(imagenet_samples)", split="train", num_examples=0, test_every=10
        ),
        architecture="naf_unet(widths=[32,64,128],blocks=[2,2,4],any_size=true)",
        num_steps=30_000,
        batch_size=16,
        learning_rate=1e-3,
        rate_decay="constant",
        warmup_steps=300,
        ema_width=0.1,
        crop=64,
        flip=True,
        max_timestep=200,
        min_snr_gamma=20.0,
        log_steps=50,
        validation_steps=1000,
        stored_dtype="float16",
    )
