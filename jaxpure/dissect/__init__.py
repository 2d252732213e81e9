"""Dissect: what the papers on diffusion purification measure, as pure functions.

Measurements are about one image and one key where they can be (`vmap` makes the batch);
what is said over images is a `Result`: named columns, 95% intervals, a CSV. Import the
modules: `from jaxpure.dissect import compression, masking`. But for the scorecard nothing
here attacks anything: adversarial images and directions come in as arrays.

    masking       replay gap, key matrix
    alignment     cosines of gradients with the true one, signal to noise over keys
    geometry      correlations over keys and starts, spectra, variance split
    denoising     distances, SSIM, projection and margin along the whole chain
    compression   compression rates, the Jacobian's norm and singular values
    thresholds    anchors, the 2x2 table, critical thresholds
    prediction    AUC per image; correlation and sigmoid per setting
    frechet       how far what a model makes is from the data, in any features
    fuzzy         success over keys and its cumulative curve
    theory        the theorems, the spherical cap, the picture in two dimensions
    scorecard     one defense, checked for masked gradients line by line
    results       the type they return
    draws, derivatives, similarity   keys, products with the Jacobian, similarity
"""

from jaxpure.dissect import (
    alignment,
    compression,
    denoising,
    derivatives,
    draws,
    frechet,
    fuzzy,
    geometry,
    masking,
    prediction,
    results,
    similarity,
    theory,
    thresholds,
)
from jaxpure.dissect.results import Result
from jaxpure.dissect.scorecard import Scorecard, scorecard
from jaxpure.dissect.similarity import ssim

__all__ = [
    "Result",
    "Scorecard",
    "alignment",
    "compression",
    "denoising",
    "derivatives",
    "draws",
    "frechet",
    "fuzzy",
    "geometry",
    "masking",
    "prediction",
    "results",
    "scorecard",
    "similarity",
    "ssim",
    "theory",
    "thresholds",
]
