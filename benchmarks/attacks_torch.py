"""The original APGD and Foolbox's PGD on the CIFAR-10 classifier in PyTorch.

The classifier's bundled weights are read as they lie in their file, without jaxpure, so
that the memory of the process is PyTorch's.
"""

import pathlib
import re

import numpy as np
import torch
from safetensors import safe_open
from torch.nn import functional

from benchmarks.images import channels_first, uniform
from benchmarks.works import Task

WEIGHTS = pathlib.Path(__file__).parents[1] / "jaxpure/pretrained/cifar10_classifier"
EPS, STEP_SIZE = 8 / 255, 2 / 255


class Classifier(torch.nn.Module):
    """AirNet, channels last as PyTorch likes it on a CPU; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        with safe_open(f"{WEIGHTS}.safetensors", framework="numpy") as file:
            architecture = file.metadata()["architecture"]
            self.weights = {
                name: torch.from_numpy(file.get_tensor(name).astype(np.float32))
                for name in file.keys()  # noqa: SIM118
            }
        self.kernels = {
            name: w.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
            for name, w in self.weights.items()
            if w.ndim == 4
        }
        self.groups = len(_numbers(architecture, "widths"))
        self.mean, self.std = (
            torch.tensor(_numbers(architecture, name))[None, :, None, None]
            for name in ("mean", "std")
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x = (x.contiguous(memory_format=torch.channels_last) - self.mean) / self.std
        x = functional.gelu(functional.conv2d(x, self.kernels["stats.whitening"]))
        for i in range(self.groups):
            group = f"groups.{i}"
            x = functional.max_pool2d(self._conv(x, f"{group}.conv1"), 2)
            x = functional.gelu(self._norm(x, f"{group}.norm1"))
            x = self._norm(self._conv(x, f"{group}.conv2"), f"{group}.norm2")
            x = functional.gelu(x)
        x = x.amax((2, 3))
        return x @ self.weights["params.logits"] / x.shape[-1]

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var = (self.weights[f"stats.{name}.{part}"] for part in ("mean", "var"))
        bias = self.weights[f"params.{name}.bias"]
        return functional.batch_norm(x, mean, var, bias=bias, eps=1e-12)

    def _conv(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.conv2d(x, self.kernels[f"params.{name}.kernel"], padding=1)


def _numbers(architecture: str, option: str) -> list[float]:
    """An option of the architecture's spec that is a list of numbers."""
    (listed,) = re.findall(rf"\b{option}=\[([^\]]*)\]", architecture)
    return [float(number) for number in listed.split(",")]


def apgd(folder: str, images: int, steps: int) -> Task:
    """AutoAttack's APGD with cross-entropy, as it is published."""
    del folder
    from pyautoattack.autopgd_base import APGDAttack

    model, x = Classifier().eval(), torch.from_numpy(channels_first(uniform(images)))
    y = model(x).argmax(-1)
    attack = APGDAttack(model, n_iter=steps, norm="Linf", eps=EPS, device="cpu")
    attack.init_hyperparam(x)
    return _task(model, lambda: attack.attack_single_run(x, y))


def foolbox_pgd(folder: str, images: int, steps: int) -> Task:
    """Foolbox's PGD."""
    del folder
    import foolbox

    model, x = Classifier().eval(), torch.from_numpy(channels_first(uniform(images)))
    y = model(x).argmax(-1)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=steps)
    return _task(model, lambda: attack(wrapped, x, y, epsilons=EPS))


def _task(model: Classifier, run) -> Task:
    def call() -> None:
        model.calls = 0
        run()

    return Task(
        call, lambda: {"evaluations": model.calls, "threads": torch.get_num_threads()}
    )
