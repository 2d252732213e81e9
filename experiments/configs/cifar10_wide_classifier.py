"""Training: the CIFAR-10 speed run at its full width.

python -m experiments.train --config=cifar10_wide_classifier
"""

from experiments.config import DataConfig, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        task="classifier",
        data=DataConfig(name="cifar10", split="train", num_examples=0),
        architecture="airnet(widths=[64,256,256])",
        num_steps=450,  # 9 epochs
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
        log_steps=5,
        validation_steps=50,
        stored_dtype="float16",
    )
