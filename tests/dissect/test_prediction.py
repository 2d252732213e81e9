"""AUC and the sigmoid against scikit-learn; their intervals by simulation."""

import numpy as np
import pytest
from scipy import special, stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from jaxpure.dissect import prediction


def test_auc_is_scikit_learn_s_ties_and_infinities_included():
    rng = np.random.default_rng(0)
    positive = rng.uniform(size=60) < 0.4
    scores = np.round(rng.standard_normal(60) + positive, 1)
    found = prediction.auc(scores, positive)
    np.testing.assert_allclose(found.value, roc_auc_score(positive, scores))
    assert found.low < found.value < found.high
    unreached = scores.copy()
    unreached[positive.argmax()] = np.inf
    ranked = np.where(np.isinf(unreached), 1e9, unreached)
    np.testing.assert_allclose(
        prediction.auc(unreached, positive).value, roc_auc_score(positive, ranked)
    )


def test_the_auc_s_interval_covers():
    rng = np.random.default_rng(1)
    truth = stats.norm.cdf(1 / np.sqrt(2))
    covered = 0
    positive = np.arange(50) < 20
    for _ in range(400):
        found = prediction.auc(rng.standard_normal(50) + positive, positive)
        covered += found.low <= truth <= found.high
    assert 0.91 < covered / 400 < 0.99


def test_a_perfect_auc_still_has_an_interval():
    found = prediction.auc(np.arange(10.0), np.arange(10) > 4)
    assert found.value == 1 and found.high == 1 and 0.5 < found.low < 0.95
    reverse = prediction.auc(-np.arange(10.0), np.arange(10) > 4)
    np.testing.assert_allclose([reverse.value, reverse.low], 0)
    np.testing.assert_allclose(reverse.high, 1 - found.low, atol=1e-6)


def test_auc_refuses_nan_and_a_single_kind():
    with pytest.raises(ValueError, match="not finite for example 2"):
        prediction.auc(np.array([0.0, 1.0, np.nan]), np.array([True, False, True]))
    with pytest.raises(ValueError, match="3 positive and 0 negative"):
        prediction.auc(np.arange(3.0), np.ones(3, bool))


def simulated(seed=0, images=200):
    rng = np.random.default_rng(seed)
    rate = np.geomspace(0.05, 1.5, 10)
    share = special.expit(-1.0 - 2.0 * np.log(rate))
    return rate, rng.binomial(images, share), np.full(10, images)


def test_the_sigmoid_is_scikit_learn_s_maximum_likelihood():
    rate, robust, images = simulated()
    found = prediction.logistic_fit(rate, robust, images)
    x = np.repeat(np.log(rate), 2)[:, None]
    y = np.tile([1, 0], 10)
    weights = np.stack([robust, images - robust], 1).reshape(-1)
    other = LogisticRegression(C=1e9, tol=1e-10, max_iter=10000).fit(x, y, weights)
    np.testing.assert_allclose(found.slope.value, other.coef_[0, 0], rtol=1e-4)
    np.testing.assert_allclose(found.intercept.value, other.intercept_[0], rtol=1e-3)
    assert found.slope.low < -2 < found.slope.high
    np.testing.assert_allclose(found.midpoint, np.exp(-0.5), rtol=0.1)
    value, low, high = found.curve(rate)
    np.testing.assert_allclose(value, found.settings["fitted"], rtol=1e-8)
    assert (low < value).all() and (value < high).all()
    share = found.settings["share"]
    np.testing.assert_allclose(found.settings["residual"], share - value, atol=1e-8)
    np.testing.assert_allclose(found.settings["residual"] @ images, 0, atol=1e-6)


def test_the_slope_s_interval_covers_and_scatter_widens_it():
    fits = [prediction.logistic_fit(*simulated(seed)) for seed in range(200)]
    covered = np.mean([fit.slope.low <= -2 <= fit.slope.high for fit in fits])
    assert covered > 0.93
    rate, robust, images = simulated()
    scattered = np.clip(robust + 25 * np.tile([1, -1], 5), 1, 199)
    wide = prediction.logistic_fit(rate, scattered, images)
    assert wide.dispersion > 3 > fits[0].dispersion
    assert np.ptp(wide.slope[1:3]) > 2 * np.ptp(fits[0].slope[1:3])


def test_what_no_sigmoid_fits_is_refused():
    rate = np.array([0.1, 0.2, 0.4, 0.8])
    with pytest.raises(ValueError, match="separates"):
        prediction.logistic_fit(rate, np.array([10, 10, 0, 0]), np.full(4, 10))
    with pytest.raises(ValueError, match="needs 3"):
        prediction.logistic_fit(rate[:1], np.array([5]), np.array([10]))
    with pytest.raises(ValueError, match="must be positive"):
        prediction.logistic_fit(rate - 0.1, np.array([9, 5, 3, 1]), np.full(4, 10))


def test_correlations_are_scipy_s_with_fisher_s_interval():
    rng = np.random.default_rng(2)
    x = rng.standard_normal(30)
    y = x + rng.standard_normal(30)
    found = prediction.correlation(x, y)
    pearson = stats.pearsonr(x, y)
    np.testing.assert_allclose(found.pearson.value, pearson.statistic)
    np.testing.assert_allclose(found.pearson[1:3], pearson.confidence_interval(), rtol=1e-6)
    np.testing.assert_allclose(found.spearman.value, stats.spearmanr(x, y).statistic)
    assert found.spearman.low < found.spearman.value < found.spearman.high
    with pytest.raises(ValueError, match="at least 4"):
        prediction.correlation(x[:3], y[:3])
    with pytest.raises(ValueError, match="same value"):
        prediction.correlation(x * 0, y)


def test_predictors_side_by_side():
    robust = np.arange(20) >= 10
    predictors = {"good": np.arange(20.0), "none": np.tile([0.0, 1.0], 10)}
    table = prediction.predictor_table(predictors, robust)
    np.testing.assert_allclose(table["auc"], [1, 0.5])
    assert table.notes["robust"] == 10
