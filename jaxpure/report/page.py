"""The page: all that a report says, put into page.html beside this file."""

from typing import Any

import numpy as np
from etils import epath

from jaxpure.evaluation.result import Result
from jaxpure.evaluation.summary import summarize
from jaxpure.files import write_atomically
from jaxpure.report import curve, pictures, tables, words
from jaxpure.report.frame import render


def of_result(path: epath.Path, result: Result, undefended: Result | None = None) -> None:
    """Writes the page of an evaluation; see `Result.report`."""
    about = {name: str(value) for name, value in result.about.items() if value is not None}
    write(path, summarize(result, undefended) | {"config": about}, result, undefended)


def write(
    path: epath.Path,
    summary: dict[str, Any],
    defended: Result,
    undefended: Result | None = None,
    purified: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Writes the page.

    Args:
      path: of the HTML file.
      summary: what summary.json holds; accuracies as dicts of value, low, high and n.
      defended: the purified classifier's evaluation.
      undefended: the undefended classifier's, of the same examples, if there is one.
      purified: `(m, H, W, C)` each, the clean and the adversarial images that are shown
        (`pictures.chosen`), purified under judging key 0, if that is known.
    """
    shown = pictures.chosen(defended)
    clean, adversarial = defended.clean_images[shown], defended.images[shown]
    factor = pictures.magnification(adversarial - clean)
    images = {
        "clean": clean,
        "adversarial": adversarial,
        f"perturbation ×{factor:g}": 0.5 + factor * (adversarial - clean),
    }
    if purified is not None:
        images |= {"purified clean": purified[0], "purified adversarial": purified[1]}
    page = render(
        "jaxpure.report",
        "page.html",
        title=words.title(summary),
        verdict=words.emphasised(words.verdict(summary)),
        warnings=summary.get("warnings") or [],
        accuracies=tables.accuracies(summary, defended),
        curve={
            "drawing": curve.draw(summary, defended, undefended),
            "described": curve.describe(summary, defended, undefended),
            "unseen": words.knowledge(summary) != "none",
        },
        columns=[name[0].upper() + name[1:] for name in images],
        grid=list(pictures.grid(defended, shown, images)),
        fates=pictures.fates(defended),
        factor=f"{factor:g}",
        purified=purified is not None,
        image_width=pictures.displayed_width(clean),
        large=clean.shape[2] > pictures.IMAGE_WIDTH,
        side=pictures.SIDE if pictures.is_scaled_down(clean) else None,
        stages=tables.stages(summary),
        resubmitted=bool(summary.get("resubmission")),
        undefended=undefended is not None,
        diagnostics=tables.diagnostics(defended, undefended),
        run=tables.run(summary),
        config=tables.config(summary.get("config") or {}),
        replayed=words.knowledge(summary) == "all",
        is_run=bool(summary.get("name")),
    )
    write_atomically(path, page.encode())
