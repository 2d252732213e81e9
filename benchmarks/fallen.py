"""What an evaluation costs where images fall early: seconds against the share that fell.

    python -m benchmarks.fallen [PICTURE.png]

200 digits, DiffPure of 10 steps, PGD of 50 steps under BPDA with replayed noise, in balls
from tiny to large. An image that has fallen leaves its place to the next one. The programs
are compiled before, and the same for all balls.
"""

import sys
import time

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxpure as jp

RADII = (1, 15, 25, 35, 51, 75, 128)  # of 255
SETTINGS = {"policy": "replay", "gradient": "bpda", "judging_keys": 2, "batch_size": 25}


def measure(images: int = 200) -> list[tuple[float, float, float]]:
    """`(share fallen, steps of an image, seconds)` for each radius."""
    defense = jp.defense(
        "diffpure(t_star=50,step_rule=ddim(eta=1.0,num_steps=10))",
        denoiser="digits_denoiser",
        classifier="digits_classifier",
    )
    examples, key = jp.load_data("digits", num_examples=images), jax.random.key(0)
    rows = []
    for radius in (RADII[0], *RADII):  # the first time compiles
        attack = jp.attacks.Pgd(step_size=radius / 255 / 10, num_steps=50)
        started = time.perf_counter()
        found = jp.evaluate(
            defense, attack, examples, ball=f"linf({radius}/255)", key=key, **SETTINGS
        )
        seconds = time.perf_counter() - started
        fallen = 1 - float(found.robust[:, 0].mean())
        rows.append((fallen, float(found.attack_calls.mean()), seconds))
    return rows[1:]


def draw(rows: list[tuple[float, float, float]], path: str) -> None:
    """Time against the share that fell, as shares of the slowest."""
    fallen, calls, seconds = np.array(rows).T
    figure = Figure(figsize=(5.2, 3.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for values, name, style in ((seconds, "seconds", "o-"), (calls, "steps", "s--")):
        axes.plot(100 * fallen, 100 * values / values.max(), style, label=name)
    axes.set_xlabel("images that fell, %")
    axes.set_ylabel("of what it costs where few fall, %")
    axes.set_ylim(0, 105)
    axes.legend(frameon=False)
    figure.savefig(path)


def main(arguments: list[str]) -> None:
    rows = measure()
    print("eps | images that fell | steps an image | seconds")
    for radius, (fallen, calls, seconds) in zip(RADII, rows, strict=True):
        print(f"{radius}/255 | {100 * fallen:.1f}% | {calls:.1f} | {seconds:.1f}")
    for path in arguments:
        draw(rows, path)


if __name__ == "__main__":
    main(sys.argv[1:])
