"""How far what a model makes is from the data: the Frechet distance of their features.

The Frechet Inception distance (Heusel et al. 2017) is this of an Inception network's
features. Any features do that tell images apart, and distances of other features are
no FID: name the network beside the number. Runs on the host in float64.
"""

import numpy as np

from jaxpure.dissect.results import Estimate, require_finite, resampling_weights


def distance(features: np.ndarray, reference: np.ndarray) -> float:
    """Squared Frechet distance of two normal distributions fitted to features.

    `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))` of their means and covariances (Dowson and
    Landau 1982; Heusel et al. 2017). It is biased upwards by about the number of features
    over the number of rows: compare distances of equally many rows alone.

    Args:
      features: `(n, d)`, n at least 2.
      reference: `(m, d)`, m at least 2.

    Raises:
      ValueError: the two do not fit each other, or something is not finite.
    """
    features = require_finite("a feature", features)
    reference = require_finite("a reference feature", reference)
    fit = features.ndim == reference.ndim == 2 and features.shape[1] == reference.shape[1]
    if not fit or min(len(features), len(reference)) < 2:
        raise ValueError(
            f"features {features.shape} and reference {reference.shape}, expected (n, d) "
            "and (m, d) with at least two rows each"
        )
    return _between(_moments(features), _moments(reference))


def of_samples(
    samples: np.ndarray, reference: np.ndarray, *, resamples: int = 500, seed: int = 0
) -> Estimate:
    """`distance` where k samples belong to each image, with a 95% interval over images.

    The interval is the basic bootstrap's (Davison and Hinkley 1997, eq. 5.6), cut at 0: an
    image is drawn with its samples, and the bias that drawing twice adds is taken off.

    Args:
      samples: `(n, k, d)` features of what was made, from image i or beside it.
      reference: `(n, d)` features of the images.
      resamples: number of bootstrap samples; each costs two eigendecompositions of d x d.
      seed: of the resampling.
    """
    samples, reference = np.asarray(samples), np.asarray(reference)
    if samples.ndim != 3 or len(samples) != len(reference):
        raise ValueError(
            f"samples {samples.shape} and reference {reference.shape}, expected (n, k, d) "
            "and (n, d)"
        )
    n, each, d = samples.shape
    flat = samples.reshape(-1, d)
    value = distance(flat, reference)
    found = [
        _between(_moments(flat, np.repeat(counts, each)), _moments(reference, counts))
        for counts in resampling_weights(n, resamples, seed)
    ]
    low, high = np.quantile(found, [0.025, 0.975])
    return Estimate(value, max(2 * value - high, 0.0), max(2 * value - low, 0.0), n)


def _moments(rows: np.ndarray, counts: np.ndarray | None = None):
    """Mean `(d,)` and unbiased covariance `(d, d)` of rows, each taken `counts` times."""
    counts = np.ones(len(rows)) if counts is None else counts
    total = counts.sum()
    mean = counts @ rows / total
    centred = rows - mean
    return mean, (centred * counts[:, None]).T @ centred / (total - 1)


def _between(one, other) -> float:
    (m1, c1), (m2, c2) = one, other
    # The eigenvalues of C1 C2 are those of the symmetric C1^(1/2) C2 C1^(1/2).
    root = _root(c1)
    values = np.linalg.eigvalsh(root @ c2 @ root)
    cross = np.sqrt(np.maximum(values, 0)).sum()
    found = np.sum((m1 - m2) ** 2) + np.trace(c1) + np.trace(c2) - 2 * cross
    return float(max(found, 0.0))


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
