"""The reverse chain by jaxpure: DiffPure on a batch, and the gradient through it."""

import pathlib

import jax
import jax.numpy as jnp

from benchmarks import sharded
from benchmarks.images import uniform
from benchmarks.works import Task
from jaxpure import models, weights
from jaxpure.purifiers import DiffPure

NETWORKS = {
    "tiny": models.UNet(
        image_size=8,
        channels=8,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(4,),
        num_groups=4,
    ),
    "compact": models.UNet(
        channels=32,
        channel_mult=(1, 2, 2),
        num_res_blocks=1,
        attention_resolutions=(8,),
        num_groups=8,
    ),
    "published": models.UNet.cifar10(),
}


def weights_path(folder: str, network: str) -> pathlib.Path:
    return pathlib.Path(folder) / f"{network}.safetensors"


def purified(purifier, key, x):
    return purifier(key, x)


def gradient_of_sum(purifier, key, x):
    return jax.grad(lambda x: jnp.sum(purifier(key, x)))(x)


def task(
    folder: str,
    network: str,
    steps: int,
    images: int,
    gradient: bool,
    devices: int | None,
) -> Task:
    """`steps` ancestral steps on so many images, or the gradient of their sum through them.

    Its operations are those of the network: for a gradient a forward pass, another under
    the checkpoint, and one back to the image.
    """
    sharded.use(devices, images)
    denoiser = weights.load(weights_path(folder, network))
    purifier = DiffPure(denoiser, t_star=steps)
    keys = jax.random.split(jax.random.key(0), images)
    x = uniform(images, NETWORKS[network].input_shape)
    one = gradient_of_sum if gradient else purified
    call = sharded.spread(one, (purifier,), (keys, x))

    def facts() -> dict[str, float]:
        forward = sharded.operations(
            lambda n, x, t: n(x, t), denoiser, x[0], jnp.float32(0)
        )
        passes = 3 if gradient else 1
        evaluations = (2 if gradient else 1) * purifier.denoiser_evaluations
        return {
            "evaluations": evaluations,
            "operations": passes * steps * images * forward,
            "devices": jax.device_count(),
        }

    return Task(call, facts)
