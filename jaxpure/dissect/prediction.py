"""Does compression predict robustness? AUC per image, correlation and sigmoid per setting.

Runs on the host in float64, on what was measured.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

from jaxpure.dissect.results import Estimate, Result, require_finite
from jaxpure.evaluation.statistics import Z95


def auc(scores: np.ndarray, positive: np.ndarray) -> Estimate:
    """Area under the ROC curve of a predictor, with a 95% interval.

    The chance that a positive example's score is above a negative one's, ties by half
    (Mann-Whitney). The interval inverts Hanley and McNeil's variance (1982) at the limits,
    as Newcombe does (2006, method 5), so that it has a width at 0 and 1 too, where their
    own has none.

    Args:
      scores: `(n,)`, higher for positive; inf is a score (a threshold not reached), NaN is
        not.
      positive: `(n,)` bool.

    Raises:
      ValueError: NaN, by index; or one of the two kinds is missing.
    """
    scores, positive = np.asarray(scores, np.float64), np.asarray(positive, bool)
    require_finite("the score", np.where(np.isinf(scores), 0, scores))
    m, n = int(positive.sum()), int((~positive).sum())
    if min(m, n) == 0:
        raise ValueError(
            f"an AUC needs both kinds of examples; here are {m} positive and {n} negative"
        )
    ranks = stats.rankdata(scores)
    value = (ranks[positive].sum() - m * (m + 1) / 2) / (m * n)
    effective = (m + n) / 2 - 1

    def variance(a: float) -> float:
        more = effective * ((1 - a) / (2 - a) + a / (1 + a))
        return a * (1 - a) * (1 + more) / (m * n)

    def excess(a: float) -> float:
        return (value - a) ** 2 - Z95**2 * variance(a)

    # At a value of 0 or 1 the excess vanishes there too; the other root is wanted.
    inside = min(max(value, 1e-12), 1 - 1e-12)
    low = optimize.root_scalar(excess, bracket=(0, inside)).root if value > 0 else 0.0
    high = optimize.root_scalar(excess, bracket=(inside, 1)).root if value < 1 else 1.0
    return Estimate(float(value), float(low), float(high), m + n)


def predictor_table(predictors: Mapping[str, np.ndarray], robust: np.ndarray) -> Result:
    """AUC of each predictor `(n,)` for the robust outcome `(n,)` bool (relation 15).

    Give them so that higher is more robust: minus the adversarial compression rate, the
    critical threshold, threshold over rate.
    """
    estimates = [auc(scores, robust) for scores in predictors.values()]
    columns = {
        "predictor": np.array(list(predictors)),
        "auc": np.array([e.value for e in estimates]),
        "auc_low": np.array([e.low for e in estimates]),
        "auc_high": np.array([e.high for e in estimates]),
    }
    about = "AUC for an image to stay right under replayed attack (2025 submission, Fig. 6)"
    notes = {"images": len(robust), "robust": int(np.sum(robust))}
    return Result("predictors", about, columns, notes)


class Correlation(NamedTuple):
    """Attributes:
    pearson: with Fisher's interval.
    spearman: with Fisher's interval, variance of Bonett and Wright (2000).
    """

    pearson: Estimate
    spearman: Estimate


def correlation(x: np.ndarray, y: np.ndarray) -> Correlation:
    """Pearson's and Spearman's correlation of `(n,)` with `(n,)` (relation 9).

    Raises:
      ValueError: fewer than 4 points, or no variation: no curve is drawn then.
    """
    x, y = require_finite("x", x), require_finite("y", y)
    n = len(x)
    if n < 4:
        raise ValueError(f"{n} settings: a correlation with an interval needs at least 4")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ValueError("all settings have the same value: nothing to correlate")
    r = float(np.corrcoef(x, y)[0, 1])
    rho = float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])
    return Correlation(
        _fisher(r, n, 1 / (n - 3)), _fisher(rho, n, (1 + rho**2 / 2) / (n - 3))
    )


def _fisher(r: float, n: int, variance: float) -> Estimate:
    if abs(r) >= 1 - 1e-12:
        return Estimate(r, r, r, n)
    half = Z95 * variance**0.5
    return Estimate(
        r, float(np.tanh(np.arctanh(r) - half)), float(np.tanh(np.arctanh(r) + half)), n
    )


class LogisticFit(NamedTuple):
    """share = 1 / (1 + exp(-(intercept + slope log(rate)))).

    Attributes:
      intercept: with its 95% interval.
      slope: in units of log(rate); negative where compression helps.
      midpoint: the rate at which the share is one half.
      covariance: `(2, 2)` of intercept and slope, times the dispersion.
      dispersion: Pearson's chi-square over its degrees of freedom, at least 1: how much
        more the settings scatter about the curve than their images alone would make them.
      settings: columns `rate`, `share` with Wilson's ends, `fitted`, `residual` (share
        minus fitted), `pearson` (residual in standard errors of the images).
    """

    intercept: Estimate
    slope: Estimate
    midpoint: float
    covariance: np.ndarray
    dispersion: float
    settings: Result

    def curve(self, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The fitted share at `rate`, and its 95% band: value, low, high."""
        design = np.stack([np.ones_like(rate), np.log(rate)], -1)
        centre = design @ np.array([self.intercept.value, self.slope.value])
        reach = stats.t.ppf(0.975, len(self.settings) - 2)
        half = reach * np.sqrt(np.einsum("ri,ij,rj->r", design, self.covariance, design))
        return (
            special.expit(centre),
            special.expit(centre - half),
            special.expit(centre + half),
        )


def logistic_fit(rate: np.ndarray, robust: np.ndarray, images: np.ndarray) -> LogisticFit:
    """Robust share as a sigmoid of log compression rate; one point is one setting.

    Maximum likelihood for binomial counts (Newton). Intervals are Wald's, widened by the
    dispersion and by Student's t of the settings' degrees of freedom.

    Args:
      rate: `(s,)` expected compression rates, positive.
      robust: `(s,)` numbers of images that stay right.
      images: `(s,)` numbers of images.

    Raises:
      ValueError: fewer than 3 settings, all rates equal, or shares that a step separates
        (the likelihood then has no maximum).
    """
    rate, robust = require_finite("the rate", rate), require_finite("robust", robust)
    images = require_finite("images", images)
    s = len(rate)
    if s < 3 or np.ptp(rate) == 0:
        raise ValueError(
            f"{s} settings, rates {rate.tolist()}: a sigmoid needs 3 that differ"
        )
    if (rate <= 0).any():
        raise ValueError(f"rates {rate.tolist()} must be positive to have a logarithm")
    x = np.log(rate)
    _refuse_separated(x, robust, images)
    design = np.stack([np.ones(s), x - x.mean()], 1)
    beta = np.zeros(2)
    for _ in range(100):
        p = special.expit(design @ beta)
        information = design.T @ ((images * p * (1 - p))[:, None] * design)
        step = np.linalg.solve(information, design.T @ (robust - images * p))
        # At most 2 at a time: a full step from far away can overshoot into saturation.
        beta = beta + step / max(1.0, float(np.abs(step).max()) / 2)
        if np.abs(step).max() < 1e-12:
            break
    p = special.expit(design @ beta)
    information = design.T @ ((images * p * (1 - p))[:, None] * design)
    pearson = (robust - images * p) / np.sqrt(images * p * (1 - p))
    dispersion = max(1.0, float((pearson**2).sum() / (s - 2)))
    back = np.array([[1, -x.mean()], [0, 1]])  # from centred to plain logarithms
    intercept, slope = back @ beta
    covariance = dispersion * back @ np.linalg.inv(information) @ back.T
    half = stats.t.ppf(0.975, s - 2) * np.sqrt(np.diag(covariance))
    share = robust / images
    low, high = _wilson_ends(share, images)
    columns = {
        "rate": rate,
        "share": share,
        "share_low": low,
        "share_high": high,
        "fitted": p,
        "residual": share - p,
        "pearson": pearson,
    }
    about = (
        "robust share under replay as a sigmoid of the log expected compression rate "
        "(lower is stronger); one point is one setting (2026 submission, Fig. 3a)"
    )
    return LogisticFit(
        Estimate(intercept, intercept - half[0], intercept + half[0], s),
        Estimate(slope, slope - half[1], slope + half[1], s),
        float(np.exp(-intercept / slope)),
        covariance,
        dispersion,
        Result("compression_sigmoid", about, columns, {"settings": s}),
    )


def _refuse_separated(x: np.ndarray, robust: np.ndarray, images: np.ndarray) -> None:
    ones, zeros = x[robust > 0], x[robust < images]
    if (
        not len(ones)
        or not len(zeros)
        or ones.min() >= zeros.max()
        or ones.max() <= zeros.min()
    ):
        raise ValueError(
            "a step separates robust from broken settings, so no sigmoid fits best: add "
            "settings between them"
        )


def _wilson_ends(share: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    interval = [
        stats.binomtest(round(p * m), int(m)).proportion_ci(method="wilson")
        for p, m in zip(share, n, strict=True)
    ]
    return np.array([i.low for i in interval]), np.array([i.high for i in interval])
