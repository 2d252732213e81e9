"""AutoAttack and the original, on one classifier: which images each leaves standing.

    pip install -e '.[peers,convert]'
    python -m benchmarks.agreement [CLASSIFIER [DATA [EPS [IMAGES]]]]

Of themselves `digits_robust_classifier`, `digits`, `51/255` and 500. Both are the version
`standard` in an Linf ball, on the classifier alone, with its gradients; random numbers are
each one's own, so that a few images near the edge may go either way.
"""

import sys
import time

import jax
import numpy as np
import torch

import jaxpure as jp

USUAL = ("digits_robust_classifier", "digits", "51/255", "500")
BATCH = 100


class Logits(torch.autograd.Function):
    """A network of ours, as PyTorch differentiates: images `(n, C, H, W)`."""

    @staticmethod
    def forward(ctx, x, network):
        ctx.network, ctx.images = network, np.moveaxis(x.detach().numpy(), 1, -1)
        return torch.from_numpy(np.array(_logits(network, ctx.images)))

    @staticmethod
    def backward(ctx, *outputs):
        found = _pulled_back(ctx.network, ctx.images, outputs[0].numpy())
        return torch.from_numpy(np.moveaxis(np.array(found), -1, 1).copy()), None


@jax.jit
def _logits(network, images):
    return jax.vmap(network)(images)


@jax.jit
def _pulled_back(network, images, g):
    _, pull = jax.vjp(lambda x: jax.vmap(network)(x), images)
    return pull(g)[0]


def ours(network: str, examples, eps: str) -> np.ndarray:
    """`(n,)`, whether an image is right and stays so."""
    defense = jp.defense("identity", classifier=network)
    found = jp.evaluate(
        defense,
        "autoattack",
        examples,
        ball=f"linf({eps})",
        key=jax.random.key(0),
        policy="replay",
        gradient="exact",
        judging_keys=2,
        batch_size=BATCH,
    )
    return np.asarray(found.robust[:, 0])


def original(network: str, examples, eps: str) -> np.ndarray:
    """Likewise, of the original."""
    from pyautoattack import AutoAttack

    loaded = jp.load_network(network)

    class Model(torch.nn.Module):
        def forward(self, x):
            return Logits.apply(x, loaded)

    numerator, _, denominator = eps.partition("/")
    radius = float(numerator) / float(denominator or 1)
    images = torch.from_numpy(np.moveaxis(examples.floats(), -1, 1).copy())
    labels = torch.from_numpy(examples.labels.astype(np.int64))
    attack = AutoAttack(Model(), norm="Linf", eps=radius, version="standard", seed=0)
    moved, _ = attack.run_standard_evaluation(images, labels, batch_size=BATCH)
    with torch.no_grad():
        predicted = np.concatenate([Model()(x).argmax(-1) for x in moved.split(BATCH)])
    return predicted == examples.labels


def main(arguments: list[str]) -> None:
    network, data, eps, count = (*arguments, *USUAL[len(arguments) :])
    examples = jp.load_data(data, num_examples=int(count))
    stand = {}
    for name, evaluate in (("ours", ours), ("original", original)):
        started = time.perf_counter()
        stand[name] = evaluate(network, examples, eps)
        seconds = time.perf_counter() - started
        print(f"{name}: {100 * stand[name].mean():.1f}% stand, {seconds:.0f} s", flush=True)
    mine, theirs = stand.values()
    print(
        f"{network}, Linf {eps}, {count} images of {data}: {np.sum(mine == theirs)} agree; "
        f"{np.sum(mine & ~theirs)} stand ours alone, {np.sum(theirs & ~mine)} the original"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
