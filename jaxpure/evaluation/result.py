"""What an evaluation found: a row an example, and what is read from them."""

import dataclasses
import io
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from etils import epath

from jaxpure.attacks.balls import BALLS, Linf
from jaxpure.errors import UserError
from jaxpure.evaluation import readings, statistics
from jaxpure.evaluation.bounds import AttackError, outside
from jaxpure.evaluation.identity import arrays_digest, digest_of, example_digest
from jaxpure.evaluation.statistics import Estimate
from jaxpure.files import write_atomically
from jaxpure.specs import build

COUNTS = (
    "attack_calls",
    "evaluations",
    "bad_gradients",
    "zero_gradients",
    "gradient_evaluations",
    "forward_evaluations",
)
FORMAT = "jaxpure-result-2"


class ResultError(UserError):
    """A file is not a result, or results do not belong together."""


@dataclass(frozen=True)
class Result:
    """Joined records of an evaluation, examples in the order of the data set.

    Attributes:
      indices: `(n,)` in the published set.
      labels: `(n,)`.
      clean_logits: `(n, keys, classes)`.
      logits: `(n, keys, classes)` of the adversarial images.
      images: `(n, H, W, C)` the adversarial images.
      clean_images: `(n, H, W, C)` the images as they are.
      linf: `(n,)` distance from the clean image.
      l2: `(n,)` likewise.
      attack_calls: `(n,)` steps of the attack spent.
      evaluations: `(n,)` evaluations of the attack's iterates.
      broken_at: `(n,)` the first evaluation that the attack saw misclassified, or -1.
      bad_gradients: `(n,)` evaluations whose gradient was not finite.
      zero_gradients: `(n,)` evaluations whose gradient was identically zero.
      gradient_evaluations: `(n,)` passes through the defense with a gradient.
      forward_evaluations: `(n,)` passes of the attack without one.
      broken_by: `(n,)` str, the stage of the cascade that broke each image, or "".
      lost: `(n,)` the largest share of its own draws that were not right at any of the
        attack's evaluations; NaN where it does not say.
      vote_lost: `(n,)` bool, whether at any of them the vote of the draws was wrong.
      about: what was evaluated: "data", "attack", "stages", "ball", "policy", "gradient",
        "judging_keys", "batch_size", as text and numbers.
    """

    indices: np.ndarray
    labels: np.ndarray
    clean_logits: np.ndarray
    logits: np.ndarray
    images: np.ndarray
    clean_images: np.ndarray
    linf: np.ndarray
    l2: np.ndarray
    attack_calls: np.ndarray
    evaluations: np.ndarray
    broken_at: np.ndarray
    bad_gradients: np.ndarray
    zero_gradients: np.ndarray
    gradient_evaluations: np.ndarray
    forward_evaluations: np.ndarray
    broken_by: np.ndarray
    lost: np.ndarray
    vote_lost: np.ndarray
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def example_digests(self) -> dict[int, str]:
        """A digest of each example, its clean image and its label, by index."""
        return {
            int(index): example_digest(image, int(label))
            for index, image, label in zip(
                self.indices, self.clean_images, self.labels, strict=True
            )
        }

    @property
    def clean(self) -> np.ndarray:
        """`(n, keys)` whether each clean draw is right."""
        return statistics.correct(self.clean_logits, self.labels)

    @property
    def robust(self) -> np.ndarray:
        """`(n, keys)` whether each draw of the adversarial image is right."""
        return statistics.correct(self.logits, self.labels)

    @property
    def nonfinite(self) -> np.ndarray:
        """Indices of examples with logits that are not finite."""
        bad = ~np.isfinite(self.clean_logits).all((1, 2))
        return self.indices[bad | ~np.isfinite(self.logits).all((1, 2))]

    @property
    def clean_readings(self) -> dict[str, Estimate]:
        """Every reading of the clean images, with its interval."""
        return readings.read(self.clean_logits, self.labels)

    @property
    def robust_readings(self) -> dict[str, Estimate]:
        """Every reading of the adversarial images, with its interval."""
        return readings.read(self.logits, self.labels)

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row an example; arrays of keys as lists."""
        import pandas

        return pandas.DataFrame(self.columns())

    def columns(self) -> dict[str, Any]:
        """All but the images, by column, for tables of any kind."""
        return {
            "index": self.indices,
            "label": self.labels,
            "clean_correct": self.clean.tolist(),
            "correct": self.robust.tolist(),
            "clean_logits": self.clean_logits.tolist(),
            "logits": self.logits.tolist(),
            "broken_by": self.broken_by.tolist(),
            "broken_at": self.broken_at,
            "lost": self.lost,
            "vote_lost": self.vote_lost,
            "linf": self.linf,
            "l2": self.l2,
            **{name: getattr(self, name) for name in COUNTS},
        }

    def save(self, path: epath.PathLike) -> None:
        """Writes everything as one `.npz` file, without pickles."""
        arrays = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name != "about"
        }
        about = {**self.about, "format": FORMAT, "digest": _digest(arrays, self.about)}
        sink = io.BytesIO()
        np.savez_compressed(sink, about=np.array(json.dumps(about)), **arrays)
        write_atomically(path, sink.getvalue())

    def report(self, path: epath.PathLike, undefended: "Result | None" = None) -> None:
        """Writes an HTML page that needs nothing but itself.

        Args:
          path: of the page.
          undefended: of the classifier alone on the same examples, if it was evaluated;
            without it the page says nothing of that.
        """
        from jaxpure import report  # for its drawing library, which nothing else needs

        report.of_result(epath.Path(path), self, undefended)

    def __str__(self) -> str:
        clean, robust = self.clean_readings, self.robust_readings
        rows = [
            (readings.READINGS[name].title, str(clean[name]), str(robust[name]))
            for name in robust
        ]
        about = [f"{len(self)} images"]
        if self.about:
            about = [
                f"{len(self)} images of {self.about['data']}, {self.about['ball']}",
                f"attack {self.about['attack']}, policy {self.about['policy']}, gradient "
                f"{self.about['gradient']}, {self.about['judging_keys']} judging keys",
            ]
        heads = ("accuracy (95% interval)", "clean", "attacked")
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in (heads, *rows)
        ]
        return "\n".join([*about, "", *(line.rstrip() for line in lines)])


def load(path: epath.PathLike) -> Result:
    """Reads what `Result.save` wrote, and checks that it is what was written.

    Raises:
      ResultError: the file is missing, damaged or altered, or something else.
      AttackError: an image is not where the attack may take it.
    """
    path = epath.Path(path)
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        about = json.loads(str(arrays.pop("about")))
        if about.pop("format", None) != FORMAT:
            raise ValueError("not a result")
        digest, found = about.pop("digest", None), Result(**arrays, about=about)
    except FileNotFoundError:
        raise ResultError(
            f"{path} does not exist: expected a file of Result.save"
        ) from None
    except Exception as error:
        raise ResultError(f"{path} is not a readable result ({error})") from error
    if digest != _digest(arrays, about):
        raise ResultError(
            f"{path} was altered after it was saved (its digest does not fit); save it "
            "anew from the evaluation's records"
        )
    check_images(found)
    return found


def check_images(result: Result, ball: Any = None) -> None:
    """Raises AttackError for the first image that is not where the attack may take it.

    Args:
      result: whose images.
      ball: what the attack may do; by default the one that the result names, where that
        is one of `attacks.BALLS`.
    """
    for index, what in misplaced(result, ball).items():
        raise AttackError(f"the image that is kept for example {index} {what}")


def misplaced(result: Result, ball: Any = None) -> dict[int, str]:
    """What is wrong with each image that is not where the attack may take it, by index."""
    if ball is None:
        try:
            ball = build(BALLS, result.about["ball_spec"])
        except (UserError, KeyError):  # a ball of the user's own
            ball = Linf(1.0)
    return outside(ball, result.indices, result.images, result.clean_images)


def _digest(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> str:
    """Of arrays by name, and of what is said of them."""
    return digest_of(
        f"{arrays_digest(arrays)} {json.dumps(about, sort_keys=True)}".encode()
    )
