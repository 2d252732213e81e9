"""The page: all that report.html of a run says, put into page.html beside this file."""

from importlib import resources
from typing import Any

import jinja2
import numpy as np
from etils import epath

from experiments.report import curve, pictures, tables, words
from jaxpure import checkpoints
from jaxpure.evaluation import Result


def write(
    path: epath.Path,
    summary: dict[str, Any],
    defended: Result,
    undefended: Result,
    shown: np.ndarray,
    clean_images: np.ndarray,
    purified_clean: np.ndarray,
    purified_adversarial: np.ndarray,
) -> None:
    """Writes the page.

    Args:
      path: of the HTML file.
      summary: what summary.json holds; accuracies as dicts of value, low, high and n.
      defended: the purified classifier's evaluation.
      undefended: the bare classifier's, of the same examples.
      shown: `(m,)` positions of the examples to show; see `chosen`.
      clean_images: `(m, H, W, C)` at these positions.
      purified_clean: likewise, purified under judging key 0.
      purified_adversarial: likewise, of `defended.images[shown]`.
    """
    adversarial = defended.images[shown]
    factor = pictures.magnification(adversarial - clean_images)
    images = (
        clean_images,
        adversarial,
        0.5 + factor * (adversarial - clean_images),
        purified_clean,
        purified_adversarial,
    )
    template = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).from_string(_template())
    page = template.render(
        title=words.title(summary),
        verdict=words.emphasised(words.verdict(summary)),
        warnings=summary.get("warnings") or [],
        accuracies=tables.accuracies(summary, defended),
        curve={
            "drawing": curve.draw(summary, defended, undefended),
            "described": curve.describe(summary, defended, undefended),
            "unseen": words.knowledge(summary) != "none",
        },
        grid=list(pictures.grid(defended, shown, images)),
        fates=pictures.fates(defended),
        factor=f"{factor:g}",
        image_width=pictures.displayed_width(clean_images),
        large=clean_images.shape[2] > pictures.IMAGE_WIDTH,
        side=pictures.SIDE if pictures.is_scaled_down(clean_images) else None,
        stages=tables.stages(summary),
        resubmitted=bool(summary.get("resubmission")),
        diagnostics=tables.diagnostics(defended, undefended),
        run=tables.run(summary),
        config=tables.config(summary.get("config") or {}),
        replayed=words.knowledge(summary) == "all",
    )
    checkpoints.write_atomically(path, page.encode())


def _template() -> str:
    folder = resources.files("experiments.report")
    return folder.joinpath("page.html").read_text(encoding="utf-8")
