"""AutoAttack beside the original, image by image, on a classifier whose robustness is real.

The classifier was trained adversarially, so that some images stand after all attacks: on
one that everything breaks, agreement would say nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpure as jp
from jaxpure.evaluation import local_mesh

torch = pytest.importorskip("torch")
pyautoattack = pytest.importorskip("pyautoattack")

COUNT, EPS = 32, 0.15


@pytest.mark.long
def test_the_same_images_stand(tmp_path):
    digits = jp.load_data("digits", num_examples=COUNT)
    defense = jp.defense("identity", "digits_robust_classifier")
    classifier = defense.classifier
    result = jp.evaluate(
        defense,
        "autoattack",
        digits,
        ball=jp.attacks.Linf(EPS),
        key=jax.random.key(0),
        judging_keys=1,
        batch_size=COUNT,
        folder=tmp_path,
        mesh=local_mesh(jax.devices()[:1]),
    )
    ours = result.robust[:, 0]

    logits, model = in_torch(classifier)
    images = torch.from_numpy(digits.floats().transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(digits.labels.astype(np.int64))
    original = pyautoattack.AutoAttack(model, norm="Linf", eps=EPS, seed=0)
    found, *_ = original.run_standard_evaluation(images, labels, batch_size=COUNT)
    theirs = logits(classifier, padded(found)).argmax(-1)[:COUNT] == digits.labels

    assert 0.5 < ours.mean() < 0.97
    assert np.mean(ours == np.asarray(theirs)) >= 0.96  # one image of 32 may differ


def padded(x) -> np.ndarray:
    """Images as ours take them, in the one shape that is compiled."""
    images = np.zeros((COUNT, 8, 8, 1), np.float32)
    images[: len(x)] = x.detach().numpy().transpose(0, 2, 3, 1)
    return images


def in_torch(classifier):
    """`(our jitted logits, the same as a PyTorch function with a gradient)`."""
    logits = jax.jit(lambda network, x: network(x))
    pull = jax.jit(lambda n, x, v: jax.vjp(lambda x: n(x), x)[1](v)[0])

    class Ours(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return torch.from_numpy(np.array(logits(classifier, padded(x))[: len(x)]))

        @staticmethod
        def backward(ctx, *cotangents):
            (x,) = ctx.saved_tensors
            cotangent = np.zeros((COUNT, 10), np.float32)
            cotangent[: len(x)] = cotangents[0].numpy()
            gradient = pull(classifier, padded(x), jnp.asarray(cotangent))[: len(x)]
            return torch.from_numpy(np.array(gradient).transpose(0, 3, 1, 2).copy())

    return logits, Ours.apply
