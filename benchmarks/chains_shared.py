"""One network for both frameworks: diffusers' random one, converted; what they compute."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import chains
from benchmarks.images import channels_first, channels_last, uniform
from checkpoints_convert import convert
from checkpoints_convert.families.diffusers_unet import FIXED
from jaxpure import models, weights
from jaxpure.keys import noise_at, part
from jaxpure.purifiers import DiffPure

IMAGES, STEPS = 2, 2


def ready(folder: str, network: str, gradient: bool) -> dict[str, float | str]:
    """Makes the network if it is not there, and compares a short chain of both.

    Returns:
      "differ": the largest difference of the two outputs, in units of the largest output;
      or "note": why they were not compared.
    """
    path = chains.weights_path(folder, network)
    for peer in ("torch", "diffusers"):
        if importlib.util.find_spec(peer) is None:
            if not path.exists():
                created = models.create(chains.NETWORKS[network], jax.random.key(0))
                weights.save(path, created, {})
            return {"note": f"not compared with PyTorch: {peer} is not installed"}
    if not path.exists():
        _make(pathlib.Path(folder) / network, chains.NETWORKS[network])
        convert(str(pathlib.Path(folder) / network), path)
    return {"differ": difference(folder, network, gradient)}


def _make(folder: pathlib.Path, config: models.UNet) -> None:
    """A folder of diffusers with this architecture and random parameters."""
    import torch
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    heights = [config.image_size // 2**i for i in range(len(config.channel_mult))]
    attends = [height in config.attention_resolutions for height in heights]
    UNet2DModel(
        sample_size=config.image_size,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=tuple(config.channels * m for m in config.channel_mult),
        layers_per_block=config.num_res_blocks,
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]],
        norm_num_groups=config.num_groups,
        **FIXED,
    ).save_pretrained(folder)


def difference(folder: str, network: str, gradient: bool) -> float:
    """Of a short chain by both under the same noise, to the largest output."""
    import torch

    from benchmarks import chains_torch

    purifier = DiffPure(weights.load(chains.weights_path(folder, network)), t_star=STEPS)
    keys = jax.random.split(jax.random.key(0), IMAGES)
    x = uniform(IMAGES, chains.NETWORKS[network].input_shape)
    one = chains.gradient_of_sum if gradient else chains.purified
    ours = np.asarray(jax.jit(jax.vmap(one, (None, 0, 0)))(purifier, keys, x))

    noise = np.asarray(jax.jit(jax.vmap(_noise, (0, 0), 1))(keys, x))
    x, noise = (torch.from_numpy(channels_first(a)) for a in (x, noise))
    model = chains_torch.load(folder, network)
    if gradient:
        theirs = chains_torch.gradient_of_sum(model, x, noise)
    else:
        with torch.no_grad():
            theirs = chains_torch.purify(model, x, noise)
    theirs = channels_last(theirs.numpy())
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _noise(key: jax.Array, x: jax.Array) -> jax.Array:
    """What DiffPure draws for an image: `(STEPS + 1, H, W, C)`, in the order of its use."""
    forward = noise_at(part(key, "forward"), 0, x)
    reverse = jax.random.fold_in(part(key, "reverse"), 0)
    steps = [noise_at(reverse, t, x) for t in range(STEPS - 1, -1, -1)]
    return jnp.stack([forward, *steps])
