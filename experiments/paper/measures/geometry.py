"""Clouds of draws: over keys, over starts, over parts of the noise and along the chain."""

import numpy as np

from experiments.paper import programs
from experiments.paper.asks import Ask
from experiments.paper.measures import readings
from experiments.paper.sections.section import needs_path
from experiments.paper.study import Arrays, Rows, Study
from jaxpure.defenses import noise_parts

INPUTS, KEYS = 4, 8  # of the variance split
ALONG = 16  # keys of what is correlated along the chain and by parts of the noise


def cloud(study: Study, ask: Ask, rows: Rows) -> Arrays:
    """Purified minus original: of one image under many keys, of many starts under one key.

    Starts are random points of the ball about the image; `from_start` is what is made of
    them, `grid` of `INPUTS` of them under `KEYS` keys each. `along` is the mean correlation
    of state minus original at each state of the chain, and `part_NAME` of purified minus
    original where the keys differ in that part of the noise alone.
    """
    plan, n = study.plan, len(rows.labels)
    starts = readings.starts(study, rows, plan.cloud)
    many, one = np.arange(plan.cloud), np.zeros(plan.cloud, int)
    same = readings.repeated(rows.images, plan.cloud)
    inputs = np.repeat(starts[:, :INPUTS, None], KEYS, axis=2)
    shape = rows.images.shape[1:]
    numbers = np.tile(np.arange(KEYS), INPUTS)
    grid = readings.purify(study, ask, rows, numbers, inputs.reshape(n, -1, *shape))
    from_start = readings.purify(study, ask, rows, one, starts)
    found = {
        "by_key": readings.purify(study, ask, rows, many, same) - same,
        "by_start": from_start - starts,
        "from_start": from_start,
        "grid": grid.reshape(n, INPUTS, KEYS, *shape),
    }
    purifier, size = study.purifier(ask), plan.batch_size
    keys = readings.judging(study, rows, np.arange(1 + ALONG))
    if not needs_path(purifier):
        found["along"] = programs.correlation_along(purifier, size, keys, rows.images)
    parts = noise_parts(purifier)
    for name in parts if len(parts) > 1 else ():
        found[f"part_{name}"] = programs.correlation_of_part(
            purifier, name, size, keys, rows.images
        )
    return found
