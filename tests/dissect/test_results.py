"""The result type: columns, intervals, CSV; and the bootstrap."""

import csv

import numpy as np
import pytest

from jaxpure.dissect import results


def test_a_result_writes_what_it_holds(tmp_path):
    table = results.summarise(
        "curve",
        "a definition\nover two lines",
        {"rate": np.array([[0.1, 1 / 3], [0.3, 1 / 3]])},
        axis={"step": np.array([0, 1])},
        notes={"keys": 7},
    )
    table.write(tmp_path / "curve.csv")
    lines = (tmp_path / "curve.csv").read_text().splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert comments[0] == "# about: a definition over two lines"
    assert "# images: 2" in comments and "# keys: 7" in comments
    rows = list(csv.DictReader(lines[len(comments) :]))
    assert list(rows[0]) == ["step", "rate", "rate_low", "rate_high"]
    assert float(rows[1]["rate"]) == 1 / 3  # full precision
    assert table.estimate("rate", 0) == results.Estimate(0.2, 0.1, 0.3, 2)


def test_columns_must_fit_and_be_known():
    with pytest.raises(ValueError, match="of one length"):
        results.Result("r", "", {"a": np.zeros(2), "b": np.zeros(3)})
    with pytest.raises(ValueError, match="no column 'b'; it has a"):
        results.Result("r", "", {"a": np.zeros(2)})["b"]


def test_the_bootstrap_s_interval_is_that_of_a_mean():
    values = np.random.default_rng(0).standard_normal((400, 2)) * [1, 3]
    mean, low, high = results.bootstrap(values)
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_allclose((high - low) / 2, 1.96 * np.array([1, 3]) / 20, rtol=0.12)
    again = results.bootstrap(values)
    np.testing.assert_array_equal(low, again[1])
    assert np.isnan(results.bootstrap(values[:1])[1]).all()


def test_examples_that_are_not_finite_are_named_by_their_index():
    values = np.zeros((30, 2))
    values[3, 1], values[7, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match="shift is not finite for example 103, 107:"):
        results.summarise("r", "", {"shift": values}, indices=np.arange(100, 130))
    with pytest.raises(ValueError, match="and 20 more"):
        results.require_finite("all", np.full(30, np.nan))
