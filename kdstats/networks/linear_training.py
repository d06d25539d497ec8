r"""Linear students, trained in double precision on the rows of their training sets, many at once.

Two trainers, neither of which uses a formula for the solution: full-batch gradient steps
(:func:`descend`, the recursion of result T13 of the theory pages), and conjugate gradients to
convergence (:func:`minimise`) for students that are meant to be exact.

Inputs and labels are whitened by the caller where the student has a working covariance. For
``multi_response`` the caller passes the mean labels and the penalty divided by k: the gradient of
the mean over kn rows, penalty over kn, is the gradient of the mean over the n mean labels, penalty
over kn, and the two trainings agree step by step.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kdstats.errors import DivergedStudentError, ObservationError, PrecisionWarning, RankDeficientError
from kdstats.problem.student import GradientDescent

__all__ = ["TrainedLinear", "descend", "minimise"]

FloatArray = NDArray[np.float64]

#: Steps between two looks for numbers that are not finite.
LOOK = 100
EPSILON = float(np.finfo(np.float64).eps)
#: Gradient, against the product of the norms of inputs and labels, at which a student has converged.
TOLERANCE = 32.0 * EPSILON
#: Restarts of the conjugate gradients with a residual computed afresh, each of at most this many steps a column.
RESTARTS, STEPS_PER_COLUMN = 20, 10
#: Relative error of the coefficients beyond which a warning tells the digits to expect.
EXPECTED_ERROR = 1e-8


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedLinear:
    """Students after training.

    Attributes
    ----------
    coefficients : (S, P, q) ndarray
        In the order of the columns of the inputs.
    n_steps : int
        Steps taken.
    """

    coefficients: FloatArray
    n_steps: int


def descend(
    inputs: FloatArray,
    labels: FloatArray,
    *,
    training: GradientDescent,
    penalties: FloatArray,
    row_weights: NDArray[np.int64] | FloatArray | None = None,
    initial: FloatArray | None = None,
    first_student: int = 0,
) -> TrainedLinear:
    """Take full-batch gradient steps on the mean squared error plus penalty over the number of rows.

    Parameters
    ----------
    inputs : (n, P) array
        Shared inputs, with a column of ones (whitened like the others) for an intercept.
    labels : (S, n, q) array
        Labels of each student.
    training : GradientDescent
        Number of steps and learning rate.
    penalties : (P,) array
        Ridge penalty of each coefficient, 0 for the intercept.
    row_weights : (S, n) array, optional
        How often each student sees each row; the rows of a student number their sum.
    initial : (S, P, q) array, optional
        First coefficients. Default: 0.
    first_student : int, default 0
        Number of the first student, for messages.

    Raises
    ------
    DivergedStudentError
        If coefficients left the finite numbers.
    """
    n_students, _, n_outputs = labels.shape
    matrix, targets, weights = _columns(inputs, labels, row_weights)
    rows = float(inputs.shape[0]) if weights is None else weights.sum(dim=0)
    shape = (inputs.shape[1], targets.shape[1])
    coefficients = torch.zeros(shape, dtype=torch.float64)
    if initial is not None:
        coefficients.copy_(torch.from_numpy(np.moveaxis(initial, 0, 1).reshape(shape)))
    ridge = torch.from_numpy(np.array(penalties)).unsqueeze(1)
    rates = 2.0 * training.learning_rate / rows
    residual, gradient = torch.empty_like(targets), torch.empty_like(coefficients)
    last_finite = torch.zeros(shape[1], dtype=torch.int64)
    for step in range(1, training.n_steps + 1):
        torch.mm(matrix, coefficients, out=residual)
        residual -= targets
        if weights is not None:
            residual *= weights
        torch.addmm(ridge * coefficients, matrix.t(), residual, out=gradient)
        coefficients -= rates * gradient
        if step % LOOK == 0 or step == training.n_steps:
            last_finite[torch.isfinite(coefficients).all(dim=0)] = step
    if (last_finite < training.n_steps).any():
        student = int(torch.argmin(last_finite)) // n_outputs
        raise DivergedStudentError(
            f"student {first_student + student} diverged between step {int(last_finite.min())} and "
            f"{int(last_finite.min()) + LOOK} of {training.n_steps} "
            f"({int((last_finite < training.n_steps).sum())} of {shape[1]} coefficient vectors of its block did); "
            f"`learning_rate` must be smaller than {training.learning_rate:g}, or X scaled"
        )
    return TrainedLinear(coefficients=_by_student(coefficients, n_students), n_steps=training.n_steps)


def minimise(
    inputs: FloatArray,
    labels: FloatArray,
    *,
    penalties: FloatArray,
    intercept: bool,
    minimum_norm: bool = False,
    row_weights: NDArray[np.int64] | FloatArray | None = None,
    first_student: int = 0,
) -> TrainedLinear:
    """Train by conjugate gradients until the gradient vanishes to rounding.

    The intercept, if there is one, is kept at its optimum for the other coefficients, which are
    scaled to columns of equal length (unless the solution of smallest norm is wanted: then the
    scale stays, and the steps, which begin at 0 and never leave the row space, end there). The
    residual is computed afresh at every restart, so that rounding errors of the recurrence do not
    stay.

    Parameters
    ----------
    inputs, labels, penalties, row_weights, first_student
        As for :func:`descend`.
    intercept : bool
        Whether column 0 of the inputs is an intercept, free of penalty.
    minimum_norm : bool, default False
        Whether the slopes of smallest norm are taken if the inputs do not determine them.

    Raises
    ------
    RankDeficientError
        If the rows of a student do not determine its coefficients.
    ObservationError
        If a student did not converge, or double precision leaves no digit; the message has the
        condition number.

    Warns
    -----
    PrecisionWarning
        If the condition number leaves fewer than eight digits.
    """
    n_students = labels.shape[0]
    matrix, targets, weights = _columns(inputs, labels, row_weights)
    ones = matrix[:, :1].clone() if intercept else None
    slopes = matrix[:, 1:] if intercept else matrix
    if ones is not None:
        shares = (ones.t() @ slopes) / (ones.t() @ ones)
        slopes = slopes - ones @ shares
    lengths = slopes.norm(dim=0)
    scale = lengths.amax().expand_as(lengths) if minimum_norm else lengths
    if slopes.shape[1] and not (scale > 0).all():
        raise RankDeficientError("a column of X is constant, or 0 without intercept: its coefficient is not determined")
    slopes = slopes / scale
    ridge = (torch.from_numpy(np.array(penalties[int(intercept) :])) / scale**2).unsqueeze(1)
    condition = _condition(slopes, ridge)
    if not minimum_norm:
        _check_rank(slopes, ridge, ones, weights, labels.shape[2], first_student)
        _check_precision(condition)
    problem = _LeastSquares(slopes, targets, ridge, ones, weights)
    solution, n_steps = _conjugate_gradients(problem, condition, first_student, labels.shape[2])
    coefficients = solution / scale.unsqueeze(1)
    if ones is not None:
        constant = problem.constant(slopes @ solution)
        coefficients = torch.cat([constant - shares @ coefficients, coefficients])
    return TrainedLinear(coefficients=_by_student(coefficients, n_students), n_steps=n_steps)


class _LeastSquares:
    """Weighted ridge problems that share their inputs, with the intercept eliminated."""

    def __init__(
        self,
        slopes: torch.Tensor,
        targets: torch.Tensor,
        ridge: torch.Tensor,
        ones: torch.Tensor | None,
        weights: torch.Tensor | None,
    ) -> None:
        self.slopes, self.targets, self.ridge, self.ones, self.weights = slopes, targets, ridge, ones, weights
        if ones is not None:
            shares = ones if weights is None else ones * weights
            self.averaging = shares / (shares * ones).sum(dim=0)

    def constant(self, fitted: torch.Tensor) -> torch.Tensor:
        """Return the best intercepts of the students, given their slopes."""
        return (self.averaging * (self.targets - fitted)).sum(dim=0, keepdim=True)

    def centred(self, values: torch.Tensor) -> torch.Tensor:
        """Return what the intercept cannot explain of some columns."""
        if self.ones is None:
            return values
        return values - self.ones * (self.averaging * values).sum(dim=0, keepdim=True)

    def weighted(self, values: torch.Tensor) -> torch.Tensor:
        """Return columns times how often each row is seen."""
        return values if self.weights is None else values * self.weights

    def descent(self, residual: torch.Tensor, solution: torch.Tensor) -> torch.Tensor:
        """Return minus half the gradient."""
        return self.slopes.t() @ self.weighted(residual) - self.ridge * solution

    def rounding(self, solution: torch.Tensor) -> torch.Tensor:
        """Return the square of the gradient that rounding leaves, per column."""
        lengths = (self.slopes**2).sum(dim=1, keepdim=True).expand_as(self.targets)
        inputs = self.weighted(lengths).sum(dim=0) + self.ridge.sum()
        labels = self.weighted(self.targets**2).sum(dim=0)
        return TOLERANCE**2 * inputs * (labels + inputs * (solution**2).sum(dim=0))


def _conjugate_gradients(
    problem: _LeastSquares, condition: float, first_student: int, n_outputs: int
) -> tuple[torch.Tensor, int]:
    width, n_columns = problem.slopes.shape[1], problem.targets.shape[1]
    solution = torch.zeros((width, n_columns), dtype=torch.float64)
    if width == 0:
        return solution, 0
    steps = 0
    for _ in range(RESTARTS):
        residual = problem.centred(problem.targets - problem.slopes @ solution)
        descent = problem.descent(residual, solution)
        size, goal = (descent**2).sum(dim=0), problem.rounding(solution)
        open_ = size > goal
        if not open_.any():
            return solution, steps
        direction = descent.clone()
        for _ in range(STEPS_PER_COLUMN * width):
            change = problem.centred(problem.slopes @ direction)
            curvature = (problem.weighted(change) * change).sum(dim=0) + (problem.ridge * direction**2).sum(dim=0)
            rate = torch.where((size > goal / 4.0) & (curvature > 0), size / curvature, 0.0)
            solution += rate * direction
            residual -= rate * change
            descent = problem.descent(residual, solution)
            previous, size = size, (descent**2).sum(dim=0)
            direction = descent + torch.where(previous > 0, size / previous, 0.0) * direction
            steps += 1
            if (size <= goal / 4.0).all():
                break
    student = first_student + int(open_.nonzero()[0]) // n_outputs
    raise ObservationError(
        f"student {student} did not converge in {steps} steps of conjugate gradients: the scaled inputs "
        f"have condition number {condition:.2g}; drop or combine columns of X, or use the engine 'linear'"
    )


def _condition(slopes: torch.Tensor, ridge: torch.Tensor) -> float:
    if slopes.shape[1] == 0:
        return 1.0
    values = torch.linalg.svdvals(torch.cat([slopes, torch.diag(ridge.squeeze(1).sqrt())]))
    return float(values[0] / values[-1]) if values[-1] > 0 else float("inf")


def _check_precision(condition: float) -> None:
    """Warn of few digits, refuse to return none: gradients square the condition number."""
    error = EPSILON * condition**2
    if error >= 1.0:
        raise ObservationError(
            f"the scaled inputs have condition number {condition:.2g}, beyond what training by gradients resolves in "
            "double precision; drop or combine columns of X, add a penalty, or use the engine 'linear'"
        )
    if error > EXPECTED_ERROR:
        warnings.warn(
            f"the scaled inputs have condition number {condition:.2g}: expect about {-np.log10(error):.0f} digits of "
            "coefficients trained by gradients",
            PrecisionWarning,
            stacklevel=3,
        )


def _check_rank(
    slopes: torch.Tensor,
    ridge: torch.Tensor,
    ones: torch.Tensor | None,
    weights: torch.Tensor | None,
    n_outputs: int,
    first_student: int,
) -> None:
    """Refuse inputs, or the resampled inputs of a student, that do not determine the coefficients."""
    width = slopes.shape[1]
    extended = slopes if ones is None else torch.cat([ones / ones.norm(), slopes], dim=1)
    penalty = torch.cat([torch.zeros(extended.shape[1] - width, dtype=torch.float64), ridge.squeeze(1)])
    rows = extended.unsqueeze(0)
    if weights is not None:
        rows = rows * weights[:, ::n_outputs].t().sqrt().unsqueeze(2)
    rows = torch.cat([rows, torch.diag(penalty.sqrt()).expand(rows.shape[0], -1, -1)], dim=1)
    values = torch.linalg.svdvals(rows)
    bad = (values[:, -1] <= extended.shape[0] * EPSILON * values[:, 0]).nonzero()
    if bad.numel():
        lacking = int(bad[0, 0])
        who, verb = "X", "does"
        if weights is not None:
            who, verb = f"the rows of student {first_student + lacking}", "do"
        raise RankDeficientError(
            f"{who} {verb} not determine the {extended.shape[1]} coefficients; "
            "drop columns, add a penalty, see more rows, or ask for `minimum_norm=True`"
        )


def _columns(
    inputs: FloatArray, labels: FloatArray, row_weights: NDArray[np.int64] | FloatArray | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Lay students and outputs side by side as columns: inputs (n, P), labels and weights (n, S q)."""
    _, n_rows, n_outputs = labels.shape
    matrix = torch.from_numpy(np.array(inputs, dtype=np.float64))
    targets = torch.from_numpy(np.moveaxis(labels, 0, 1).reshape(n_rows, -1).astype(np.float64))
    if row_weights is None:
        return matrix, targets, None
    weights = np.repeat(np.asarray(row_weights, dtype=np.float64).T, n_outputs, axis=1)
    return matrix, targets, torch.from_numpy(weights)


def _by_student(columns: torch.Tensor, n_students: int) -> FloatArray:
    """Return (P, S q) columns as (S, P, q)."""
    return np.ascontiguousarray(np.moveaxis(columns.numpy().reshape(columns.shape[0], n_students, -1), 1, 0))
