"""The random experiment itself: noise laws, teacher responses, labels, resampled rows."""

from kdstats.sampling.laws import Gamma, Gaussian, Laplace, NoiseLaw, StudentT, UserLaw, as_noise_law
from kdstats.sampling.training_sets import BLOCK, TrainingBlock, draw_training_block, initial_coefficients

__all__ = [
    "BLOCK",
    "Gamma",
    "Gaussian",
    "Laplace",
    "NoiseLaw",
    "StudentT",
    "TrainingBlock",
    "UserLaw",
    "as_noise_law",
    "draw_training_block",
    "initial_coefficients",
]
