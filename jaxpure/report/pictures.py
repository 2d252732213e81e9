"""The examples shown: which ones, how each fared, and its five images."""

import base64
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image as PILImage

from jaxpure.evaluation.result import Result

IMAGE_WIDTH = 100  # at most so many CSS pixels, in whole multiples of the image's own
SIDE = 160  # at most so many of the image's own pixels


def chosen(defended: Result, m: int = 12) -> np.ndarray:
    """Positions of the examples to show, in data order.

    Half of them fell to the attack and half stood, the first of each; where there are
    too few of one kind, the other fills up, and then what was wrong to begin with.
    """
    clean, robust = defended.clean[:, 0], defended.robust[:, 0]
    fell, stood = np.flatnonzero(clean & ~robust), np.flatnonzero(robust)
    rest = np.flatnonzero(~clean & ~robust)
    half = (m + 1) // 2
    order = [fell[:half], stood[: m - half], fell[half:], stood[m - half :], rest]
    return np.sort(np.concatenate(order)[:m])


def grid(
    defended: Result, shown: np.ndarray, images: Mapping[str, np.ndarray]
) -> Iterator[dict[str, Any]]:
    """A row for each example shown: who it is, how it fared, and its images.

    Args:
      defended: the evaluation.
      shown: `(m,)` positions.
      images: `(m, H, W, C)` by name; purified ones say which class is read from them.
    """
    for place, i in enumerate(shown):
        label = int(defended.labels[i])
        clean = _mark(defended.clean_logits[i, 0], label)
        attacked = _mark(defended.logits[i, 0], label)
        marks = {"purified clean": clean, "purified adversarial": attacked}
        yield {
            "index": int(defended.indices[i]),
            "label": label,
            "fate": _fate(clean["right"], attacked["right"]),
            "seen": _seen(int(defended.broken_at[i]), int(defended.evaluations[i])),
            "images": [
                {"name": name, "uri": data_uri(pictures[place]), "mark": marks.get(name)}
                for name, pictures in images.items()
            ],
        }


def _mark(logits: np.ndarray, label: int) -> dict[str, Any]:
    """What one draw says and whether it is right."""
    finite = bool(np.isfinite(logits).all())
    predicted = int(np.argmax(logits))
    return {
        "right": finite and predicted == label,
        "says": str(predicted) if finite else "not finite",
    }


def _fate(clean: bool, attacked: bool) -> str:
    if clean:
        return "stood" if attacked else "fell"
    return "wrong before, right after" if attacked else "wrong before the attack"


def fates(defended: Result) -> dict[str, int]:
    """How many examples met each fate under judging key 0."""
    found = [
        _fate(bool(clean), bool(attacked))
        for clean, attacked in zip(defended.clean[:, 0], defended.robust[:, 0], strict=True)
    ]
    return {fate: found.count(fate) for fate in sorted(set(found))}


def _seen(broken_at: int, evaluations: int) -> str:
    if evaluations == 0:
        return "not attacked"
    if broken_at < 0:
        return f"unbroken in {evaluations} evaluations"
    return f"broken at evaluation {broken_at + 1}"


def data_uri(image: np.ndarray) -> str:
    """An image `(H, W, C)` of one or three channels, values in [0, 1], as a data URI.

    Up to SIDE pixels a side it is the image itself. A larger one is scaled down, and is
    a JPEG then: an adversarial image is part noise, which shrinks little without loss.
    """
    levels = np.rint(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8)
    picture = PILImage.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
    buffer = io.BytesIO()
    if is_scaled_down(image):
        scale = SIDE / max(picture.size)
        width, height = (max(round(scale * side), 1) for side in picture.size)
        picture = picture.resize((width, height), PILImage.Resampling.LANCZOS)
        picture.save(buffer, "JPEG", quality=85, subsampling=0)
    else:
        picture.save(buffer, "PNG", optimize=True)
    kind = "jpeg" if is_scaled_down(image) else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def is_scaled_down(images: np.ndarray) -> bool:
    """Whether images `(..., H, W, C)` are too large to be shown pixel by pixel."""
    return max(images.shape[-3:-1]) > SIDE


def magnification(perturbation: np.ndarray) -> float:
    """The factor that lets the largest perturbation fill the range around mid grey."""
    largest = float(np.abs(perturbation).max(initial=0.0))
    factor = 0.5 / largest if largest > 0 else 1.0
    return float(np.floor(factor + 1e-3)) if factor >= 2 else round(factor, 2)


def displayed_width(images: np.ndarray, most: int = IMAGE_WIDTH) -> int:
    """CSS pixels: a whole multiple of the width of images `(m, H, W, C)`, if small."""
    width = images.shape[2]
    return max(most // width, 1) * width if width <= most else most
