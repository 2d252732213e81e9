"""Training: a small U-Net of gates for MNIST.

python -m experiments.train --config=mnist_denoiser
"""

from experiments.config import DataConfig, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        task="denoiser",
        data=DataConfig(name="mnist", split="train", num_examples=0),
        architecture="naf_unet(widths=[32,64],blocks=[2,4],time_features=64)",
        num_steps=2500,
        batch_size=64,
        learning_rate=2e-3,
        warmup_steps=200,
        ema_width=0.1,
        max_timestep=400,
        min_snr_gamma=5.0,
        log_steps=50,
        validation_steps=500,
        kept_checkpoints=8,
        stored_dtype="float16",
    )
