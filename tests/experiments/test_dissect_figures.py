"""Every figure is written with the CSV of what it shows."""

import numpy as np
import pytest

from experiments import dissect_figures as figures
from jaxpure.dissect import (
    Result,
    alignment,
    fuzzy,
    masking,
    prediction,
    results,
    theory,
    thresholds,
)

RNG = np.random.default_rng(0)


def curve(name, **axis):
    measured = {column: RNG.uniform(size=(5, 7)) for column in figures.FATE}
    return results.summarise(name, "", measured, axis={"step": np.arange(7), **axis})


def matrix():
    logits = RNG.standard_normal((6, 2, 3, 2))
    return masking.key_matrix(logits, np.ones(6, int)).cells


def fit():
    rate = np.geomspace(0.1, 1, 5)
    return prediction.logistic_fit(rate, np.array([9, 8, 6, 3, 1]), np.full(5, 10))


def probability():
    return np.array([0, 0.25, 0.5, 1.0])


PHASES = np.where(np.arange(7) < 4, "forward", "reverse")
AXES = {"x": "step", "y": "l2", "xlabel": "step", "ylabel": "L2"}
LONG = alignment.alignment_curve({"bpda": RNG.uniform(size=(4, 3)), "eot": np.ones((4, 3))})
SCORES = {"rate": np.arange(8.0), "threshold": RNG.uniform(size=8)}
DRAW = {
    "curves": lambda path: figures.curves({"one": curve("c")}, path, log="x", **AXES),
    "groups": lambda path: figures.groups(
        LONG, path, by="gradient", x="step", y="cosine", xlabel="step", ylabel="cosine"
    ),
    "dots": lambda path: figures.dots(
        prediction.predictor_table(SCORES, np.arange(8) > 3),
        path,
        label="predictor",
        value="auc",
        xlabel="AUC",
        reference=0.5,
    ),
    "key_matrix": lambda path: figures.key_matrix(matrix(), path),
    "requirements": lambda path: figures.requirements(
        thresholds.two_requirements(np.array([1, 0]), np.array([[1], [1]]), np.ones(2)),
        path,
    ),
    "outcomes": lambda path: figures.outcomes(
        Result(
            "images",
            "",
            {
                "rate": np.arange(3.0),
                "far": np.array([1, 2, np.inf]),
                "right": np.arange(3),
            },
        ),
        path,
        x="rate",
        y="far",
        outcome="right",
        xlabel="rate",
        ylabel="threshold",
    ),
    "sigmoid": lambda path: figures.sigmoid(fit(), path, list("abcde")),
    "success_by_dimension": lambda path: figures.success_by_dimension(
        theory.monte_carlo(rho=1, sigma=1, eps=1, draws=2, samples=10, dimensions=(2, 4)),
        path,
    ),
}
SEVERAL = {
    "fate": lambda path: figures.fate(
        {"adversarial": curve("a", phase=PHASES), "random": curve("r", phase=PHASES)}, path
    ),
    "success_curve": lambda path: figures.success_curve(
        fuzzy.cumulative_curve(probability(), 4), fuzzy.per_image(probability(), 4), path
    ),
    "pictures": lambda path: figures.pictures(
        {"a b": theory.picture(rho=1, sigma=1, eps=1, keys=3, points=11)}, path
    ),
}


@pytest.mark.parametrize("name", DRAW)
def test_a_figure_has_its_csv_beside_it(name, tmp_path):
    DRAW[name](tmp_path / "figure.png")
    assert {path.name for path in tmp_path.iterdir()} == {"figure.png", "figure.csv"}
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "figure.csv").read_text().count("\n") > 2


@pytest.mark.parametrize("name", SEVERAL)
def test_a_figure_of_several_results_has_a_csv_for_each(name, tmp_path):
    SEVERAL[name](tmp_path / "figure.png")
    written = {path.name for path in tmp_path.iterdir()}
    assert "figure.png" in written and len(written) > 1
    assert all(n.startswith("figure_") for n in written - {"figure.png"})


def test_the_groups_csv_holds_every_group(tmp_path):
    DRAW["groups"](tmp_path / "figure.png")
    text = (tmp_path / "figure.csv").read_text()
    assert "bpda,0" in text and "eot,2" in text
