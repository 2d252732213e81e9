"""Theory: the theorems in closed form beside sampling; no network is asked."""

from functools import partial
from typing import Any

from experiments import dissect_figures as figures
from experiments.config import PaperConfig
from experiments.paper.sections.section import Figure, Report, Section
from experiments.paper.study import Study
from jaxpure.dissect.theory import cap_monte_carlo, monte_carlo, picture

SAMPLES = 2000
MODEL: dict[str, Any] = {"rho": 6.0, "sigma": 1.0, "eps": 4.0}
CAP: dict[str, Any] = {
    "theta": 1.4,  # of a right angle's 1.57
    "samples": SAMPLES,
    "dimensions": (2, 8, 32, 64, 128, 784, 3072),
}
PICTURE: dict[str, Any] = {"rho": 0.7, "sigma": 1.0, "eps": 1.5, "points": 31}


def asks(plan: PaperConfig) -> list:
    del plan
    return []


def report(study: Study) -> Report:
    table = monte_carlo(
        **MODEL, draws=15, samples=SAMPLES, dimensions=(2, 8, 32, 64, 128, 784, 3072)
    )
    cap = cap_monte_carlo(**CAP)
    panels = {
        "sets apart": picture(**PICTURE),
        "sets with a common part": picture(**PICTURE, mean=(1.5, 0.5)),
    }
    size = study.dataset.images[0].size
    return Report(
        [],
        [
            Figure(
                "theory",
                "Success with and without the key, by dimension",
                f"{table.about}. These images have {size} dimensions.",
                partial(figures.success_by_dimension, table),
            ),
            Figure(
                "spherical_cap",
                "The spherical cap: directions near an adversarial one, by dimension",
                f"{cap.about}; bands: of the samples. The closed form stands in the CSV.",
                partial(
                    figures.curves,
                    {"sampled": cap},
                    x="dimension",
                    y="share",
                    xlabel="dimensions n",
                    ylabel="share of directions",
                    log="x",
                ),
            ),
            Figure(
                "picture",
                "The picture in two dimensions",
                "Adversarial sets of some keys, and the chance of every perturbation "
                "(seed, Fig. 1): apart, no place is good for many keys; with a common "
                "part, EOT finds it.",
                partial(figures.pictures, panels),
            ),
        ],
        [
            "Statements and proofs, with what each of the general claims needs, are in "
            "docs/theory.md; they are of a model and no measurement of this data set."
        ],
    )


SECTION = Section("Theory", (), asks, report)
