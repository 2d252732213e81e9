"""Made-up records of an evaluation, for tests of what is read from them."""

import numpy as np

from jaxpure.evaluation import Result, statistics


def fake_result(shape, n=30, keys=4, seed=0, survive=0.4, **about) -> Result:
    """Random records that are consistent with one another; `about` changes what is said."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n)

    def logits(share):
        right = rng.random((n, keys)) < share
        other = (labels[:, None] + rng.integers(1, 10, (n, keys))) % 10
        return np.eye(10)[np.where(right, labels[:, None], other)]

    clean_logits = logits(0.9)
    right = statistics.correct(clean_logits, labels)[:, 0]
    adversarial = np.where(right[:, None, None], logits(survive), clean_logits)
    stands = statistics.correct(adversarial, labels)[:, 0]
    spent = np.where(right, np.where(stands, 21, rng.integers(1, 22, n)), 0)
    images = rng.random((n, *shape), np.float32)
    return Result(
        indices=np.arange(100, 100 + n),
        labels=labels,
        clean_logits=clean_logits,
        logits=adversarial,
        images=images,
        clean_images=np.clip(images - 8 / 255, 0, 1),
        linf=np.full(n, 8 / 255),
        l2=np.full(n, 0.4),
        attack_calls=spent,
        evaluations=spent,
        broken_at=np.where(stands, -1, np.maximum(spent - 1, 0)),
        bad_gradients=np.zeros(n, int),
        zero_gradients=np.zeros(n, int),
        gradient_evaluations=spent,
        forward_evaluations=np.zeros(n, int),
        broken_by=np.full(n, ""),
        lost=np.where(stands, 0.25, 1.0),
        vote_lost=~stands,
        about={
            "data": "digits",
            "attack": "pgd(num_steps=20)",
            "stages": ["pgd"],
            "ball": "L-inf 8/255",
            "ball_spec": "linf(eps=8/255)",
            "policy": "replay",
            "gradient": "exact",
            "judging_keys": keys,
            "draws": 1,
            "denoiser_evaluations": 3,
            "attack_denoiser_evaluations": 3,
        }
        | about,
    )
