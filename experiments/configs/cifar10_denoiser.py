"""Training: a U-Net of gates for CIFAR-10, from half resolution down.

python -m experiments.train --config=cifar10_denoiser
"""

from experiments.config import DataConfig, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        task="denoiser",
        data=DataConfig(name="cifar10", split="train", num_examples=0),
        architecture="naf_unet(widths=[32,96,256],blocks=[2,2,4])",
        num_steps=32_000,  # 2 million images
        batch_size=64,
        accumulation=2,  # 32 images at a time stay in a CPU's cache
        learning_rate=1e-3,
        rate_decay="constant",  # the average does what a falling rate would
        warmup_steps=300,
        ema_width=0.1,
        flip=True,
        max_timestep=300,
        # With 5, timesteps below 50 would count for less than a sixth of those above 130,
        # and all steps of a purification have a like share in what it gets wrong.
        min_snr_gamma=20.0,
        log_steps=20,
        validation_steps=500,
        kept_checkpoints=10,
        stored_dtype="float16",
    )
