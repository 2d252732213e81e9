"""Seconds of a training step's gradient, for the networks that the configs train.

    python -m benchmarks.training_steps

The batch is spread over a CPU device a physical core, as training does it. Run beside the
same file on another commit, it tells what a change made of training.
"""

import time
from functools import partial

import jax

from experiments import config as configs
from experiments import devices, recipe
from jaxpure import data

# Config, size of its images, images of the batch.
CASES = (
    ("cifar10_classifier", 24, 500),
    ("cifar10_classifier", 32, 500),
    ("cifar10_denoiser", 32, 64),
    ("mnist_denoiser", 28, 64),
)


def seconds(name: str, size: int, batch: int, repeats: int = 5) -> float:
    """The fastest of some gradients of a config's loss, compiled."""
    config = configs.by_name(name, configs.TrainConfig)
    channels = 1 if name.startswith("mnist") else 3
    full = {1: 28, 3: 32}[channels]  # the network's own size; a step may be of a smaller
    shape = (batch, full, full, channels)
    labels = jax.numpy.arange(batch) % 10
    images = jax.random.uniform(jax.random.key(0), shape)
    network, loss = recipe.network_and_loss(config, data.from_arrays(images, labels))
    mesh = jax.make_mesh(
        (jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    over, everywhere = (jax.sharding.NamedSharding(mesh, jax.P(a)) for a in ("data", None))
    x, y = jax.device_put((images[:, :size, :size], labels), over)
    params = jax.device_put(network.params, everywhere)

    def objective(trainable, params, x, y):
        changed = {**params, "params": trainable}
        return loss(network.architecture, changed, x, y, jax.random.key(1))[0]

    gradient = jax.jit(jax.grad(objective))
    call = partial(gradient, params["params"], params, x, y)
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    devices.use(None)
    print("config, size, images | seconds | images a second")
    for name, size, batch in CASES:
        found = seconds(name, size, batch)
        print(f"{name}, {size}, {batch} | {found:.2f} | {batch / found:.0f}", flush=True)


if __name__ == "__main__":
    main()
