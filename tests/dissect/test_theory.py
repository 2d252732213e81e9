"""The theorems: closed forms against each other, against sampling, and at the extremes."""

import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from jaxpure.dissect import theory


def test_sampling_agrees_with_every_closed_form():
    table = theory.monte_carlo(
        rho=1.5, sigma=0.8, eps=0.7, draws=4, samples=3000, dimensions=(2, 8, 64)
    )
    for name in ("fresh", "replay"):
        low, high = table.interval(name)
        exact = table[f"{name}_exact"]
        assert (low - 0.01 <= exact).all() and (exact <= high + 0.01).all()
    # The ball only brings EOT's guess nearer to the best one.
    assert (table["eot"] <= table["fresh"] + 0.02).all()
    assert (table["eot_exact"] <= table["fresh_exact"]).all()
    free = theory.monte_carlo(
        rho=1.5, sigma=0.8, eps=1e9, draws=4, samples=3000, dimensions=(2, 8)
    )
    low, high = free.interval("eot")
    assert (low - 0.01 <= free["eot_exact"]).all() and (
        free["eot_exact"] <= high + 0.01
    ).all()


def test_two_dimensions_by_hand():
    # chi2 with two degrees of freedom: 1 - exp(-x / 2).
    np.testing.assert_allclose(theory.fresh_success(2, 1.0, 1.0), 1 - math.exp(-0.5))
    np.testing.assert_allclose(theory.replay_success(2, 1.0, 1.0, 2.0), 1 - math.exp(-4.5))
    np.testing.assert_allclose(theory.eot_success(2, 1.0, 1.0, 1), 1 - math.exp(-0.25))
    np.testing.assert_allclose(theory.cap_share(2, 0.3), 0.3 / math.pi)  # a circle's arc


def test_eot_rises_to_the_best_attack_and_not_beyond():
    best = theory.fresh_success(64, 8.0, 1.0)
    rising = [theory.eot_success(64, 8.0, 1.0, n) for n in (1, 4, 15, 50, 10**6)]
    assert rising == sorted(rising) and rising[-1] < best
    np.testing.assert_allclose(rising[-1], best, rtol=1e-3)


def test_no_shift_does_better_than_none():
    shifted = [theory.fresh_success(8, 2.0, 1.0, offset=o) for o in (0.0, 0.1, 0.5, 2.0)]
    assert shifted == sorted(shifted, reverse=True)


@pytest.mark.parametrize("n", [2, 8, 64])
def test_the_logarithm_agrees_where_both_can_be_had(n):
    for ratio in (0.5, 1.0, 4.0):
        exact = math.log(stats.chi2.cdf(ratio**2, n))
        np.testing.assert_allclose(
            theory.log_fresh_success(n, ratio, 1.0), exact, rtol=1e-9
        )
        assert exact <= theory.log_fresh_bound(n, ratio, 1.0) + 1e-12


def test_the_logarithm_far_below_what_a_float_can_hold():
    for n in (784, 3072):
        # Of even n: a Poisson variable of mean 2 is at least n / 2.
        counts = np.arange(n // 2, n // 2 + 200)
        exact = special.logsumexp(stats.poisson.logpmf(counts, 2.0))
        found = theory.log_fresh_success(n, 2.0, 1.0)
        np.testing.assert_allclose(found, exact, rtol=1e-9)
        assert found < -1600 and found <= theory.log_fresh_bound(n, 2.0, 1.0)


def test_success_goes_to_zero_only_while_the_set_grows_slower_than_the_root_of_n():
    fixed = [theory.log_fresh_success(n, 2.0, 1.0) for n in (8, 64, 784, 3072)]
    assert fixed == sorted(fixed, reverse=True) and fixed[-1] < -5000
    growing = [theory.fresh_success(n, 1.1 * n**0.5, 1.0) for n in (8, 64, 784, 3072)]
    assert growing == sorted(growing) and growing[-1] > 0.999


def test_the_cap_of_the_reference_angle():
    theta = math.acos(0.1)
    for n, share in ((64, 0.21), (784, 2.6e-3), (3072, 1.5e-8)):
        np.testing.assert_allclose(theory.cap_share(n, theta), share, rtol=0.1)
    assert theory.cap_share(3072, math.pi / 2) == 0.5


def test_the_cap_s_logarithm_against_integration():
    # Density of the angle: sin^(n-2), normalised; scaled so that nothing underflows.
    for n, theta in ((50, 0.05), (784, 0.3), (3072, 0.5)):
        top = math.sin(theta)
        inside = integrate.quad(
            lambda t, n=n, top=top: (math.sin(t) / top) ** (n - 2),
            theta - min(theta, 40 / n),
            theta,
            epsabs=0,
        )[0]
        log_whole = math.log(math.pi) / 2 + math.lgamma((n - 1) / 2) - math.lgamma(n / 2)
        expected = math.log(inside) + (n - 2) * math.log(top) - log_whole
        found = theory.log_cap_share(n, theta)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert theory.log_cap_share(3, 0.0) == -math.inf


def test_sampled_caps_agree():
    table = theory.cap_monte_carlo(theta=math.acos(0.1), samples=20000)
    low, high = table.interval("share")
    exact = table["share_exact"]
    assert (low - 2e-3 <= exact).all() and (exact <= high + 2e-3).all()


def test_the_picture_shows_the_best_attack_at_the_mean():
    plain = theory.picture(rho=0.5, sigma=1.0, eps=1.0)
    middle = len(plain.grid) // 2
    assert np.unravel_index(plain.success.argmax(), plain.success.shape) == (middle, middle)
    np.testing.assert_allclose(plain.success.max(), theory.fresh_success(2, 0.5, 1.0))
    shared = theory.picture(rho=0.5, sigma=0.5, eps=1.0, mean=(3.0, 0.0))
    np.testing.assert_allclose(shared.best, [1, 0])
    row, column = np.unravel_index(shared.success.argmax(), shared.success.shape)
    np.testing.assert_allclose(shared.grid[[row, column]], [0, 3], atol=0.2)


def test_lengths_must_be_positive_and_angles_acute():
    with pytest.raises(ValueError, match="positive lengths"):
        theory.fresh_success(3, 0.0, 1.0)
    with pytest.raises(ValueError, match="angle of 0 to pi/2"):
        theory.cap_share(3, 2.0)
