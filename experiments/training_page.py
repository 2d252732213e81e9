"""The report of a training: one HTML page that needs nothing but itself.

It tells the run as it stands, from the records in its workdir and its averaged weights.
"""

import dataclasses
import json
from typing import Any

import numpy as np
from etils import epath

from experiments import config as configs
from experiments import events, throughput, training_log, training_pictures
from jaxpure import data, models, report
from jaxpure.files import write_atomically
from jaxpure.report import curve, pictures
from jaxpure.report.words import count_images, duration

NAME = "report.html"
MEASURES = {"classifier": "accuracy", "denoiser": "loss"}  # columns of validation.csv
WEIGHTS = ("averaged", "raw")
SMALL = 64  # CSS pixels that an image is wide, at most


@dataclasses.dataclass(frozen=True)
class Story:
    """What a page tells.

    Attributes:
      name: of the config.
      config: what is trained.
      network: with the averaged weights.
      dataset: what it is trained on.
      test: the examples that its pictures are of.
      step: updates made.
      pace: the time that they took.
      result: what a card says of the averaged weights; "" before there is one.
    """

    name: str
    config: configs.TrainConfig
    network: models.Network
    dataset: data.Dataset
    test: data.Dataset
    step: int
    pace: throughput.Pace
    result: str = ""


def write(workdir: epath.Path, story: Story) -> None:
    """Writes the page of the run in a workdir.

    Raises:
      StorageError: it cannot be written there.
    """
    measure = MEASURES[story.config.task]
    columns = [f"{measure}_{weights}" for weights in WEIGHTS]
    rows = [
        row
        for row in training_log.validations(workdir, story.step)
        if all(name in row for name in columns)  # else a file that was damaged
    ]
    losses = training_log.losses(workdir, story.step)
    text = report.render(
        "experiments",
        "training_page.html",
        title=f"Training of {story.name} on {story.dataset.name}",
        verdict=_verdict(story, losses, rows),
        figures=_figures(story.config, losses, rows),
        pictures=_pictures(story),
        facts=_facts(workdir, story),
        config=list(_flat(configs.as_dict(story.config))),
        files=[n for n in ("loss.jsonl", "validation.csv") if (workdir / n).exists()],
        events=events.FOLDER if (workdir / events.FOLDER).exists() else "",
    )
    write_atomically(workdir / NAME, text.encode())


def _verdict(story: Story, losses: list, rows: list[dict[str, Any]]) -> str:
    """Where the run stands, in a sentence."""
    of = f"of {story.config.num_steps:,} " if story.step < story.config.num_steps else ""
    made = f"After {story.step:,} {of}steps"
    if story.result:
        return f"{made} the averaged weights reach {story.result}."
    if rows:
        measure = MEASURES[story.config.task]
        value = rows[-1][f"{measure}_averaged"]
        return f"{made} the averaged weights reach {measure} {value:.4f} in testing."
    return f"{made} the training loss is {losses[-1][1]:.4f}." if losses else f"{made}."


def _figures(
    config: configs.TrainConfig, losses: list, rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The curves, each with its caption."""
    found = []
    if losses:
        (first, start), (last, end) = losses[0], losses[-1]
        steps, values = zip(*losses, strict=True)
        found.append(
            {
                "title": "Training loss",
                "drawing": curve.along([curve.Line("training loss", steps, values)]),
                "described": f"From {start:.4f} at step {first} to {end:.4f} at {last}.",
                "caption": f"{_loss(config)} A point is the mean since the one before.",
            }
        )
    if rows:
        measure = MEASURES[config.task]
        steps = [row["step"] for row in rows]
        lines = [
            curve.Line(weights, steps, [row[f"{measure}_{weights}"] for row in rows])
            for weights in WEIGHTS
        ]
        plain = "Not weighed by min-SNR. " if config.min_snr_gamma else ""
        ends = " and ".join(f"{line.values[-1]:.4f} ({line.name})" for line in lines)
        found.append(
            {
                "title": f"{measure.capitalize()} on the test split",
                "drawing": curve.along(lines, shares=config.task == "classifier"),
                "described": f"At step {steps[-1]}: {ends}.",
                "caption": f"{plain}Of the averaged weights, which are published, and of "
                "the raw ones. It decides nothing: the weights of the last step are kept.",
            }
        )
    return found


def _loss(config: configs.TrainConfig) -> str:
    """What the training loss is, in a sentence."""
    if config.task == "denoiser":
        weighed = ", weighed by min-SNR" if config.min_snr_gamma else ""
        return f"Mean squared error of the predicted noise{weighed}."
    smoothed = f", labels smoothed by {config.label_smoothing:g}"
    eps = config.adversarial_eps_255
    return (
        f"Cross-entropy{smoothed if config.label_smoothing else ''}"
        f"{f', on images that PGD moved by up to {eps:g}/255' if eps else ''}."
    )


def _pictures(story: Story) -> dict[str, Any]:
    """What the network does to test images."""
    if story.config.task == "classifier":
        return {"mistakes": _mistakes(story)}
    images = story.test.floats()
    return {"samples": _samples(story.network, images), "levels": _levels(story, images)}


def _mistakes(story: Story) -> dict[str, Any]:
    found = training_pictures.mistakes(story.network, story.test)
    return {
        "of": f"{found.wrong} of the first {count_images(found.among)} of the test split",
        "worst": [
            {
                "index": mistake.index,
                "label": mistake.label,
                "says": mistake.says,
                "likelihood": f"{100 * mistake.likelihood:.2g}%",
                "image": _image(mistake.image, pictures.IMAGE_WIDTH),
            }
            for mistake in found.worst
        ],
        "confusions": [
            {"label": label, "says": says, "images": n}
            for label, says, n in found.confusions
        ],
    }


def _samples(network: models.Network, images: np.ndarray) -> dict[str, Any]:
    found = training_pictures.samples(network, images)
    rows = {"sample": found.images}
    if found.starts is not None:
        rows = {"noised test image": found.starts, "reverse chain": found.images}
    return {
        "from_noise": found.starts is None,
        "steps": found.steps,
        "timestep": found.timestep,
        "pairs": [
            [
                {"name": name, **_image(image, SMALL)}
                for name, image in zip(rows, images, strict=True)
            ]
            for images in zip(*rows.values(), strict=True)
        ],
    }


def _levels(story: Story, images: np.ndarray) -> list[dict[str, Any]]:
    """Rows of the table of one-shot denoising."""
    found = training_pictures.denoised(story.network, images)
    clean = images[: training_pictures.DENOISED]
    rows = [("test image", "", clean)]
    for level in found:
        noise = f"t = {level.timestep}, {100 * level.signal:.0f}% signal"
        error = np.sqrt(np.mean(np.square(level.denoised - clean)))
        rows.append(("noised", noise, level.noised))
        rows.append(("denoised", f"{error:.3f} from the image", level.denoised))
    return [
        {
            "name": name,
            "more": more,
            "images": [
                {"index": int(index), **_image(image, SMALL)}
                for index, image in zip(story.test.indices, shown, strict=False)
            ],
        }
        for name, more, shown in rows
    ]


def _image(image: np.ndarray, most: int) -> dict[str, Any]:
    width = pictures.displayed_width(image[None], most)
    return {"uri": pictures.data_uri(image), "width": width}


def _facts(workdir: epath.Path, story: Story) -> list[tuple[str, str]]:
    """What was run, on what, and how fast."""
    claim, config = json.loads((workdir / "config.json").read_text()), story.config
    count = f"{len(story.dataset):,} of {story.dataset.name}, split {config.data.split}"
    devices, versions = claim["devices"], claim["versions"]
    same = f"{len(devices)} x {devices[0]}" if len({*devices}) == 1 else ", ".join(devices)
    return [
        ("command", claim["command"]),
        (
            "network",
            f"{config.architecture}, {models.num_params(story.network):,} parameters",
        ),
        ("images", count),
        (
            "steps",
            f"{story.step:,} of {config.num_steps:,}, {config.batch_size} images each",
        ),
        ("images seen", f"{story.step * config.batch_size:,}"),
        (
            "time of these steps",
            duration(story.pace.seconds) if story.pace.seconds else "not measured",
        ),
        ("throughput", story.pace.text(config.batch_size)),
        ("averaged weights", _average(config)),
        ("compute in", config.compute_dtype),
        ("hardware", f"{same}; {claim['platform']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("commit", str(claim.get("git") or "not known")),
    ]


def _average(config: configs.TrainConfig) -> str:
    if config.ema_width:
        return f"power-function average of relative width {config.ema_width:g}"
    return (
        f"exponential average, decay {config.ema_decay:g} (early on "
        "(1 + step) / (10 + step), where that is smaller)"
    )


def _flat(values: dict[str, Any], prefix: str = ""):
    """The fields of a config by dotted name."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
