"""What is told of an evaluation while it goes: a bar, or the user's own function."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from tqdm import tqdm


class OnProgress(Protocol):
    """Told of progress: `stage` is "clean", or "attack" and an attack's name."""

    def __call__(
        self, stage: str, done: int, total: int, clean: float, robust: float | None
    ) -> None: ...


class ProgressReporter:
    """What is known so far, for a progress bar.

    Attributes:
      clean: whether each clean image's headline draw is right.
      judged: likewise of the adversarial images of the stage under way.
      fallen: images that were broken before it.
    """

    def __init__(self, progress: OnProgress | None, total: int):
        self.progress, self.total = progress, total
        self.clean: dict[int, bool] = {}
        self.judged: dict[int, bool] = {}
        self.fallen = 0

    def __call__(self, stage: str) -> None:
        if self.progress is None:
            return
        clean = _mean(self.clean)
        if stage == "clean":
            self.progress("clean", len(self.clean), self.total, clean, None)
        else:
            done = len(self.judged) + self.fallen
            robust = sum(self.judged.values()) / done if done else float("nan")
            self.progress(f"attack {stage}", done, self.total, clean, robust)


@contextlib.contextmanager
def told(progress: bool | OnProgress, total: int) -> Iterator[OnProgress | None]:
    """What is told of progress: a bar, the user's own function, or nothing."""
    if not isinstance(progress, bool):
        yield progress
        return
    if not progress:
        yield None
        return
    interactive = sys.stderr.isatty()
    with tqdm(total=total, unit="image", mininterval=0.5 if interactive else 30) as bar:

        def tell(stage, done, total, clean, robust):
            del total
            text = f"clean {100 * clean:.1f}%"
            if robust is not None and robust == robust:
                text = f"{stage.partition(' ')[2]}: {text}, robust {100 * robust:.1f}%"
            bar.set_postfix_str(text, refresh=stage == "clean")
            if stage != "clean":
                bar.update(done - bar.n)

        yield tell


def _mean(right: dict[int, bool]) -> float:
    return float(np.mean(list(right.values()))) if right else float("nan")
