"""PyMC and ArviZ, imported without their notices; where one is missing, the extra that brings it."""

from __future__ import annotations

import functools
import warnings

from kdstats.errors import MissingCompilerWarning, MissingDependencyError

__all__ = ["az", "pm", "pt", "warn_without_compiler"]

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz as az
        import pymc as pm
        import pytensor
        import pytensor.tensor as pt
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("arviz", "pymc", "pytensor"):
        raise
    raise MissingDependencyError(
        f'Bayesian students need {error.name}, which is not installed: pip install "kdstats[bayes]"'
    ) from error


@functools.cache
def warn_without_compiler() -> None:
    """Warn, once, where PyTensor has no C++ compiler and falls back to Python."""
    if not pytensor.config.cxx:
        warnings.warn(
            "PyTensor found no C++ compiler (pytensor.config.cxx is empty) and falls back to Python, which is many "
            "times slower: install g++ (apt-get install g++, or conda install gxx), or use "
            'NUTS(sampler="nutpie") or NUTS(sampler="numpyro"), which need none (pip install "kdstats[samplers]")',
            MissingCompilerWarning,
            stacklevel=4,
        )
