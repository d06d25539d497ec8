r"""Students fitted to drawn labels: one map for all of them, or a system of its own for each.

Coefficients have layout (student, output, coefficient). A student's own residual variance is its
residual sum of squares over a common divisor, times the mean diagonal of its working covariance.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import PrecisionWarning, PredictionError
from kdstats.linear.least_squares import Factorization, factorize
from kdstats.linear.smoother import Smoother, minimum_norm_free_intercept, smoother
from kdstats.prediction.monte_carlo.kernels import row_squares, solve_systems
from kdstats.prediction.monte_carlo.labels import Labels, LabelSource
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import GradientDescent, LinearStudent

__all__ = ["LinearMap", "OwnRows", "Students", "linear_map", "own_rows"]

FloatArray = NDArray[np.float64]

#: Pivots of a normal system, in orthonormal coordinates, below which a student is solved through singular values.
PIVOT_TOLERANCE = 1e-8
#: Residual degrees of freedom, relative to the number of rows, that count as none.
NO_DEGREES_OF_FREEDOM = 1e-9


@dataclass(frozen=True, eq=False, kw_only=True)
class Students:
    """B fitted students.

    Attributes
    ----------
    coefficients : (B, q, P) ndarray
    variances : (B, q) ndarray
        Own residual variance; 0 where the source ``student_output`` is off.
    control : (B, q, P) ndarray or None
        Coefficients of the linear control students, less their mean.
    n_deficient : int
        Students whose rows did not determine their coefficients.
    """

    coefficients: FloatArray
    variances: FloatArray
    control: FloatArray | None = None
    n_deficient: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearMap:
    r"""One linear map for all students; coefficients are deviations from the noise-free student's.

    With e the noise of the labels, g the noise-free residual and :math:`X = QR`, the residual sum
    of squares is :math:`g'g + 2(g'e - (X'g)'\beta) + e'e - 2(Q'e)'(R\beta) + \lVert R\beta\rVert^2`.
    Coefficients depend on labels through Q'e alone, for every student that descends a squared loss, so
    that one product with the few columns of ``stacked`` = (Q, g) serves them and the residuals.
    """

    stacked: FloatArray
    coefficient_map: FloatArray
    initial_map: FloatArray | None
    triangle: FloatArray
    residual: FloatArray
    score: FloatArray
    n_rows_per_input: int
    scale: float | None

    def fit(self, labels: Labels) -> Students:
        """Fit a block of students."""
        size, q, n = labels.noise.shape
        rank, width = self.triangle.shape
        noise = labels.noise.reshape(size * q, n)
        product = noise @ self.stacked
        projected = np.ascontiguousarray(product[:, :rank])
        flat = projected @ self.coefficient_map.T
        if labels.initial is not None and self.initial_map is not None:
            flat += labels.initial.reshape(size * q, -1) @ self.initial_map.T
        coefficients = flat.reshape(size, q, width)
        if self.scale is None:
            return Students(coefficients=coefficients, variances=np.zeros((size, q)))
        fitted = flat @ self.triangle.T
        crossed = np.diagonal(product[:, rank : rank + q].reshape(size, q, q), axis1=1, axis2=2)
        squares = row_squares(noise) + row_squares(fitted)
        squares -= 2.0 * np.einsum("br,br->b", fitted, projected)
        squares = squares.reshape(size, q) + row_squares(self.residual)
        squares += 2.0 * (crossed - np.einsum("bqp,qp->bq", coefficients, self.score))
        squares *= self.n_rows_per_input
        if labels.within is not None:
            squares += labels.within.sum(axis=2)
        return Students(coefficients=coefficients, variances=self.scale * squares)


@dataclass(frozen=True, eq=False, kw_only=True)
class OwnRows:
    """Students with rows or weights of their own, each with its own weighted least squares.

    Systems are formed in coordinates in which the full sample is orthonormal; what Cholesky cannot
    solve there is solved again through QR or singular values, with the solution of smallest norm.
    """

    inputs: FloatArray
    basis: FloatArray
    penalty_basis: FloatArray
    inverse: FloatArray
    centre: FloatArray
    control_map: FloatArray
    control_initial: FloatArray | None
    student: LinearStudent
    penalty: FloatArray
    n_rows: int
    n_responses: int
    n_rows_per_input: int
    scale: float | None
    rank: int

    def fit(self, labels: Labels) -> Students:
        """Fit a block of students."""
        weights, own_scale = self._weights(labels)
        values = labels.noise + self.centre
        n_deficient = 0
        if self.student.training is not None:
            coefficients = self._descend(weights, values, labels.initial, self.student.training)
        else:
            coefficients, n_deficient = self._solve(weights, values)
        control = labels.noise @ self.control_map.T
        if labels.initial is not None and self.control_initial is not None:
            control = control + labels.initial @ self.control_initial.T
        variances = np.zeros(values.shape[:2])
        if self.scale is not None:
            residuals = values - coefficients @ self.inputs.T
            variances = self.n_rows_per_input * np.einsum("bn,bqn->bq", weights, residuals**2)
            if self.n_rows_per_input > 1 and labels.within is not None:
                variances += np.einsum("bn,bqn->bq", weights, labels.within)
            variances *= self.scale * own_scale
        return Students(coefficients=coefficients, variances=variances, control=control, n_deficient=n_deficient)

    def _weights(self, labels: Labels) -> tuple[FloatArray, FloatArray]:
        """Weights (B, n) of the rows, and (B, 1) what a residual variance is to be multiplied by."""
        size, _, n = labels.noise.shape
        weights, scale = np.ones((size, n)), np.ones((size, 1))
        if self.student.weights_are_estimated:
            assert labels.within is not None
            variances = labels.within[:, 0] / (self.n_responses - 1)
            if (variances <= 0.0).any():
                raise PredictionError(
                    "responses must differ at every input with weights='estimated'; got a response variance of 0 at "
                    f"input {int(np.argwhere(variances <= 0.0)[0][1])}"
                )
            weights, scale = 1.0 / variances, variances.mean(axis=1, keepdims=True)
        if labels.counts is not None:
            weights = weights * labels.counts
        return weights, scale

    def _solve(self, weights: FloatArray, values: FloatArray) -> tuple[FloatArray, int]:
        size, n = weights.shape
        width = self.basis.shape[1]
        products = (self.basis[:, :, None] * self.basis[:, None, :]).reshape(n, width * width)
        systems = (weights @ products).reshape(size, width, width) + self.penalty_basis.T @ self.penalty_basis
        sides = (weights[:, None] * values) @ self.basis
        singular = solve_systems(systems, sides, PIVOT_TOLERANCE)
        coefficients = sides @ self.inverse.T
        n_deficient = 0
        for index in np.flatnonzero(singular):
            coefficients[index], rank = self._solve_one(weights[index], values[index])
            n_deficient += rank < self.rank
        return coefficients, n_deficient

    def _solve_one(self, weights: FloatArray, values: FloatArray) -> tuple[FloatArray, int]:
        seen = weights > 0.0
        root = np.sqrt(weights[seen])
        rows, sides = root[:, None] * self.inputs[seen], root * values[:, seen]
        if self.penalty.any():
            rows = np.vstack([rows, np.diag(np.sqrt(self.penalty))[self.penalty > 0.0]])
            sides = np.hstack([sides, np.zeros((len(sides), len(rows) - sides.shape[1]))])
        solver = _factorized(rows, fit_intercept=self.student.fit_intercept)
        return solver.solve(sides.T).T, solver.rank

    def _descend(
        self, weights: FloatArray, values: FloatArray, initial: FloatArray | None, training: GradientDescent
    ) -> FloatArray:
        """Gradient steps in closed form, from the eigenvalues of each student's own curvature."""
        size, n = weights.shape
        width = self.inputs.shape[1]
        products = (self.inputs[:, :, None] * self.inputs[:, None, :]).reshape(n, width * width)
        curvature = (weights @ products).reshape(size, width, width) + np.diag(self.penalty)
        sides = (weights[:, None] * values) @ self.inputs
        eigenvalues, vectors = np.linalg.eigh(curvature)
        shrink = 2.0 * training.learning_rate / self.n_rows * np.maximum(eigenvalues, 0.0)
        if (shrink >= 2.0).any():
            raise PredictionError(
                f"`learning_rate` must be less than {2.0 * training.learning_rate / shrink.max():.4g} for the "
                f"resampled rows of every student, or the steps diverge; got {training.learning_rate:g}"
            )
        with np.errstate(divide="ignore"):
            decay = training.n_steps * np.where(shrink < 0.5, np.log1p(-shrink.clip(max=0.5)), np.log(abs(1 - shrink)))
        sign = np.where((shrink > 1.0) & (training.n_steps % 2 == 1), -1.0, 1.0)
        learned = np.where(sign > 0, -np.expm1(decay), 1.0 + np.exp(decay))
        step = 2.0 * training.learning_rate / self.n_rows
        gain = np.divide(
            step * learned, shrink, out=np.full_like(shrink, step * training.n_steps), where=shrink > 1e-300
        )
        moved = (sides @ vectors) * gain[:, None]
        if initial is not None:
            moved += (initial @ vectors) * (1.0 - learned)[:, None]
        return np.asarray(moved @ vectors.swapaxes(1, 2))


def linear_map(problem: DistillationProblem, fit: Smoother, source: LabelSource) -> LinearMap:
    """Prepare the map of students that all see the same rows."""
    centre = fit.whiten(source.raw_centre)
    inputs = fit.inputs
    basis, triangle = np.linalg.qr(inputs)
    residual = (centre - inputs @ fit.coefficients(centre)).T
    scale = _residual_scale(problem, fit)
    return LinearMap(
        stacked=_padded(basis if scale is None else np.hstack([basis, residual.T])),
        coefficient_map=fit.coefficient_map @ basis,
        initial_map=fit.initial_map,
        triangle=triangle,
        residual=np.ascontiguousarray(residual),
        score=residual @ inputs,
        n_rows_per_input=_rows_per_input(problem),
        scale=scale,
    )


def _padded(columns: FloatArray) -> FloatArray:
    """Add columns of zeros up to a multiple of eight, which BLAS multiplies faster than fewer."""
    n, width = columns.shape
    padded = np.zeros((n, -(-width // 8) * 8))
    padded[:, :width] = columns
    return padded


def own_rows(problem: DistillationProblem, fit: Smoother, source: LabelSource) -> OwnRows:
    """Prepare the systems of students that see rows, or weights, of their own."""
    student = problem.student
    assert isinstance(student, LinearStudent)
    inputs = source.whiten(fit.raw_inputs)
    n, width = inputs.shape
    level = student.penalty / _rows_per_input(problem)
    penalty = np.full(width, level)
    penalty[0] = 0.0 if student.fit_intercept else level
    stacked = np.vstack([inputs, np.diag(np.sqrt(penalty))]) if level > 0.0 else inputs
    factors = _factorized(stacked, fit_intercept=student.fit_intercept and level == 0.0)
    control = control_smoother(problem, fit)
    return OwnRows(
        inputs=inputs,
        basis=np.ascontiguousarray(factors.basis[:n]),
        penalty_basis=factors.basis[n:],
        inverse=factors.root,
        centre=source.whiten(source.raw_centre).T,
        control_map=_own_map(control, source),
        control_initial=control.initial_map,
        student=student,
        penalty=penalty,
        n_rows=problem.resample_size or n,
        n_responses=problem.design.n_responses,
        n_rows_per_input=_rows_per_input(problem),
        scale=_residual_scale(problem, control),
        rank=factors.rank,
    )


def control_smoother(problem: DistillationProblem, fit: Smoother) -> Smoother:
    """Return the full-sample student whose penalty weighs as much as on the rows that a student sees."""
    student, size = problem.student, problem.resample_size
    assert isinstance(student, LinearStudent)
    if (
        size is None
        or student.penalty == 0.0
        or size == problem.gaussian_teacher.n_inputs
        or student.training is not None
    ):
        return fit
    return smoother(problem, penalty_scale=problem.gaussian_teacher.n_inputs / size)


def _factorized(rows: FloatArray, *, fit_intercept: bool) -> Factorization:
    """Factorise; where the rows do not determine the coefficients, for the solution with the smallest slopes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrecisionWarning)
        solver = factorize(rows, names=[""] * rows.shape[1], minimum_norm=True)
    if solver.rank < rows.shape[1] and fit_intercept:
        return minimum_norm_free_intercept(rows)
    return solver


def _own_map(control: Smoother, source: LabelSource) -> FloatArray:
    if source.whiten.is_identity and not control.whiten.is_identity:
        return np.asarray(control.coefficient_map @ control.whiten(np.eye(control.inputs.shape[0])))
    return control.coefficient_map


def _rows_per_input(problem: DistillationProblem) -> int:
    return problem.design.n_responses if problem.design.strategy == "multi_response" else 1


def _residual_scale(problem: DistillationProblem, fit: Smoother) -> float | None:
    """Factor from a residual sum of squares to a residual variance; None where outputs are not random."""
    student, n = problem.student, problem.gaussian_teacher.n_inputs
    assert isinstance(student, LinearStudent)
    if "student_output" not in problem.design.sources:
        return None
    rows = (problem.resample_size or n) * _rows_per_input(problem)
    divisor = float(rows)
    if student.residual_variance == "unbiased":
        divisor -= n - fit.residual_degrees_of_freedom
    if divisor <= NO_DEGREES_OF_FREEDOM * rows:
        raise PredictionError(
            f"`{'X' if problem.resample_size is None else 'resample_size'}` must leave residual degrees of freedom for "
            f"the student's own residual variance; got 0 residual degrees of freedom from {rows} rows (set "
            "residual_variance='mle', or leave 'student_output' out of `sources`)"
        )
    return (1.0 if student.weights_are_estimated else fit.mean_working_variance) / divisor
