"""One setting of a sweep, and how good a denoiser is."""

import time

import numpy as np

from experiments.paper import programs
from experiments.paper.asks import Ask
from experiments.paper.measures import readings
from experiments.paper.study import Arrays, Rows, Study
from jaxpure.diffusion import Ddim, Linear
from jaxpure.errors import UserError
from jaxpure.models import Trained
from jaxpure.purifiers import DiffPure

SAMPLES, SAMPLE_STEPS = 4, 50  # of a denoiser: for each image, and of DDIM with eta 1


def sweep(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """One setting: clean and robust under replay, expected compression rate, seconds.

    `seconds` is the time of a purification, in a batch, compiled.
    """
    n = len(rows.labels)
    replayed = ask.other("attack", policy="replay", gradient="exact")
    kept = study.kept(replayed, rows)  # as it is of the plan's own purifier
    if kept is None:
        zero = np.zeros(1, np.int32)
        attacked = readings.pgd(study, ask, rows, "replay", "exact", 1, zero).adversarial
    else:
        attacked = kept["images"]
    images = np.stack([rows.images, attacked], 1)
    readings.purify(study, ask, rows, readings.ONE, images[:, :1])  # compiled
    started = time.perf_counter()
    purified = readings.purify(study, ask, rows, np.zeros(2, int), images)
    seconds = (time.perf_counter() - started) / images.shape[0] / 2
    right = readings.classify(study, purified).argmax(-1) == rows.labels[:, None]
    radius = np.full((n, 1), readings.RADIUS * rows.images[0].size ** 0.5, np.float32)
    rate = readings.rates(
        study, ask, rows, np.asarray(readings.isotropic(study, rows)), radius
    )
    return {
        "clean": right[:, 0],
        "robust": right.all(1),
        "rate": rate.mean(1),
        "seconds": np.full(n, seconds),
    }


def quality(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """A denoiser's mean squared error at noise levels that its purifier goes through."""
    purifier = study.purifier(ask)
    levels = np.unique(np.linspace(0, len(purifier.chain) - 1, 4).astype(int))
    # The state that a step begins with has the signal of the step before it.
    signal = np.r_[float(purifier.signal), np.asarray(purifier.chain.signal)[:-1]]
    told = np.asarray(purifier.chain.labels, np.float32)
    keys = readings.streams(study, rows, "paper/quality")
    errors = [
        programs.denoising_error(
            purifier.denoiser,
            np.float32(signal[i]),
            told[i],
            study.plan.batch_size,
            keys,
            rows.images,
        )
        for i in levels
    ]
    return {"error": np.mean(errors, 0)}


def samples(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """Logits of what a denoiser makes from the most noise that it knows, and of the images.

    Images are noised to the last timestep that it was trained on and denoised in
    `SAMPLE_STEPS` steps; trained on the whole schedule, it makes them of noise alone.
    `made` is `(n, SAMPLES, classes)`, `real` `(n, classes)`.
    """
    given = study.purifier(ask)
    trained = getattr(given.denoiser, "trained", None) or Trained()
    if isinstance(trained.schedule, str):
        raise UserError(f"{ask.denoiser} was trained in continuous time: not sampled here")
    schedule = given.schedule or trained.schedule or Linear()
    last = trained.timesteps or schedule.num_timesteps
    rule = Ddim(eta=1.0, num_steps=min(SAMPLE_STEPS, last))
    model = DiffPure(given.denoiser, last, rule, schedule)
    numbers = np.arange(SAMPLES)
    made = readings.purified(
        study, model, rows, numbers, readings.repeated(rows.images, SAMPLES)
    )
    return {
        "made": readings.classify(study, made),
        "real": readings.classify(study, rows.images[:, None])[:, 0],
    }
