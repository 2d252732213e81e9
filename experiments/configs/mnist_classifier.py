"""Training: WideResNet-10-1 for MNIST.

python -m experiments.train --config=mnist_classifier
"""

from experiments.config import DataConfig, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        task="classifier",
        data=DataConfig(name="mnist", split="train", num_examples=0),
        architecture="wide_resnet(depth=10,width=1,mean=[0.1307],std=[0.3081])",
        num_steps=600,
        batch_size=64,
        optimizer="sgd",
        learning_rate=0.1,
        warmup_steps=100,
        weight_decay=5e-4,
        ema_decay=0.998,
        grad_clip=10.0,
        shift=2,
    )
