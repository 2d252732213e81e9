"""The same reverse chain by PyTorch on diffusers' U-Net, as DiffPure's code goes about it.

Imports nothing of JAX, so that the memory of the process is PyTorch's.
"""

import json
import pathlib
from collections.abc import Callable

import numpy as np
import torch
from diffusers import UNet2DModel
from torch.utils.checkpoint import checkpoint

from benchmarks.works import Task

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Counted(torch.nn.Module):
    """A network that counts its calls."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.network(x, t, return_dict=False)[0]


def load(folder: str, network: str, compiled: bool = False) -> Counted:
    """The network that `chains_shared.ready` made, channels last, in evaluation mode."""
    unet = UNet2DModel.from_pretrained(pathlib.Path(folder) / network)
    unet = unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return Counted(torch.compile(unet) if compiled else unet)


def purify(network: Network, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Noises images and denoises them by ancestral steps (Ho et al. 2020, algorithm 2).

    A step's variance is beta, as in DiffPure. Where a gradient is wanted each step is
    checkpointed, so that memory does not grow with the steps.

    Args:
      network: `(x, t) -> predicted noise`.
      x: `(n, C, H, W)` in [0, 1].
      noise: `(steps + 1, n, C, H, W)` standard normal: the forward noise, then that of
        the steps; the last of these is not used.
    """
    betas = np.linspace(1e-4, 0.02, 1000)
    signal = np.cumprod(1 - betas)

    def step(x: torch.Tensor, t: int, noise: torch.Tensor) -> torch.Tensor:
        lower = signal[t - 1] if t else 1.0
        predicted = network(x, torch.full((len(x),), float(t)))
        clean = (x - (1 - signal[t]) ** 0.5 * predicted) / signal[t] ** 0.5
        mean = (
            lower**0.5 * betas[t] / (1 - signal[t]) * clean
            + (1 - betas[t]) ** 0.5 * (1 - lower) / (1 - signal[t]) * x
        )
        return mean + betas[t] ** 0.5 * noise if t else mean

    first = len(noise) - 2
    x = signal[first] ** 0.5 * (2 * x - 1) + (1 - signal[first]) ** 0.5 * noise[0]
    for i, t in enumerate(range(first, -1, -1)):
        if torch.is_grad_enabled():
            x = checkpoint(step, x, t, noise[i + 1], use_reentrant=False)
        else:
            x = step(x, t, noise[i + 1])
    return (x + 1) / 2


def gradient_of_sum(network: Network, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Of the sum of the purified images, in the images."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(purify(network, x, noise).sum(), x)[0]


def task(
    folder: str, network: str, steps: int, images: int, gradient: bool, compiled: bool
) -> Task:
    """`steps` ancestral steps on so many images, or the gradient through them."""
    settings = json.loads((pathlib.Path(folder) / network / "config.json").read_text())
    shape = (images, settings["in_channels"], *[settings["sample_size"]] * 2)
    x = torch.rand(shape).contiguous(memory_format=torch.channels_last)
    model = load(folder, network, compiled)

    def call() -> None:
        model.calls = 0
        noise = torch.randn((steps + 1, *shape))
        if gradient:
            gradient_of_sum(model, x, noise)
        else:
            with torch.no_grad():
                purify(model, x, noise)

    return Task(
        call, lambda: {"evaluations": model.calls, "threads": torch.get_num_threads()}
    )
