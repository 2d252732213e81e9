"""Gradients that an attack by queries shows to be masked."""

from jaxpure.evaluation.masking import Attempt, describe, masked
from jaxpure.evaluation.statistics import Estimate


def attempt(attack, gradient, value, policy="replay", setting="digits"):
    robust = Estimate(value, value - 0.05, value + 0.05, 200)
    return Attempt(attack, gradient, policy, robust, setting)


def test_a_gradient_that_queries_beat_is_masked():
    """None that another attack does well along, that is another's, or within intervals."""
    found = masked(
        [
            attempt("pgd", "bpda", 0.6),
            attempt("pgd", "exact", 0.9),
            attempt("square", "exact", 0.4),
            attempt("pgd", "exact", 0.6, policy="fresh"),
            attempt("apgd", "exact", 0.3),
            attempt("pgd", "surrogate(diffpure(t_star=9))", 0.45),
            attempt("pgd", "transfer(identity)", 0.9),
            attempt("pgd", "surrogate(diffpure(t_star=5))", 0.9, setting="other"),
        ]
    )
    assert [(blind.attack, best.gradient) for blind, best in found] == [("square", "bpda")]
    assert describe(*found[0]) == (
        "Under replay, square without gradients leaves less than any attack along the bpda "
        "gradient (intervals apart): that gradient is masked."
    )
