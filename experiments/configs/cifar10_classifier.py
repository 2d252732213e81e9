"""Training: the wide network of the CIFAR-10 speed runs.

python -m experiments.train --config=cifar10_classifier
"""

from experiments.config import DataConfig, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        task="classifier",
        data=DataConfig(name="cifar10", split="train", num_examples=0),
        architecture="airnet(widths=[64,256,256])",
        num_steps=400,  # 8 epochs
        batch_size=1000,
        passes=True,
        optimizer="muon",
        learning_rate=0.2,
        rate_factors="bias=265,logits=3350",
        warmup_steps=0,
        rate_decay="linear",
        momentum=0.85,
        weight_decay=0.01,
        ema_width=0.03,
        grad_clip=0.0,
        label_smoothing=0.2,
        shift=2,
        reflect=True,
        flip=True,
        alternate_flips=True,
        small_size=24,
        small_steps=200,
        log_steps=5,
        validation_steps=50,
        stored_dtype="float16",
    )
