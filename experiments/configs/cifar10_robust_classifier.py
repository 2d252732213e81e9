"""Training: an AirNet for CIFAR-10, adversarially (PGD, Linf 8/255).

python -m experiments.train --config=cifar10_robust_classifier
"""

from experiments.config import DataConfig, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        task="classifier",
        data=DataConfig(name="cifar10", split="train", num_examples=0),
        architecture="airnet(widths=[64,128,128])",
        num_steps=1000,  # 10 epochs
        batch_size=500,
        passes=True,
        optimizer="muon",
        learning_rate=0.12,
        rate_factors="bias=220,logits=2800",
        warmup_steps=0,
        rate_decay="linear",
        momentum=0.85,
        weight_decay=0.01,
        ema_width=0.05,
        grad_clip=0.0,
        shift=2,
        reflect=True,
        flip=True,
        alternate_flips=True,
        adversarial_eps_255=8.0,
        adversarial_step_255=4.0,
        adversarial_steps=3,
        log_steps=10,
        validation_steps=100,
        stored_dtype="float16",
    )
