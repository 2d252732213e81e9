"""What jaxpure's programs would cost on TPUs, compiled for them on a machine without one.

    pip install -U 'jax[tpu]'
    python -m benchmarks.tpu --chip=v5e,v6e --network=unet --batch=64 --out=tpu.json

Prints a line for each program as it is compiled, which takes one to several minutes. What
the columns mean is told in `experiments.tpu_cost`. Bodies of loops count once, so that

    forward    one reverse step of DiffPure
    gradient   the same, and its exact derivative in the image: the step, and in the
               backward pass the step again and its derivative
    bpda       a step of PGD under BPDA: `forward`, and a classifier's gradient
    engine     the same as the evaluation runs it, in its slots

leave out the T_STAR - 1 other steps of the chain, and memory does not: the states that
`gradient` starts from are in it. Weights are arguments. With --largest the batch is the
largest that fits into the chip's memory, to an eighth.
"""

import argparse
import dataclasses
import importlib.metadata
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import dry_run, program, tpu_cost
from jaxpure import diffusion, models, purifiers
from jaxpure.attacks import Linf, Pgd
from jaxpure.defenses import PurifiedClassifier
from jaxpure.errors import UserError, check_in, check_range
from jaxpure.evaluation import Setup, lanes, set_up

T_STAR = 100
DTYPES = ("bfloat16", "float32")


class Subject(NamedTuple):
    """A denoiser, the classifier that it protects, and how its reverse steps go."""

    denoiser: models.Architecture
    classifier: models.Architecture
    step_rule: diffusion.StepRule


NETWORKS = {
    "unet": Subject(models.UNet(), models.WideResNet(), diffusion.Ddpm()),
    "guided_unet": Subject(
        models.GuidedUNet(),
        models.ResNet(image_size=256),
        diffusion.Ddpm("learned_range"),
    ),
}


class Program(NamedTuple):
    """A function, and shapes to compile it for."""

    function: Callable
    arguments: tuple[Any, ...]


def forward(setup: Setup, shape: tuple[int, ...], where: Any) -> Program:
    return Program(dry_run.purify, (setup.defense, *dry_run.batch_of(shape)))


def gradient(setup: Setup, shape: tuple[int, ...], where: Any) -> Program:
    return Program(dry_run.differentiate, (setup.defense, *dry_run.batch_of(shape)))


def gradient_products(setup: Setup, shape: tuple[int, ...], where: Any) -> Program:
    """The gradient that keeps of each step what convolutions and matrices made."""
    kept = dataclasses.replace(setup.defense.purifier, remat="products")
    defense = dataclasses.replace(setup.defense, purifier=kept)
    return Program(dry_run.differentiate, (defense, *dry_run.batch_of(shape)))


def bpda(setup: Setup, shape: tuple[int, ...], where: Any) -> Program:
    *search, _, slots, _ = engine(setup, shape, where).arguments

    def step(attack, objective, ball, states):
        return jax.vmap(lambda state: attack.step(objective, ball, state))(states)

    return Program(step, (*search, slots.state))


def engine(setup: Setup, shape: tuple[int, ...], where: Any) -> Program:
    (stage,) = setup.stages
    search = (stage.attack, stage.objective, setup.ball)
    advance = lanes.advance_on(lanes.local_mesh([where]))
    return Program(advance, dry_run.step_of(search, shape))


PROGRAMS = {
    "forward": forward,
    "gradient": gradient,
    "gradient_products": gradient_products,
    "bpda": bpda,
    "engine": engine,
}


class Row(NamedTuple):
    """What is told of one program: its name, and what it costs."""

    chip: str
    network: str
    dtype: str
    batch: int
    program: str
    cost: tpu_cost.Cost
    compile_seconds: float


def measure(chip: str, network: str, dtype: str, batch: int, name: str) -> Row:
    """Compiles one program of `PROGRAMS` for a batch on one chip."""
    peaks = tpu_cost.chip_named(chip)
    where, setup = tpu_cost.device(peaks), set_up_for(network, dtype)
    shape = (batch, *NETWORKS[network].denoiser.input_shape)
    made = PROGRAMS[name](setup, shape, where)
    # As the commands have it (`program.prepare_jax`).
    with jax.default_matmul_precision("highest" if dtype == "float32" else None):
        compiled, seconds = tpu_cost.compiled_for(where, made.function, *made.arguments)
    cost = tpu_cost.cost(compiled, peaks, dtype)
    return Row(chip, network, dtype, batch, name, cost, seconds)


def set_up_for(network: str, dtype: str) -> Setup:
    """PGD under BPDA and replay on DiffPure with one of `NETWORKS`, without weights."""
    subject = NETWORKS[network]
    denoiser, classifier = (
        models.abstract(architecture).replace(compute_dtype=dtype)
        for architecture in (subject.denoiser, subject.classifier)
    )
    purifier = purifiers.DiffPure(denoiser, T_STAR, subject.step_rule)
    defense = PurifiedClassifier(purifier, classifier)
    return set_up(defense, Pgd(), ball=Linf(8 / 255), policy="replay", gradient="bpda")


def largest(fits: Callable[[int], bool], start: int) -> int:
    """The largest batch that fits, to an eighth; 0 if not even one does.

    Doubled until it does not fit, halved until it does, then bisected.
    """
    if fits(start):
        low, high = start, 2 * start
        while fits(high):
            low, high = high, 2 * high
    else:
        low, high = start // 2, start
        while low and not fits(low):
            low, high = low // 2, low
    while high - low > max(low // 8, 1):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def measure_largest(chip: str, network: str, dtype: str, start: int, name: str) -> Row:
    """`measure` of the largest batch that fits the chip's memory.

    Raises:
      UserError: not even one image does.
    """
    rows = {}

    def fits(batch: int) -> bool:
        print(f"... {name} of {batch}", file=sys.stderr, flush=True)
        try:
            rows[batch] = measure(chip, network, dtype, batch, name)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return False
        return True

    found = largest(fits, start)
    if not found:
        raise UserError(f"{name} of {network} in {dtype} does not fit into {chip}'s memory")
    return rows[found]


COLUMNS = (
    "chip, network, dtype, batch, program, GFLOP, GB moved, peak GB, arithmetic ms, "
    "memory ms, efficiency, compile s, program MB"
).split(", ")


def line(row: Row) -> str:
    """A row of the table."""
    c = row.cost
    cells = [*row[:5], f"{c.flop / 1e9:,.0f}", f"{c.bytes_moved / 1e9:.2f}"]
    cells += [f"{c.peak_bytes / 1e9:.2f}", f"{c.arithmetic_seconds * 1e3:.2f}"]
    cells += [f"{c.memory_seconds * 1e3:.2f}", f"{c.efficiency:.2f}"]
    cells += [f"{row.compile_seconds:.0f}", f"{c.code_bytes / 1e6:.1f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def as_dict(row: Row) -> dict[str, Any]:
    """A row for a JSON file."""
    derived = {"seconds": row.cost.seconds, "efficiency": row.cost.efficiency}
    return row._asdict() | {"cost": row.cost._asdict() | derived}


def main(argv: list[str]) -> int:
    """The table that the command line asks for; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    lists = {
        "chip": ("v5e", tpu_cost.CHIPS),
        "network": ("unet", NETWORKS),
        "dtype": ("bfloat16", DTYPES),
        "program": ("forward,gradient", PROGRAMS),
    }
    for name, (default, known) in lists.items():
        parser.add_argument(f"--{name}", default=default, help=f"of {', '.join(known)}")
    parser.add_argument("--batch", default="64", help="images on the chip")
    parser.add_argument("--largest", action="store_true", help="search from --batch on")
    parser.add_argument("--out", type=Path, help="a JSON file for the same")
    options = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # what libtpu is for here is compiling
    try:
        chosen = {n: _several(n, getattr(options, n), k) for n, (_, k) in lists.items()}
        batches = [_batch_size(text) for text in options.batch.split(",")]
        tpu_cost.check_installed()
        tell(chosen, batches, measure_largest if options.largest else measure, options.out)
    except UserError as error:
        return program.fail(str(error))
    return 0


def tell(
    chosen: dict[str, list[str]],
    batches: list[int],
    measured: Callable[..., Row],
    out: Path | None,
) -> None:
    """Prints each row as it is there, and writes all so far to `out`."""
    libtpu = importlib.metadata.version("libtpu")
    print(f"jax {jax.__version__}, libtpu {libtpu}; loops count once")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    rows = []
    for each in itertools.product(
        chosen["chip"], chosen["network"], chosen["dtype"], batches, chosen["program"]
    ):
        rows.append(measured(*each))
        print(line(rows[-1]), flush=True)
        if out is not None:
            out.write_text(json.dumps([*map(as_dict, rows)], indent=2) + "\n")


def _several(option: str, text: str, known: Any) -> list[str]:
    names = text.split(",")
    for name in names:
        check_in(option, name, known)
    return names


def _batch_size(text: str) -> int:
    try:
        batch = int(text)
    except ValueError:
        raise UserError(f"--batch={text}, expected a whole number") from None
    check_range(1, batch=batch)
    return batch


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
