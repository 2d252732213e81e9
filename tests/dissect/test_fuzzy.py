"""Success over keys, for additive noise in closed form."""

import numpy as np
from scipy import stats

from jaxpure.dissect import fuzzy

KEYS = 40


def draws(probabilities):
    """Logits of attacked images, class 1 the true one, wrong with these probabilities."""
    rng = np.random.default_rng(0)
    wrong = (
        rng.uniform(size=(len(probabilities), KEYS)) < np.asarray(probabilities)[:, None]
    )
    return np.stack([wrong, ~wrong], -1).astype(float)


def test_success_probability_of_additive_noise_is_a_normal_tail():
    distance = np.linspace(-2, 2, 200)  # how far the attacked pixel is above the boundary
    truth = stats.norm.cdf(-distance)
    found = fuzzy.success_probability(draws(truth), np.ones(200, int))
    table = fuzzy.per_image(found, KEYS, np.arange(100, 300))
    low, high = table.interval("success")
    assert 0.9 < np.mean((low <= truth) & (truth <= high)) < 1
    assert list(table["example"][:2]) == [100, 101]


def test_draws_that_are_not_finite_are_successes():
    logits = draws([0.0])
    logits[0, :10, 1] = np.nan
    np.testing.assert_allclose(fuzzy.success_probability(logits, np.ones(1, int)), 0.25)


def test_the_curve_its_ends_and_its_area():
    probability = np.array([0, 0, 0.25, 0.5, 1.0])
    curve = fuzzy.cumulative_curve(probability, KEYS)
    np.testing.assert_allclose(curve["probability"], np.arange(1, KEYS + 1) / KEYS)
    at = dict(zip(curve["probability"], curve["share"], strict=True))
    assert at[1 / KEYS] == 0.6 and at[0.25] == 0.6 and at[0.275] == 0.4
    assert at[0.5] == 0.4 and at[1.0] == 0.2
    row = fuzzy.fuzzy_summary(probability, KEYS)
    assert row["some"] == 0.6 and row["all"] == 0.2 and row["fuzzy"] == 0.4
    # The staircase's area is the mean success, exactly.
    np.testing.assert_allclose(curve["share"].mean(), probability.mean())
    np.testing.assert_allclose(row["area"], probability.mean())


def test_a_uniform_law_of_success_gives_the_diagonal():
    probability = np.arange(0, KEYS) / KEYS
    curve = fuzzy.cumulative_curve(probability, KEYS)
    np.testing.assert_allclose(curve["share"], 1 - curve["probability"])
