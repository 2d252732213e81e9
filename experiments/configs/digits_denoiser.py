"""Training: the small DDPM U-Net for the embedded digits.

    python -m experiments.train --config=digits_denoiser

About ten minutes on two CPU cores.
"""

from experiments.config import DataConfig, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        task="denoiser",
        data=DataConfig(name="digits", split="train", num_examples=0),
        architecture=(
            "unet(channels=24,channel_mult=[1,2],num_res_blocks=1,"
            "attention_resolutions=[4],num_groups=8)"
        ),
        num_steps=8000,
        batch_size=64,
        learning_rate=1e-3,
        warmup_steps=500,
        ema_decay=0.999,
        stored_dtype="float16",
    )
