"""The sections of the page, in its order: one file each, and one line here."""

from experiments.paper.sections import (
    checkpoints,
    compression,
    denoising,
    fuzzy,
    geometry,
    masking,
    scorecard,
    sweep,
    theory,
)
from experiments.paper.sections.section import Figure, Report, Section

SECTIONS: dict[str, Section] = {
    "masking": masking.SECTION,
    "scorecard": scorecard.SECTION,
    "geometry": geometry.SECTION,
    "denoising": denoising.SECTION,
    "fuzzy": fuzzy.SECTION,
    "compression": compression.SECTION,
    "sweep": sweep.SECTION,
    "checkpoints": checkpoints.SECTION,
    "theory": theory.SECTION,
}

__all__ = ["SECTIONS", "Figure", "Report", "Section"]
