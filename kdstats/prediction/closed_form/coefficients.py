r"""First two moments of a linear student's coefficients and of its residual variance.

Coefficients are :math:`\hat\beta = F y + P w_0` with :math:`F = GQ'` (root and basis), so that

.. math:: \operatorname{Cov}(\hat\beta) = G\,(Q'CQ)\,G' + s_0^2 PP' = TT'

with C the covariance of the (whitened) labels. Every variance below is a sum of squares of
:math:`X^*T`, which never subtracts and so keeps its digits where :math:`X^*\operatorname{Cov}X^{*\prime}`
would lose them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from kdstats.errors import PredictionError
from kdstats.linear.label_law import LabelLaw, initialization_variance
from kdstats.linear.smoother import Smoother, as_full
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent

__all__ = ["CoefficientLaw", "coefficient_law", "expected_residual_variance", "residual_moments"]

FloatArray = NDArray[np.float64]

#: Residual degrees of freedom, relative to the number of rows, that count as none.
NO_DEGREES_OF_FREEDOM = 1e-9


@dataclass(frozen=True, eq=False)
class CoefficientLaw:
    """Mean and spread of the coefficients over students.

    Attributes
    ----------
    mean : (P, q) ndarray
    spread : (P, r) ndarray
        T with ``Cov = T @ T.T``, the same for every output.
    """

    mean: FloatArray
    spread: FloatArray


def coefficient_law(problem: DistillationProblem, smoother: Smoother, labels: LabelLaw) -> CoefficientLaw:
    """Return mean and spread of the coefficients when every row is seen."""
    covariance = smoother.whiten.covariance(labels.covariance)
    if covariance.ndim == 0 and smoother.factorization is not None:
        spread = np.sqrt(covariance) * smoother.root
    else:
        spread = smoother.root @ _projected_root(covariance, smoother.basis)
    initial = initialization_variance(problem)
    if initial > 0.0 and smoother.initial_map is not None:
        spread = np.hstack([spread, np.sqrt(initial) * smoother.initial_map])
    return CoefficientLaw(mean=smoother.coefficients(smoother.whiten(labels.mean)), spread=spread)


def residual_moments(
    problem: DistillationProblem, smoother: Smoother, labels: LabelLaw
) -> tuple[FloatArray, FloatArray]:
    """Return mean and variance of each whitened training residual, both of shape (n, q)."""
    mean = smoother.whiten(labels.mean)
    bias = smoother.residuals(mean)
    residual_maker = np.eye(len(mean)) - smoother.hat
    covariance = smoother.whiten.covariance(labels.covariance)
    if covariance.ndim == 2:
        variance = np.einsum("ij,ij->i", residual_maker @ covariance, residual_maker)
    else:
        variance = residual_maker**2 @ np.broadcast_to(covariance, (len(mean),))
    initial = initialization_variance(problem)
    if initial > 0.0 and smoother.initial_map is not None:
        variance = variance + initial * ((smoother.inputs @ smoother.initial_map) ** 2).sum(axis=1)
    return bias, np.broadcast_to(variance[:, None], bias.shape)


def expected_residual_variance(problem: DistillationProblem, smoother: Smoother, labels: LabelLaw) -> FloatArray:
    """Return the expected residual variance that a student attributes to its outputs, shape (q,).

    Raises
    ------
    PredictionError
        If no residual degrees of freedom are left for an unbiased residual variance.
    """
    student = problem.student
    assert isinstance(student, LinearStudent)
    if "student_output" not in problem.design.sources:
        return np.zeros(problem.gaussian_teacher.n_outputs)
    n, rows_per_input = problem.gaussian_teacher.n_inputs, _rows_per_input(problem)
    seen = n if problem.resample_size is None else problem.resample_size
    used = n - smoother.residual_degrees_of_freedom
    divisor = float(seen * rows_per_input)
    if student.residual_variance == "unbiased":
        divisor -= used
        if divisor < NO_DEGREES_OF_FREEDOM * seen:
            raise PredictionError(
                f"`X` must leave residual degrees of freedom for the student's own residual variance; got 0 residual "
                f"degrees of freedom from {seen} rows (set residual_variance='mle', or leave 'student_output' out of "
                f"`sources`)"
            )
    mean = smoother.whiten(labels.mean)
    bias = smoother.residuals(mean)
    residual_squares = (bias**2).sum(axis=0) + _residual_trace(problem, smoother, labels)
    within = labels.within
    if problem.resample_size is not None:
        # m rows out of n scatter around the fit to all n, and their own fit takes up its share of that.
        residual_squares = residual_squares * (seen - used) / n
        within = within * seen / n
    squares = rows_per_input * residual_squares + within
    return np.asarray(squares / divisor * smoother.mean_working_variance)


def symmetric_root(matrix: FloatArray) -> FloatArray:
    """Return B with ``B @ B.T`` equal to a positive semi-definite matrix."""
    values, vectors = scipy.linalg.eigh(matrix)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _projected_root(covariance: FloatArray, basis: FloatArray) -> FloatArray:
    """Return B with BB' = Q'CQ, from roots of C: small variances beside large ones keep their digits."""
    if covariance.ndim < 2:
        scaled = basis * np.sqrt(covariance).reshape(-1, 1)
    else:
        try:
            scaled = scipy.linalg.cholesky(covariance, lower=True).T @ basis
        except np.linalg.LinAlgError:  # semi-definite
            return symmetric_root(basis.T @ covariance @ basis)
    return np.asarray(np.transpose(np.linalg.qr(scaled, mode="r")))


def _rows_per_input(problem: DistillationProblem) -> int:
    return problem.design.n_responses if problem.design.strategy == "multi_response" else 1


def _residual_trace(problem: DistillationProblem, smoother: Smoother, labels: LabelLaw) -> float:
    """Sum over inputs of the variance of the residual."""
    covariance = smoother.whiten.covariance(labels.covariance)
    if covariance.ndim == 0 and initialization_variance(problem) == 0.0:
        return float(covariance) * smoother.residual_degrees_of_freedom
    _, variance = residual_moments(problem, smoother, labels)
    return float(variance[:, 0].sum())


def residual_covariance_projection(smoother: Smoother, labels: LabelLaw) -> FloatArray:
    """Return the covariance of X'r, with r the whitened residual: zero for a projection, shape (P, P)."""
    n = smoother.inputs.shape[0]
    covariance = as_full(smoother.whiten.covariance(labels.covariance), n)
    score = smoother.inputs.T - (smoother.inputs.T @ smoother.inputs) @ smoother.coefficient_map
    return np.asarray(score @ covariance @ score.T)
