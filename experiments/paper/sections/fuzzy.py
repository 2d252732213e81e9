"""Fuzzy robustness: images whose perturbation succeeds under some keys alone."""

from functools import partial

from experiments import dissect_figures as figures
from experiments.config import PaperConfig
from experiments.paper.asks import Ask, ask
from experiments.paper.relations import Finding, above
from experiments.paper.sections.section import Figure, Report, Section, needs_noise
from experiments.paper.study import Study
from jaxpure.dissect.fuzzy import (
    cumulative_curve,
    fuzzy_summary,
    per_image,
    success_probability,
)

LARGE = 0.2  # share of images that counts as a large part


def asks(plan: PaperConfig) -> list[Ask]:
    attack = partial(ask, "attack", plan.purifier, plan.denoiser, gradient="exact")
    return [attack(policy="fresh"), attack(policy="replay")]


def report(study: Study) -> Report:
    labels, keys = study.dataset.labels, study.plan.judging_keys
    found, drawn = {}, []
    for a in asks(study.plan):
        policy = dict(a.options)["policy"]
        share = success_probability(study.all(a)["logits"], labels)
        curve, images = cumulative_curve(share, keys), per_image(share, keys, study.indices)
        found[policy] = fuzzy_summary(share, keys)
        knew = {"fresh": "knew no noise", "replay": "knew the noise of judging key 0"}
        drawn.append(
            Figure(
                f"fuzzy_{policy}",
                f"Success over keys, of an attack that {knew[policy]}",
                f"Left: share of the {keys} judging keys under which each attacked image "
                "is wrong. Right: CFR(q), the share of images with success at least q "
                "(2025 submission; DiffHammer); band: Wilson.",
                partial(figures.success_curve, curve, images),
            )
        )
    e, area = found["fresh"].estimate("fuzzy"), found["fresh"].estimate("area")
    replayed = found["replay"].estimate("fuzzy")
    sentence = (
        f"Images whose fresh perturbation succeeds under some but not all of {keys} keys; "
        f"it held where their share is above {LARGE:.0%}. Success on average {area}; of a "
        f"replayed attack's images {replayed} are fuzzy."
    )
    return Report([Finding(8, str(e), above(e.low, e.high, LARGE), sentence)], drawn)


SECTION = Section("Fuzzy robustness", (8,), asks, report, needs_noise)
