"""What a run would cost on a TPU slice, without one: --dry_run=v5e:2x2.

The attack's step and the purifier in it are compiled for one chip of the slice. XLA counts
the body of a loop once, so that a reverse chain of n evaluations counts as one; the other
n - 1 are what the purifier counts alone, forward, or with its derivative where the attack
differentiates through it. Seconds are at the chip's published peaks, and how near a run
comes to these is not known from here. The attack on the classifier alone is not counted.
"""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp

from experiments import tpu_cost
from experiments.build import Experiment
from experiments.cost import duration
from experiments.tpu_cost import Chip, Cost
from jaxpure.errors import UserError
from jaxpure.evaluation import lanes

HERE = "here"
SLICE = re.compile(r"(?P<chip>\w+)(:(?P<shape>\d+(x\d+)*))?")


def check(name: str) -> str:
    """The name of a place that a cost can be told of: "here", a chip, or a slice of it.

    Raises:
      UserError: it is none.
    """
    if name == HERE:
        return name
    match = SLICE.fullmatch(name)
    if match is None or not chips_in(name):
        raise UserError(
            f"--dry_run={name}, expected a chip as in v5e, a slice as in v5e:2x2, or none"
        )
    tpu_cost.chip_named(name)
    return name


def chips_in(name: str) -> int:
    """How many chips a slice has: 4 for "v5e:2x2", 1 for "v5e"."""
    _, _, shape = name.partition(":")
    return math.prod(int(n) for n in shape.split("x")) if shape else 1


def announce(built: Experiment, name: str) -> float:
    """Says what a run would cost on a slice; the seconds at the chips' peaks.

    Raises:
      UserError: libtpu is not installed, or the batch does not fit a chip's memory.
    """
    chip, count, setup = tpu_cost.chip_named(name), chips_in(name), built.setup
    if built.config.batch_size == "auto":
        raise UserError(
            "config.batch_size=auto is found on the device itself: give the number that a "
            "run would have"
        )
    shape = (built.config.batch_size, *built.dataset.image_shape)
    n, keys = len(built.dataset), built.config.judging_keys
    dtype = built.config.compute_dtype
    at_once = built.config.draws_at_once
    batches = math.ceil(n / (count * shape[0]))
    print(
        f"{n} images, {shape[0]} at once on each of {count} x {name.partition(':')[0]}, in "
        f"{batches} batches; times are at the chips' published peaks:",
        flush=True,
    )
    alone = _compiled(chip, dtype, purify, setup.defense, *batch_of(shape))
    evaluations = setup.about["denoiser_evaluations"] or 1
    in_attack = setup.about["attack_denoiser_evaluations"] or 1
    chain = alone
    if setup.about["gradient"] != "bpda":  # else the chain is not differentiated
        chain = _compiled(chip, dtype, differentiate, setup.seen, *batch_of(shape))
    judging = 2 * keys * batches * evaluations * alone.seconds
    total, peak = judging, alone.peak_bytes
    for stage in setup.stages:
        objective = dataclasses.replace(stage.objective, draws_at_once=at_once)
        search = (stage.attack, objective, setup.ball)
        step = _compiled(
            chip, dtype, lanes.advance_on(_mesh(chip)), *step_of(search, shape)
        )
        budget, draws = stage.budget, max(objective.gradient_draws, 1)
        counted = min(at_once, draws)  # draws that the step counts, the rest is a loop
        looks = objective.extra_draws * evaluations * alone.seconds
        each = math.ceil(draws / counted) * step.seconds
        each += draws * (in_attack - 1) * chain.seconds + looks
        seconds = batches * int(budget.calls) * each
        print(
            f"{stage.name}: at most {int(budget.calls)} steps of {1e3 * each:.1f} ms a "
            f"batch, {step.peak_bytes / 1e9:.2f} of {chip.memory / 1e9:.0f} GB; "
            f"{duration(seconds)}",
            flush=True,
        )
        total, peak = total + seconds, max(peak, step.peak_bytes)
    print(f"judging under {keys} keys, clean and attacked: {duration(judging)}", flush=True)
    print(f"at most {duration(total)} and what compiling takes", flush=True)
    if peak > chip.memory:
        raise UserError(
            f"config.batch_size={shape[0]} takes {peak / 1e9:.1f} GB of a chip that has "
            f"{chip.memory / 1e9:.0f}: choose a smaller one"
        )
    return total


def purify(defense: Any, keys: jax.Array, x: jax.Array) -> jax.Array:
    """A batch `(n, H, W, C)`, purified."""
    return jax.vmap(defense.purifier)(keys, x)


def differentiate(defense: Any, keys: jax.Array, x: jax.Array) -> jax.Array:
    """A batch, purified and pulled back through the purification."""

    def one(key, x):
        purified, pull = jax.vjp(lambda x: defense.purifier(key, x), x)
        return pull(purified)[0]

    return jax.vmap(one)(keys, x)


def _compiled(chip: Chip, dtype: str, function: Any, *arguments: Any) -> Cost:
    where = tpu_cost.device(chip)
    try:
        compiled, _ = tpu_cost.compiled_for(where, function, *arguments)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"a program of the run does not fit a chip of {chip.memory / 1e9:.0f} GB: "
            "choose a smaller config.batch_size"
        ) from error
    return tpu_cost.cost(compiled, chip, dtype)


def _mesh(chip: Chip) -> jax.sharding.Mesh:
    return lanes.local_mesh([tpu_cost.device(chip)])


def step_of(search: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Arguments of the engine's step, in shapes; `search` is attack, objective and ball."""
    root, number = _key(), jax.ShapeDtypeStruct((), jnp.int32)
    label = jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    slots = jax.eval_shape(lanes.new_slots, *search, root, label, x, label)
    return *search, number, slots, number


def batch_of(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Keys and images of a batch `(n, H, W, C)`, in shapes."""
    keys = jax.eval_shape(lambda key: jax.random.split(key, shape[0]), _key())
    return keys, jax.ShapeDtypeStruct(shape, jnp.float32)


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))
