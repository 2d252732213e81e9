"""The theorems as functions: a randomly placed adversarial set, with and without its key.

Under key k the perturbations that succeed are the ball of radius `rho` about a centre a(k),
a(k) ~ N(mu, sigma^2 I) in n dimensions; the attack may choose any delta of length at most
`eps`. The statements, with their proofs and with every assumption, are in docs/theory.md,
whose numbers the docstrings give. Probabilities come as natural logarithms where they
underflow: at n = 3072 a success may be e^-10000.

Runs on the host in float64.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from jaxpure.dissect.results import Result
from jaxpure.evaluation.statistics import wilson

DIMENSIONS = (2, 8, 64, 784, 3072)


def fresh_success(n: int, rho: float, sigma: float, *, offset: float = 0.0) -> float:
    """Success of the best attack that does not know the key (proposition 1).

    P(chi2_n <= (rho / sigma)^2), which goes to 0 with n while rho / sigma grows slower than
    sqrt(n). With `offset`, the distance that `eps` keeps delta away from the mean mu, it is
    the noncentral chi-square's.

    Args:
      n: dimensions.
      rho: radius of the adversarial set.
      sigma: standard deviation of its centre, a coordinate.
      offset: max(0, |mu| - eps); 0 where the attack can reach the mean.
    """
    _check(n, rho, sigma)
    x = (rho / sigma) ** 2
    if offset == 0:
        return float(stats.chi2.cdf(x, n))
    return float(stats.ncx2.cdf(x, n, (offset / sigma) ** 2))


def log_fresh_success(n: int, rho: float, sigma: float) -> float:
    """The logarithm of `fresh_success` (without offset), where that itself underflows.

    The lower incomplete gamma function by its series of positive terms.
    """
    _check(n, rho, sigma)
    a, x = n / 2, (rho / sigma) ** 2 / 2
    direct = float(special.gammainc(a, x))
    if direct > 1e-200:
        return math.log(direct)
    series = _positive_series(lambda k: x / (a + k))
    return a * math.log(x) - x - math.lgamma(a + 1) + math.log(series)


def log_fresh_bound(n: int, rho: float, sigma: float) -> float:
    """Chernoff's bound on `log_fresh_success`: (n/2)(1 + log h - h), h = rho^2/(n sigma^2).

    It holds for h < 1 and shows the rate (proposition 1, b); 0 (no bound) elsewhere.
    """
    _check(n, rho, sigma)
    h = (rho / sigma) ** 2 / n
    return n / 2 * (1 + math.log(h) - h) if h < 1 else 0.0


def eot_success(n: int, rho: float, sigma: float, draws: int) -> float:
    """Success under a new key of the mean of the centres under `draws` other keys.

    mu is zero, or within reach. The mean misses by N(0, sigma^2 (1 + 1/draws) I), so the
    success is that of a wider spread; it rises to `fresh_success` and never beyond
    (proposition 2).
    """
    if draws < 1:
        raise ValueError(f"{draws=}, expected at least 1")
    return fresh_success(n, rho, sigma * math.sqrt(1 + 1 / draws))


def replay_success(
    n: int, rho: float, sigma: float, eps: float, *, mean: float = 0.0
) -> float:
    """Success of the best attack that knows the key: set and ball meet (proposition 3).

    P(|a| <= eps + rho): what is left after it is the absolute robustness, which no attack
    lowers.

    Args:
      n: dimensions.
      rho: radius of the adversarial set.
      sigma: standard deviation of its centre, a coordinate.
      eps: L2 radius of the attack.
      mean: length of mu.
    """
    _check(n, rho, sigma)
    x = ((eps + rho) / sigma) ** 2
    if mean == 0:
        return float(stats.chi2.cdf(x, n))
    return float(stats.ncx2.cdf(x, n, (mean / sigma) ** 2))


def cap_share(n: int, theta: float) -> float:
    """Share of directions within angle `theta` of an axis: 0.5 I_{sin^2}((n-1)/2, 1/2).

    The spherical cap (Li 2011), theta from 0 to pi / 2: what a random direction is worth,
    and what any attack without the key gets when the adversarial axis is even over the
    sphere (proposition 4).

    Args:
      n: dimensions, at least 2.
      theta: radians.
    """
    _check_cap(n, theta)
    return float(0.5 * special.betainc((n - 1) / 2, 0.5, math.sin(theta) ** 2))


def log_cap_share(n: int, theta: float) -> float:
    """The logarithm of `cap_share`, where that itself underflows; -inf at theta 0."""
    _check_cap(n, theta)
    direct = cap_share(n, theta)
    if direct > 1e-200:
        return math.log(direct)
    x, a, b = math.sin(theta) ** 2, (n - 1) / 2, 0.5
    if x == 0:
        return -math.inf
    series = _positive_series(lambda k: (a + b + k - 1) / (a + k) * x)
    front = a * math.log(x) + b * math.log(math.cos(theta) ** 2) - math.log(a)
    return math.log(0.5) + front - float(special.betaln(a, b)) + math.log(series)


def monte_carlo(
    *,
    rho: float,
    sigma: float,
    eps: float,
    draws: int,
    samples: int,
    dimensions: tuple[int, ...] = DIMENSIONS,
    seed: int = 0,
) -> Result:
    """Fresh, EOT and replayed success by sampling, beside their closed forms.

    `rho`, `sigma` and `eps` are lengths in the same unit in every dimension. The sampled
    attacks are: delta = 0, the mean of `draws` other centres (brought into the ball where
    it is outside), and the point of the ball nearest to the true centre. `eot_exact` is the
    closed form without the ball.

    Returns:
      a row for each dimension: `fresh`, `eot`, `replay` with Wilson's ends, and `_exact`.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for n in dimensions:
        hits = np.zeros((samples, 3), bool)
        for i in range(samples):  # one at a time: 3072 numbers by thousands do not fit
            centre = sigma * generator.standard_normal(n)
            guess = sigma * generator.standard_normal(n) / math.sqrt(draws)
            guess *= min(1.0, eps / np.linalg.norm(guess))
            away = np.linalg.norm(centre)
            hits[i] = away <= rho, np.linalg.norm(centre - guess) <= rho, away - eps <= rho
        row = {"dimension": n}
        for name, column in zip(("fresh", "eot", "replay"), hits.T, strict=True):
            e = wilson(column)
            row |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}
        row |= {
            "fresh_exact": fresh_success(n, rho, sigma),
            "eot_exact": eot_success(n, rho, sigma, draws),
            "replay_exact": replay_success(n, rho, sigma, eps),
        }
        rows.append(row)
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    about = (
        f"success on a ball of radius {rho} placed by N(0, {sigma}^2 I): delta = 0, the "
        f"mean of {draws} other keys, the key replayed with eps {eps}; Wilson's intervals"
    )
    return Result("theory", about, columns, {"samples": samples, "seed": seed})


def cap_monte_carlo(
    *,
    theta: float,
    samples: int,
    dimensions: tuple[int, ...] = DIMENSIONS,
    seed: int = 0,
) -> Result:
    """The spherical cap's share by sampling directions, beside the closed form.

    Returns:
      a row for each dimension: `share` with Wilson's ends, `share_exact`, `log_exact`.
    """
    generator = np.random.default_rng(seed)
    estimates = []
    for n in dimensions:
        along = generator.standard_normal(samples)
        across = np.sqrt(generator.chisquare(n - 1, samples))
        estimates.append(wilson(np.arctan2(across, along) <= theta))
    columns = {
        "dimension": np.array(dimensions),
        "share": np.array([e.value for e in estimates]),
        "share_low": np.array([e.low for e in estimates]),
        "share_high": np.array([e.high for e in estimates]),
        "share_exact": np.array([cap_share(n, theta) for n in dimensions]),
        "log_exact": np.array([log_cap_share(n, theta) for n in dimensions]),
    }
    about = f"share of directions within {theta:.4f} rad of an axis; Wilson's intervals"
    return Result("spherical_cap", about, columns, {"samples": samples, "seed": seed})


class Picture(NamedTuple):
    """The seed paper's Fig. 1 in two dimensions.

    Attributes:
      centres: `(k, 2)` adversarial sets of k keys, each a disc of radius rho.
      grid: `(g,)` coordinates of delta, along both axes.
      success: `(g, g)` chance over keys that delta succeeds, rows by the second coordinate.
      best: `(2,)` the best delta without the key.
      rho: radius of the discs.
      eps: radius of the attack's ball.
    """

    centres: np.ndarray
    grid: np.ndarray
    success: np.ndarray
    best: np.ndarray
    rho: float
    eps: float


def picture(
    *,
    rho: float,
    sigma: float,
    eps: float,
    mean: tuple[float, float] = (0.0, 0.0),
    keys: int = 40,
    points: int = 101,
    seed: int = 0,
) -> Picture:
    """Data for the two-dimensional picture: discs of some keys, success of every delta.

    With `mean` not zero the sets have a direction in common, which EOT finds: the case that
    the general claim has to leave out (docs/theory.md).
    """
    _check(2, rho, sigma)
    mu = np.array(mean)
    centres = mu + sigma * np.random.default_rng(seed).standard_normal((keys, 2))
    reach = 1.1 * max(eps, float(np.abs(centres).max()) + rho)
    grid = np.linspace(-reach, reach, points)
    first, second = np.meshgrid(grid, grid)
    squared = ((first - mu[0]) ** 2 + (second - mu[1]) ** 2) / sigma**2
    # Where delta is the mean itself the noncentral chi-square is the plain one.
    success = np.where(
        squared > 0,
        stats.ncx2.cdf((rho / sigma) ** 2, 2, np.maximum(squared, 1e-12)),
        stats.chi2.cdf((rho / sigma) ** 2, 2),
    )
    length = float(np.linalg.norm(mu))
    best = mu * min(1.0, eps / length) if length > 0 else mu
    return Picture(centres, grid, success, best, rho, eps)


def _positive_series(ratio) -> float:
    """1 + r(1) + r(1) r(2) + ..., for positive ratios that fall below 1."""
    total, term, k = 1.0, 1.0, 0
    while term > 1e-17 * total:
        k += 1
        term *= ratio(k)
        total += term
    return total


def _check(n: int, rho: float, sigma: float) -> None:
    if n < 1 or rho <= 0 or sigma <= 0:
        raise ValueError(f"{n=}, {rho=}, {sigma=}: expected n >= 1 and positive lengths")


def _check_cap(n: int, theta: float) -> None:
    if n < 2 or not 0 <= theta <= math.pi / 2:
        raise ValueError(f"{n=}, {theta=}: expected n >= 2 and an angle of 0 to pi/2")
