"""Training: a compact DDPM U-Net for CIFAR-10.

    python -m experiments.train --config=cifar10_denoiser

Under an hour on two CPU cores; a GPU wants a wider network and more steps.
"""

from experiments.config import DataConfig, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        task="denoiser",
        data=DataConfig(name="cifar10", split="train", num_examples=0),
        architecture=(
            "unet(channels=32,channel_mult=[1,2,2],num_res_blocks=1,"
            "attention_resolutions=[8],num_groups=8)"
        ),
        num_steps=2500,
        batch_size=16,
        learning_rate=1e-3,
        warmup_steps=300,
        ema_decay=0.998,
        flip=True,
        max_timestep=250,
        stored_dtype="float16",
    )
