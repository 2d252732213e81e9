"""Training: a small U-Net of gates for the embedded digits.

python -m experiments.train --config=digits_denoiser
"""

from experiments.config import DataConfig, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        task="denoiser",
        data=DataConfig(name="digits", split="train", num_examples=0),
        architecture="naf_unet(widths=[32,64],blocks=[2,4],time_features=64)",
        num_steps=8000,
        batch_size=64,
        learning_rate=2e-3,
        warmup_steps=200,
        ema_width=0.1,
        kept_checkpoints=8,
        log_steps=100,
        validation_steps=1000,
        stored_dtype="float16",
    )
