"""What a run costs here, from measured steps, before it is begun."""

import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.build import Experiment
from jaxpure import specs
from jaxpure.attacks import ATTACKS
from jaxpure.defenses import denoiser_evaluations
from jaxpure.evaluation import Setup, lanes, local_mesh, processes


def announce(built: Experiment, where: lanes.Lanes) -> float:
    """Says what will be done and what it will cost; the seconds that it takes at most."""
    config, dataset, setup = built.config, built.dataset, built.setup
    n, keys, count = len(dataset), config.judging_keys, processes.ours().count
    crowd = f" in each of {count} processes" if count > 1 else ""
    print(
        f"{n} images of {dataset.name}, {setup.about['attack']} in {setup.ball}, policy "
        f"{setup.policy}, gradient {config.gradient}, {keys} judging keys; {where.slots} "
        f"images at once on {where.mesh.size} x {jax.devices()[0].device_kind}{crowd}",
        flush=True,
    )
    seconds, purifications = _attack(built, setup, where)
    each = denoiser_evaluations(built.defense.purifier)
    calls = "" if each is None else f", {purifications * each:,} denoiser evaluations"
    print(
        f"at most {purifications:,} purifications{calls}: at most about "
        f"{duration(seconds)}",
        flush=True,
    )
    _advise(built)
    return seconds


def seconds_per_evaluation(purifier: Any, images: Any) -> float:
    """Seconds that an evaluation of the denoiser takes on one image, of many side by side.

    Args:
      purifier: whose chain is timed, compiled; one evaluation where it does not say.
      images: `(n, H, W, C)`, over all devices where their number allows.
    """
    mesh = local_mesh()
    size = -(-len(images) // mesh.size) * mesh.size
    batch = jnp.resize(jnp.asarray(images), (size, *images.shape[1:]))
    batch = jax.device_put(batch, NamedSharding(mesh, P("data")))
    keys = jax.random.split(jax.random.key(0), size)
    purify = jax.jit(lambda purifier, keys, x: jax.vmap(purifier)(keys, x))
    seconds = float("inf")
    for _ in range(2):  # the first is compiled
        started = time.perf_counter()
        jax.block_until_ready(purify(purifier, keys, batch))
        seconds = time.perf_counter() - started
    return seconds / size / (denoiser_evaluations(purifier) or 1)


def purifications(setup: Setup, of_gradient: int = 1) -> int:
    """What an image costs at most, judging it clean and attacked included.

    Args:
      setup: the evaluation.
      of_gradient: purifications that a draw with a gradient counts as.
    """
    total = 2 * setup.judging_keys
    for stage in setup.stages:
        budget = stage.budget
        each = of_gradient * budget.gradient_draws + budget.forward_draws
        total += int(budget.calls) * each
    return total


def duration(seconds: float) -> str:
    """In the unit that fits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _attack(built: Experiment, setup: Setup, where: lanes.Lanes) -> tuple[float, int]:
    """Seconds and purifications of the attacks in turn and of judging, at most."""
    dataset, keys = built.dataset, built.config.judging_keys
    n = len(dataset)
    share = -(-n // processes.ours().count)  # of this process, at most
    examples = lanes.Examples(built.root, dataset.indices, dataset.floats(), dataset.labels)
    total = 0.0
    for stage in setup.stages:
        compiling, step = lanes.seconds_per_step(where, stage, setup.ball, examples)
        budget = stage.budget
        calls = int(budget.calls)
        each_step = budget.gradient_draws + budget.forward_draws
        seconds = -(-share // where.slots) * step * (calls + 2 * keys / max(each_step, 1))
        print(
            f"{stage.name}: at most {calls} steps of {step:.2f} s (compiled in "
            f"{compiling:.0f} s), about {duration(seconds)}",
            flush=True,
        )
        total += seconds
    return total, n * purifications(setup)


def _advise(built: Experiment) -> None:
    """What the attack itself has to say of this defense and policy, if it has."""
    attack = specs.build(ATTACKS, built.config.attack)
    if not hasattr(attack, "advice"):
        return
    x = built.dataset.floats()[0]
    found = attack.advice(built.defense, built.setup.policy, built.root, x)
    if found:
        print(f"note: {found}", flush=True)
