"""Images per second of APGD and PGD beside what others would run, on one classifier.

    pip install -e '.[foolbox,peers]' torch
    python -m benchmarks.attack_speed

The project's CIFAR-10 classifier (WideResNet-10-2), images of uniform noise with the
classes that it gives them, L-inf 8/255, every update made: no attack stops early. Each
attack runs in a process of its own, once to warm up and then `ROUNDS` times in turn with
the others; told are the median, the memory of the process at its peak, and what the first
call took more than a later one, which is compilation. PyTorch gets the same weights in
functions of its own, whose logits are compared first.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

IMAGES, STEPS, EPS, STEP_SIZE, ROUNDS = 64, 50, 8 / 255, 2 / 255, 3


def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(size=(IMAGES, 32, 32, 3)).astype(np.float32)


def jaxpure_attack(name: str) -> Callable[[], object]:
    import jax

    import jaxpure as jp
    from jaxpure.policy import PRESETS

    defense = jp.defense("identity", "cifar10_classifier")
    options = {"step_size": STEP_SIZE} if name == "pgd" else {}
    attack = jp.attacks.ATTACKS[name](num_steps=STEPS, **options)
    objective, ball = attack.objective(defense, PRESETS["fixed"]), jp.attacks.Linf(EPS)

    @jax.jit
    def run(attack, objective, ball, keys, x, y):
        def one(key, x, y):
            return jp.attacks.search(attack, objective, ball, key, x, y).adversarial

        return jax.vmap(one)(keys, x, y)

    x = jax.numpy.asarray(images())
    y = jax.jit(lambda d, x: jax.vmap(lambda x: d(None, x).argmax(-1))(x))(defense, x)
    keys = jax.random.split(jax.random.key(0), IMAGES)
    return lambda: jax.block_until_ready(run(attack, objective, ball, keys, x, y))


def foolbox_attack(framework: str) -> Callable[[], object]:
    import foolbox

    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=STEPS)
    if framework == "torch":
        import torch

        model = foolbox.PyTorchModel(torch_module(), bounds=(0, 1), device="cpu")
        x = torch.from_numpy(images().transpose(0, 3, 1, 2).copy())
    else:
        import jax

        from jaxpure.defenses import PurifiedClassifier
        from jaxpure.interop.foolbox import foolbox_model
        from jaxpure.purifiers import Identity
        from jaxpure.weights import load

        defense = PurifiedClassifier(Identity(), load("cifar10_classifier"))
        model = foolbox_model(defense, jax.random.key(0))
        x = jax.numpy.asarray(images())
    y = model(x).argmax(-1)

    def run():
        raw, _, _ = attack(model, x, y, epsilons=EPS)
        return np.asarray(raw)

    return run


def original_apgd() -> Callable[[], object]:
    import torch
    from pyautoattack.autopgd_base import APGDAttack

    model = torch_module()
    attack = APGDAttack(model, n_iter=STEPS, norm="Linf", eps=EPS, device="cpu")
    attack.init_hyperparam(x := torch.from_numpy(images().transpose(0, 3, 1, 2).copy()))
    y = model(x).argmax(-1)
    return lambda: attack.attack_single_run(x, y)


def torch_classifier():
    """The classifier's weights in PyTorch, channels last as it likes them on a CPU."""
    import torch
    from torch.nn import functional

    from jaxpure import weights

    network = weights.load("cifar10_classifier")
    weights = {
        name: torch.from_numpy(np.array(value, np.float32))
        for name, value in weights.flatten(network.params).items()
    }
    kernels = {
        name: w.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        for name, w in weights.items()
        if w.ndim == 4
    }
    mean, std = (
        torch.tensor(v)[None, :, None, None]
        for v in (network.config.mean, network.config.std)
    )

    def norm(x, name):
        mean, var = (weights[f"stats.{name}.{part}"] for part in ("mean", "var"))
        scale, bias = (weights[f"params.{name}.{part}"] for part in ("scale", "bias"))
        return functional.relu(functional.batch_norm(x, mean, var, scale, bias, eps=1e-5))

    def conv(x, name, stride=1):
        kernel = kernels[f"params.{name}.kernel"]
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def forward(x):
        x = (x.contiguous(memory_format=torch.channels_last) - mean) / std
        x = conv(x, "conv_in")
        for i in range(3):
            block, stride = f"blocks.{i}", 2 if i else 1
            activated = norm(x, f"{block}.norm1")
            h = conv(activated, f"{block}.conv1", stride)
            h = conv(norm(h, f"{block}.norm2"), f"{block}.conv2")
            x = h + conv(activated, f"{block}.shortcut", stride)
        x = norm(x, "norm_out").mean((2, 3))
        return x @ weights["params.logits.kernel"] + weights["params.logits.bias"]

    return forward


def torch_module():
    """`torch_classifier` as a module, which PyTorch's libraries want."""
    import torch

    class Classifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.run = torch_classifier()

        def forward(self, x):
            return self.run(x)

    return Classifier().eval()


ATTACKS: dict[str, Callable[[], Callable[[], object]]] = {
    "APGD, jaxpure": lambda: jaxpure_attack("apgd"),
    "APGD, the original (PyTorch)": original_apgd,
    "PGD, jaxpure": lambda: jaxpure_attack("pgd"),
    "PGD, Foolbox on JAX": lambda: foolbox_attack("jax"),
    "PGD, Foolbox on PyTorch": lambda: foolbox_attack("torch"),
}


def measure(name: str) -> dict[str, float]:
    """Seconds of the first call and of a later one, and peak memory, of this process."""
    run = ATTACKS[name]()
    times = []
    for _ in range(2):
        started = time.monotonic()
        run()
        times.append(time.monotonic() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"first": times[0], "later": times[1], "mib": peak}


def check_logits() -> float:
    """The largest difference between the logits of the two frameworks."""
    import torch

    from jaxpure import weights

    x = images()
    ours = np.asarray(weights.load("cifar10_classifier")(x))
    with torch.no_grad():
        theirs = torch_classifier()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    return float(np.abs(ours - theirs.numpy()).max())


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    print(f"logits differ by {check_logits():.1e}; {IMAGES} images, {STEPS} updates")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ATTACKS}
    for _ in range(ROUNDS):
        for name in ATTACKS:
            command = [sys.executable, "-m", "benchmarks.attack_speed", name]
            output = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name].append(json.loads(output.stdout.splitlines()[-1]))
    print("| attack | images a second | to jaxpure's | compile s | peak MiB |")
    print("|---|---|---|---|---|")
    speeds = {
        name: IMAGES / statistics.median(run["later"] for run in runs)
        for name, runs in found.items()
    }
    for name, runs in found.items():
        ratio = speeds[name] / speeds[f"{name.split(',')[0]}, jaxpure"]
        compile_seconds = statistics.median(max(r["first"] - r["later"], 0) for r in runs)
        peak = max(run["mib"] for run in runs)
        speed = f"{speeds[name]:.2f} | {ratio:.2f}"
        print(f"| {name} | {speed} | {compile_seconds:.1f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
