"""PyMC and ArviZ, imported without their notices; where one is missing, the extra that brings it."""

from __future__ import annotations

import warnings

from kdstats.errors import MissingDependencyError

__all__ = ["az", "pm", "pt"]

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz as az
        import pymc as pm
        import pytensor.tensor as pt
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("arviz", "pymc", "pytensor"):
        raise
    raise MissingDependencyError(
        f'Bayesian students need {error.name}, which is not installed: pip install "kdstats[bayes]"'
    ) from error
