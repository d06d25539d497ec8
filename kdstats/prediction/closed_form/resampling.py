r"""Students that see m rows drawn with replacement (result T10), to first order in 1/m.

With :math:`Q = X'X/n`, residuals :math:`r_i` of the fit to all rows and
:math:`V = \frac1n\sum_i x_i x_i' E r_i^2 - E gg'`, :math:`g = \frac1n\sum_i x_i r_i`, the
coefficients have covariance

.. math:: F C F' + \tfrac1m\,(Q + \tfrac{\lambda}{m}D)^{-1} V (Q + \tfrac{\lambda}{m}D)^{-1}.

The first term is the redrawn labels', the second the resampled rows'. It vanishes when the labels
are exactly linear in the inputs. The relative error is of order P/m.
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from kdstats.errors import ApproximationWarning, UnsupportedProblemError
from kdstats.linear.label_law import LabelLaw
from kdstats.linear.smoother import Smoother
from kdstats.prediction.closed_form.coefficients import (
    residual_covariance_projection,
    residual_moments,
    symmetric_root,
)
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent

__all__ = ["REGIME_RATIO", "check_regime", "resampled_rows_spread", "warn_outside_regime"]

FloatArray = NDArray[np.float64]

#: Rows per coefficient below which the first-order result is off by more than about a tenth.
REGIME_RATIO = 10


def check_regime(problem: DistillationProblem, size: int) -> float:
    """Return the order of the relative error, P/m; refuse or warn outside the regime.

    Raises
    ------
    UnsupportedProblemError
        For students trained by gradient steps, with minimum norm or with estimated weights.

    Warns
    -----
    ApproximationWarning
        With fewer than ``REGIME_RATIO`` rows per coefficient.
    """
    student = problem.student
    assert isinstance(student, LinearStudent)
    if student.training is not None or student.minimum_norm or student.weights_are_estimated:
        raise UnsupportedProblemError(
            "the closed form covers the source 'data_resampling' for exactly fitted OLS, ridge and weighted students; "
            "use engine='monte_carlo' for this student"
        )
    return warn_outside_regime(problem, size, "resampled rows")


def warn_outside_regime(problem: DistillationProblem, n_rows: int, what: str) -> float:
    """Return coefficients per row, the order of a first-order result's relative error; warn where it is large."""
    width = problem.gaussian_teacher.n_features + int(getattr(problem.student, "fit_intercept", False))
    order = width / n_rows
    if n_rows < REGIME_RATIO * width:
        warnings.warn(
            f"the closed form for {what} is first order in coefficients per row, {width}/{n_rows} = {order:.2g}; below "
            f"{REGIME_RATIO} rows per coefficient use engine='monte_carlo'",
            ApproximationWarning,
            stacklevel=5,
        )
    return order


def resampled_rows_spread(
    problem: DistillationProblem, smoother: Smoother, labels: LabelLaw, size: int
) -> list[FloatArray]:
    """Return, for each output, T with TT' the covariance of the coefficients due to resampled rows."""
    inputs = smoother.inputs
    n, width = inputs.shape
    student = problem.student
    assert isinstance(student, LinearStudent)
    bias, variance = residual_moments(problem, smoother, labels)
    penalty = student.penalty / (problem.design.n_responses if problem.design.strategy == "multi_response" else 1)
    curvature = inputs.T @ inputs / n
    slopes = np.arange(int(student.fit_intercept), width)
    curvature[slopes, slopes] += penalty / size
    factor = scipy.linalg.cho_factor(curvature)
    score_covariance = residual_covariance_projection(smoother, labels) / n**2
    spreads = []
    for output in range(bias.shape[1]):
        squares = bias[:, output] ** 2 + variance[:, output]
        score = inputs.T @ bias[:, output] / n
        meat = (inputs.T * squares) @ inputs / n - np.outer(score, score) - score_covariance
        spreads.append(scipy.linalg.cho_solve(factor, symmetric_root(meat)) / np.sqrt(size))
    return spreads
