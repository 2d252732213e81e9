"""Training: a small ConvMixer for CIFAR-10.

python -m experiments.train --config=cifar10_mixer_classifier
"""

from experiments.config import DataConfig, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        task="classifier",
        data=DataConfig(name="cifar10", split="train", num_examples=0),
        architecture="conv_mixer(features=192,depth=8,kernel_size=5,patch_size=2)",
        num_steps=1950,  # 10 epochs
        batch_size=256,
        passes=True,
        learning_rate=0.01,
        warmup_steps=200,
        weight_decay=0.01,
        ema_width=0.05,
        label_smoothing=0.1,
        shift=2,
        reflect=True,
        flip=True,
        alternate_flips=True,
        log_steps=10,
        validation_steps=195,
        stored_dtype="float16",
    )
