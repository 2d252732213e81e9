"""Training: a small AirNet for MNIST.

python -m experiments.train --config=mnist_classifier
"""

from experiments.config import DataConfig, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        task="classifier",
        data=DataConfig(name="mnist", split="train", num_examples=0),
        architecture="airnet(widths=[16,32,64],mean=[0.1307],std=[0.3081])",
        num_steps=360,  # 6 epochs
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
        label_smoothing=0.1,
        shift=2,
        log_steps=20,
        validation_steps=60,
    )
