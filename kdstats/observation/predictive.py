r"""The spread that a student gives its own outputs: its residual variance.

A student that predicts with noise of its own takes the variance of that noise from its training
residuals. Summed over its rows and divided by their number or by the residual degrees of freedom,
in the units of its working covariance V, and scaled to a label whose working variance is the mean
diagonal of V.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import ObservationError
from kdstats.linear.smoother import Smoother, smoother
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent

__all__ = ["residual_divisor", "residual_variance"]

FloatArray = NDArray[np.float64]

#: Residual degrees of freedom, relative to the number of rows, that count as none.
NO_DEGREES_OF_FREEDOM = 1e-9


def residual_variance(
    problem: DistillationProblem,
    *,
    labels: FloatArray,
    fitted: FloatArray,
    within: FloatArray | None = None,
    counts: NDArray[np.int64] | None = None,
    weights: FloatArray | None = None,
    fit: Smoother | None = None,
) -> FloatArray:
    r"""Return each student's residual variance.

    Parameters
    ----------
    problem : DistillationProblem
        What the students were trained on.
    labels : (S, n, q) ndarray
        Label of each student at each input; for ``multi_response`` the mean of its k rows.
    fitted : (S, n, q) ndarray
        Its predictions at the inputs.
    within : (S, n, q) or (S, q) ndarray, optional
        For ``multi_response`` only: the sum of squares of the k rows around their mean, per input;
        or already in the units of V and summed over inputs, which a full V needs.
    counts : (S, n) ndarray of int, optional
        How often each student saw each input. Default: once.
    weights : (S, n) ndarray, optional
        The weights each student estimated for itself. Default: those of the problem.
    fit : Smoother, optional
        Coefficient map of a linear student at the training inputs, if it is at hand.

    Returns
    -------
    (S, q) ndarray
        Squared output units.

    Raises
    ------
    ObservationError
        As :func:`residual_divisor`.
    """
    student = problem.student
    residuals = labels - fitted
    unit, scale = np.ones((1, labels.shape[1])), np.ones((1, 1))
    if isinstance(student, LinearStudent):
        fit = fit if fit is not None else smoother(problem)
        scale = scale * fit.mean_working_variance
        if weights is not None:
            unit, scale = weights, (1.0 / weights).mean(axis=1, keepdims=True)
        elif fit.whiten.lower is not None:
            residuals = np.moveaxis(fit.whiten(np.moveaxis(residuals, 1, 0)), 0, 1)
        elif fit.whiten.inverse_sd is not None:
            unit = fit.whiten.inverse_sd[None] ** 2
    if counts is not None:
        unit = unit * counts
    unit = np.broadcast_to(unit, labels.shape[:2])
    squares = np.einsum("sn,snq->sq", unit, residuals**2)
    if problem.design.strategy == "multi_response":
        assert within is not None
        spread = within if within.ndim == 2 else np.einsum("sn,snq->sq", unit, within)
        squares = problem.design.n_responses * squares + spread
    return np.asarray(scale * squares / residual_divisor(problem, fit))


def residual_divisor(problem: DistillationProblem, fit: Smoother | None = None) -> float:
    r"""Return what a student divides its residual sum of squares by.

    The number of its rows (networks, and linear students with ``residual_variance="mle"``), or its
    residual degrees of freedom: rows less :math:`\mathrm{tr}(2H - HH')`, which is the number of
    coefficients for least squares. Rows are the n inputs, or the m resampled ones, times k for
    ``multi_response``.

    Raises
    ------
    ObservationError
        If an unbiased residual variance has no degrees of freedom left.
    """
    student, n, seen = problem.student, problem.teacher.n_inputs, problem.resample_size
    rows = (n if seen is None else seen) * (
        problem.design.n_responses if problem.design.strategy == "multi_response" else 1
    )
    if not isinstance(student, LinearStudent) or student.residual_variance == "mle":
        return float(rows)
    if seen not in (None, n):
        fit = smoother(problem, penalty_scale=n / seen) if student.penalty > 0.0 else fit
    fit = fit if fit is not None else smoother(problem)
    divisor = rows - (n - fit.residual_degrees_of_freedom)
    if divisor <= NO_DEGREES_OF_FREEDOM * rows:
        what = "resample_size" if seen is not None else "X"
        raise ObservationError(
            f"`{what}` must leave residual degrees of freedom for the student's own residual variance; got 0 residual "
            f"degrees of freedom from {rows} rows (add rows, set residual_variance='mle', or leave 'student_output' "
            "out of `sources`)"
        )
    return float(divisor)
