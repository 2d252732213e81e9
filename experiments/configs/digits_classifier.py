"""Training: the small WideResNet-10-1 for the embedded digits.

    python -m experiments.train --config=digits_classifier

Minutes on two CPU cores.
"""

from experiments.config import DataConfig, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        task="classifier",
        data=DataConfig(name="digits", split="train", num_examples=0),
        architecture="wide_resnet(depth=10,width=1,mean=[0.3],std=[0.38])",
        num_steps=3000,
        batch_size=64,
        optimizer="sgd",
        learning_rate=0.1,
        warmup_steps=100,
        weight_decay=5e-4,
        ema_decay=0.995,
        grad_clip=10.0,
        shift=1,
    )
