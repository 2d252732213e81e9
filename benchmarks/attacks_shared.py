"""Whether the classifier is the same function in both frameworks."""

import numpy as np

from benchmarks.attacks import CLASSIFIER
from benchmarks.images import channels_first, uniform
from jaxpure import weights

IMAGES = 8


def ready(folder: str) -> dict[str, float | str]:
    """Compares logits.

    Returns:
      "differ": the largest difference, in units of the largest logit; or "note": why they
      were not compared.
    """
    del folder
    try:
        import torch

        from benchmarks.attacks_torch import Classifier
    except ModuleNotFoundError as error:
        return {"note": f"not compared with PyTorch: {error.name} is not installed"}
    x = uniform(IMAGES)
    ours = np.asarray(weights.load(CLASSIFIER)(x))
    with torch.no_grad():
        theirs = Classifier()(torch.from_numpy(channels_first(x))).numpy()
    return {"differ": float(np.abs(ours - theirs).max() / np.abs(theirs).max())}
