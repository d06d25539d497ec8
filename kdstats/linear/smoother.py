r"""Linear students as maps: labels and initial coefficients in, coefficients out.

Every linear student, exact or gradient-trained, is
:math:`\hat\beta = F y + P w_0`: F maps the labels at the n inputs to the coefficients, P the initial
coefficients. Predictions at the query points are :math:`X^*\hat\beta`.

References
----------
Results T1 (linear smoothers), T4 (generalised least squares) and T13 (gradient descent) of the
theory pages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from kdstats.errors import RankDeficientError, invalid
from kdstats.linear.least_squares import Factorization, factorize
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import GradientDescent, LinearStudent

__all__ = ["Smoother", "augment", "smoother", "working_variance"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Smoother:
    r"""Coefficient map of one linear student at one set of inputs.

    Everything is in whitened coordinates: labels and inputs are multiplied by
    :math:`V^{-1/2}` first (:meth:`whiten`), so that the working covariance is the identity.

    Attributes
    ----------
    raw_inputs : (n, P) ndarray
        Training inputs, a column for the intercept first if there is one.
    inputs : (n, P) ndarray
        The same, whitened.
    coefficient_map : (P, n) ndarray
        F, from whitened labels to coefficients.
    initial_map : (P, P) ndarray or None
        P, from initial coefficients to final ones; None for exact students.
    factorization : Factorization or None
        Of the whitened inputs, for exact students without penalty.
    mean_working_variance : float
        Mean diagonal of the working covariance V.
    """

    raw_inputs: FloatArray
    inputs: FloatArray
    coefficient_map: FloatArray
    initial_map: FloatArray | None
    factorization: Factorization | None
    whiten: Callable[[FloatArray], FloatArray]
    mean_working_variance: float

    @cached_property
    def hat(self) -> FloatArray:
        """Smoother matrix at the inputs (whitened): fitted = hat @ labels, shape (n, n)."""
        return np.asarray(self.inputs @ self.coefficient_map)

    @cached_property
    def residual_degrees_of_freedom(self) -> float:
        """Divisor n - tr(2H - HH'), of the residual sum of squares (unbiased for pure noise)."""
        n = self.inputs.shape[0]
        if self.factorization is not None:
            return float(n - self.factorization.rank)
        gram = self.coefficient_map @ self.coefficient_map.T
        trace = 2.0 * np.einsum("ij,ji->", self.inputs, self.coefficient_map)
        return float(n - trace + np.einsum("ij,ij->", gram, self.inputs.T @ self.inputs))

    @cached_property
    def raw_hat(self) -> FloatArray:
        """Smoother matrix at the inputs in raw coordinates, shape (n, n)."""
        return np.asarray(self.raw_inputs @ (self.coefficient_map @ self.whiten(np.eye(self.inputs.shape[0]))))

    def coefficients(self, labels: FloatArray) -> FloatArray:
        """Coefficients for whitened labels (n, ...), from zero initial coefficients."""
        if self.factorization is not None:
            return self.factorization.solve(labels)
        return np.asarray(self.coefficient_map @ labels)


def augment(X: FloatArray, student: LinearStudent) -> FloatArray:
    """Return X with a leading column of ones if the student has an intercept."""
    if not student.fit_intercept:
        return X
    return np.hstack([np.ones((X.shape[0], 1)), X])


def smoother(problem: DistillationProblem) -> Smoother:
    """Return the coefficient map of a problem's linear student at the training inputs.

    Raises
    ------
    RankDeficientError
        If the inputs do not determine the coefficients and neither a penalty, gradient steps nor
        ``minimum_norm`` choose a solution.
    ProblemError
        If the learning rate does not contract, or the teacher's covariance, asked for as working
        covariance, is singular.
    """
    student = problem.student
    assert isinstance(student, LinearStudent)
    multi = problem.design.strategy == "multi_response"
    penalty = student.penalty / (problem.design.n_responses if multi else 1)
    whiten, mean_variance = working_variance(problem)
    raw = augment(problem.teacher.X, student)
    inputs = whiten(raw)
    names = (("intercept",) if student.fit_intercept else ()) + (problem.teacher.feature_names or ())
    factorization, initial_map = None, None
    if student.training is not None:
        coefficient_map, initial_map = _gradient_steps(inputs, penalty, student.training, student.fit_intercept)
    elif penalty > 0.0:
        n = inputs.shape[0]
        stacked = factorize(
            np.vstack([inputs, _penalty_rows(inputs.shape[1], penalty, student.fit_intercept)]), names=names
        )
        coefficient_map = np.ascontiguousarray(stacked.pseudo_inverse[:, :n])
    else:
        factorization = _factorize(inputs, names, student)
        coefficient_map = factorization.pseudo_inverse
    return Smoother(
        raw_inputs=raw,
        inputs=inputs,
        coefficient_map=coefficient_map,
        initial_map=initial_map,
        factorization=factorization,
        whiten=whiten,
        mean_working_variance=mean_variance,
    )


def working_variance(problem: DistillationProblem) -> tuple[Callable[[FloatArray], FloatArray], float]:
    """Return the whitening by the student's working covariance V, and V's mean diagonal."""
    student, teacher = problem.student, problem.teacher
    assert isinstance(student, LinearStudent)
    if student.weights is not None:
        # Estimated weights tend to the inverse of the true variances.
        variances = (
            teacher.variances if student.weights_are_estimated else 1.0 / np.asarray(student.weights, dtype=float)
        )
        return _diagonal_whitening(variances, "weights='estimated'")
    if student.covariance is None:
        return (lambda array: array), 1.0
    if isinstance(student.covariance, str):
        if teacher.is_diagonal:
            return _diagonal_whitening(teacher.variances, "covariance='teacher'")
        matrix = teacher.covariance
    else:
        matrix = student.covariance
    try:
        lower = scipy.linalg.cholesky(matrix, lower=True)
    except np.linalg.LinAlgError:
        raise invalid("covariance", "be positive definite", "a singular matrix") from None
    return (
        lambda array: np.asarray(
            scipy.linalg.solve_triangular(lower, array.reshape(len(lower), -1), lower=True)
        ).reshape(array.shape),
        float(np.mean(np.diag(matrix))),
    )


def _diagonal_whitening(variances: FloatArray, wish: str) -> tuple[Callable[[FloatArray], FloatArray], float]:
    if (variances <= 0.0).any():
        where = int(np.argmin(variances))
        raise invalid("noise_variance", f"be greater than 0 at every input with {wish}", f"0 at index {where}")
    inverse_sd = 1.0 / np.sqrt(variances)
    return (lambda array: array * inverse_sd.reshape(-1, *(1,) * (array.ndim - 1))), float(np.mean(variances))


def _factorize(inputs: FloatArray, names: tuple[str, ...], student: LinearStudent) -> Factorization:
    if not student.minimum_norm or not student.fit_intercept:
        return factorize(inputs, names=names, minimum_norm=student.minimum_norm)
    try:
        return factorize(inputs, names=names)
    except RankDeficientError:
        return _minimum_norm_free_intercept(inputs)


def _minimum_norm_free_intercept(inputs: FloatArray) -> Factorization:
    """Minimise the norm of the slopes alone: fit them to centred inputs, then the intercept."""
    ones, slopes = inputs[:, 0], inputs[:, 1:]
    shares = ones @ slopes / (ones @ ones)
    inner = factorize(slopes - np.outer(ones, shares), names=[""] * slopes.shape[1], minimum_norm=True)
    length = np.sqrt(ones @ ones)
    root = np.zeros((inputs.shape[1], inner.rank + 1))
    root[0, 0] = 1.0 / length
    root[0, 1:] = -shares @ inner.root
    root[1:, 1:] = inner.root
    basis = np.column_stack([ones / length, inner.basis])
    return Factorization(matrix=inputs, root=root, basis=basis, condition=inner.condition)


def _penalty_rows(width: int, penalty: float, fit_intercept: bool) -> FloatArray:  # noqa: FBT001
    rows = np.sqrt(penalty) * np.eye(width)
    return rows[1:] if fit_intercept else rows


def _gradient_steps(
    inputs: FloatArray,
    penalty: float,
    training: GradientDescent,
    fit_intercept: bool,  # noqa: FBT001
) -> tuple[FloatArray, FloatArray]:
    r"""Maps after T steps on the mean loss, from the singular values of the stacked inputs.

    With :math:`M = [X; \sqrt\lambda D] = USV'` the step is
    :math:`w \leftarrow w - (2\eta/n)(M'Mw - X'y)`, so direction i contracts by
    :math:`a_i = 1 - 2\eta s_i^2/n` and :math:`F = V\,\mathrm{diag}((1 - a_i^T)/s_i)\,U_X'`.
    """
    n, width = inputs.shape
    stacked = np.vstack([inputs, _penalty_rows(width, penalty, fit_intercept)]) if penalty > 0 else inputs
    left, values, right = scipy.linalg.svd(stacked, full_matrices=False)
    shrink = 2.0 * training.learning_rate * values**2 / n
    if shrink[0] >= 2.0:
        raise invalid(
            "learning_rate",
            f"be less than {2.0 * training.learning_rate / shrink[0]:.4g} for these inputs, or the steps diverge",
            training.learning_rate,
        )
    with np.errstate(divide="ignore"):
        power = training.n_steps * np.log(np.abs(1.0 - shrink))
        precise = np.where(shrink < 0.5, training.n_steps * np.log1p(-np.minimum(shrink, 0.5)), power)
    sign = np.where((shrink > 1.0) & (training.n_steps % 2 == 1), -1.0, 1.0)
    contraction = sign * np.exp(precise)
    learned = np.where(sign > 0, -np.expm1(precise), 1.0 - contraction)
    gain = np.divide(learned, values, out=np.zeros_like(values), where=values > 0)
    coefficient_map = (right.T * gain) @ left[:n].T
    initial_map = np.eye(width) - (right.T * learned) @ right
    return coefficient_map, initial_map
