"""Training: a small DDPM U-Net for MNIST.

    python -m experiments.train --config=mnist_denoiser

Under half an hour on two CPU cores.
"""

from experiments.config import DataConfig, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        task="denoiser",
        data=DataConfig(name="mnist", split="train", num_examples=0),
        architecture=(
            "unet(channels=16,channel_mult=[1,2,2],num_res_blocks=1,"
            "attention_resolutions=[7],num_groups=8)"
        ),
        num_steps=1000,
        batch_size=32,
        learning_rate=1e-3,
        warmup_steps=200,
        ema_decay=0.998,
        max_timestep=400,
        stored_dtype="float16",
    )
