"""Training: a WideResNet-10-2 for the embedded digits, adversarially (PGD, Linf 51/255).

    python -m experiments.train --config=digits_robust_classifier

About twenty minutes on two CPU cores. What it keeps under attack is real, so attacks are
checked on it.
"""

from experiments.config import DataConfig, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        task="classifier",
        data=DataConfig(name="digits", split="train", num_examples=0),
        architecture="wide_resnet(depth=10,width=2,mean=[0.3],std=[0.38])",
        num_steps=3000,
        batch_size=64,
        optimizer="sgd",
        learning_rate=0.1,
        warmup_steps=100,
        weight_decay=5e-4,
        ema_decay=0.995,
        grad_clip=10.0,
        shift=1,
        adversarial_eps_255=51.0,
        adversarial_step_255=12.75,
        adversarial_steps=7,
        stored_dtype="float16",
    )
