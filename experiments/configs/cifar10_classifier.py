"""Training: WideResNet-10-2 for CIFAR-10.

    python -m experiments.train --config=cifar10_classifier

About half an hour on two CPU cores; a GPU can afford WideResNet-16-4 and more steps.
"""

from experiments.config import DataConfig, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        task="classifier",
        data=DataConfig(name="cifar10", split="train", num_examples=0),
        architecture=(
            "wide_resnet(depth=10,width=2,mean=0.4914|0.4822|0.4465,"
            "std=0.2471|0.2435|0.2616)"
        ),
        num_steps=5000,
        batch_size=64,
        optimizer="sgd",
        learning_rate=0.1,
        warmup_steps=500,
        weight_decay=5e-4,
        ema_decay=0.999,
        grad_clip=10.0,
        shift=2,
        flip=True,
        stored_dtype="float16",
    )
