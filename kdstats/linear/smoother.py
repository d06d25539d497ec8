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
from typing import cast

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from kdstats.errors import RankDeficientError, invalid
from kdstats.linear.least_squares import Factorization, factorize
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import GradientDescent, LinearStudent

__all__ = [
    "Smoother",
    "Whitening",
    "as_full",
    "augment",
    "minimum_norm_free_intercept",
    "smoother",
    "working_whitening",
]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Whitening:
    r"""Multiplication of arrays over the inputs by :math:`V^{-1/2}`.

    Attributes
    ----------
    inverse_sd : (n,) ndarray or None
        For a diagonal V.
    lower : (n, n) ndarray or None
        Cholesky factor of a full V.
    mean_variance : float
        Mean diagonal of V.
    """

    inverse_sd: FloatArray | None = None
    lower: FloatArray | None = None
    mean_variance: float = 1.0

    @property
    def is_identity(self) -> bool:
        """Whether V is the identity."""
        return self.inverse_sd is None and self.lower is None

    def __call__(self, array: FloatArray) -> FloatArray:
        """Return the whitened array; its first dimension runs over the n inputs."""
        if self.inverse_sd is not None:
            return np.asarray(array * self.inverse_sd.reshape(-1, *(1,) * (array.ndim - 1)))
        if self.lower is not None:
            columns = array.reshape(array.shape[0], -1)
            return np.asarray(scipy.linalg.solve_triangular(self.lower, columns, lower=True)).reshape(array.shape)
        return array

    def covariance(self, covariance: FloatArray) -> FloatArray:
        """Return a whitened covariance, given as scalar, per input or full, in the fewest dimensions that hold it."""
        if self.is_identity:
            return covariance
        if covariance.ndim < 2 and self.inverse_sd is not None:
            return np.asarray(covariance * self.inverse_sd**2)
        return self(self(as_full(covariance, self._size)).T)

    @property
    def _size(self) -> int:
        return len(self.inverse_sd) if self.inverse_sd is not None else len(cast(FloatArray, self.lower))


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
    root : (P, r) ndarray
    basis : (n, r) ndarray
        Factors of the coefficient map, ``F = root @ basis.T``. For a student without penalty the
        basis is orthonormal and ``root @ root.T`` is the covariance of the coefficients for unit noise.
    initial_map : (P, P) ndarray or None
        P, from initial coefficients to final ones; None for exact students.
    factorization : Factorization or None
        Of the whitened inputs, for exact students without penalty.
    whiten : Whitening
        By the working covariance V.
    """

    raw_inputs: FloatArray
    inputs: FloatArray
    root: FloatArray
    initial_map: FloatArray | None
    make_basis: Callable[[], FloatArray]
    factorization: Factorization | None
    whiten: Whitening

    @property
    def mean_working_variance(self) -> float:
        """Mean diagonal of the working covariance V."""
        return self.whiten.mean_variance

    @cached_property
    def basis(self) -> FloatArray:
        """Right factor of the coefficient map, shape (n, r)."""
        return self.make_basis()

    @cached_property
    def coefficient_map(self) -> FloatArray:
        """F, from whitened labels to coefficients, shape (P, n)."""
        return np.asarray(self.root @ self.basis.T)

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

    def residuals(self, labels: FloatArray) -> FloatArray:
        """Whitened labels (n, ...) less their fit, from zero initial coefficients."""
        if self.factorization is not None:
            return self.factorization.residuals(labels)
        return np.asarray(labels - self.inputs @ self.coefficients(labels))


def as_full(covariance: FloatArray, n: int) -> FloatArray:
    """Return a covariance, given as scalar, per input or full, as an (n, n) matrix."""
    return covariance if covariance.ndim == 2 else np.diag(np.broadcast_to(covariance, (n,)))


def augment(X: FloatArray, student: LinearStudent) -> FloatArray:
    """Return X with a leading column of ones if the student has an intercept."""
    if not student.fit_intercept:
        return X
    return np.hstack([np.ones((X.shape[0], 1)), X])


def smoother(problem: DistillationProblem, *, penalty_scale: float = 1.0) -> Smoother:
    """Return the coefficient map of a problem's linear student at the training inputs.

    Parameters
    ----------
    problem : DistillationProblem
    penalty_scale : float, default 1.0
        Factor on the penalty, for students that see another number of rows than n.

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
    penalty = penalty_scale * student.penalty / (problem.design.n_responses if multi else 1)
    whiten = working_whitening(problem)
    raw = augment(problem.gaussian_teacher.X, student)
    inputs = whiten(raw)
    names = (("intercept",) if student.fit_intercept else ()) + (problem.gaussian_teacher.feature_names or ())
    factorization, initial_map = None, None
    if student.training is not None:
        root, basis, initial_map = _gradient_steps(
            inputs, penalty, student.training, fit_intercept=student.fit_intercept
        )
    elif penalty > 0.0:
        rows = _penalty_rows(inputs.shape[1], penalty, fit_intercept=student.fit_intercept)
        stacked = factorize(np.vstack([inputs, rows]), names=names)
        root, basis = stacked.root, np.ascontiguousarray(stacked.basis[: inputs.shape[0]])
    else:
        factorization = _factorize(inputs, names, student)
        root, basis = factorization.root, None
    return Smoother(
        raw_inputs=raw,
        inputs=inputs,
        root=root,
        initial_map=initial_map,
        make_basis=(lambda: basis) if basis is not None else (lambda: cast(Factorization, factorization).basis),
        factorization=factorization,
        whiten=whiten,
    )


def working_whitening(problem: DistillationProblem) -> Whitening:
    """Return the whitening by the student's working covariance V.

    Estimated weights tend to the inverse of the true variances, which stand in for them here.
    """
    student, teacher = problem.student, problem.gaussian_teacher
    assert isinstance(student, LinearStudent)
    if student.weights is not None:
        if student.weights_are_estimated:
            return _diagonal_whitening(teacher.variances, "weights='estimated'")
        return _diagonal_whitening(1.0 / np.asarray(student.weights, dtype=np.float64), "weights")
    if student.covariance is None:
        return Whitening()
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
    return Whitening(lower=lower, mean_variance=float(np.mean(np.diag(matrix))))


def _diagonal_whitening(variances: FloatArray, wish: str) -> Whitening:
    if (variances <= 0.0).any():
        where = int(np.argmin(variances))
        raise invalid("noise_variance", f"be greater than 0 at every input with {wish}", f"0 at index {where}")
    return Whitening(inverse_sd=1.0 / np.sqrt(variances), mean_variance=float(np.mean(variances)))


def _factorize(inputs: FloatArray, names: tuple[str, ...], student: LinearStudent) -> Factorization:
    if not student.minimum_norm or not student.fit_intercept:
        return factorize(inputs, names=names, minimum_norm=student.minimum_norm)
    try:
        return factorize(inputs, names=names)
    except RankDeficientError:
        return minimum_norm_free_intercept(inputs)


def minimum_norm_free_intercept(inputs: FloatArray) -> Factorization:
    """Minimise the norm of the slopes alone: fit them to centred inputs, then the intercept.

    The rank is that of the inputs as they came: centring large means leaves rounding that looks like a direction.
    """
    ones, slopes = inputs[:, 0], inputs[:, 1:]
    norms = np.linalg.norm(inputs, axis=0)
    rank = int(np.linalg.matrix_rank(inputs / np.where(norms > 0.0, norms, 1.0))) - 1
    shares = ones @ slopes / (ones @ ones)
    left, values, right = scipy.linalg.svd(slopes - np.outer(ones, shares), full_matrices=False)
    length = float(np.sqrt(ones @ ones))
    root = np.zeros((inputs.shape[1], rank + 1))
    root[0, 0] = 1.0 / length
    root[1:, 1:] = right[:rank].T / values[:rank]
    root[0, 1:] = -shares @ root[1:, 1:]
    basis: FloatArray = np.column_stack([ones / length, left[:, :rank]])
    condition = float(values[0] / values[rank - 1]) if rank else 1.0
    return Factorization(matrix=inputs, root=root, condition=condition, make_basis=lambda: basis)


def _penalty_rows(width: int, penalty: float, *, fit_intercept: bool) -> FloatArray:
    rows: FloatArray = np.sqrt(penalty) * np.eye(width)
    return rows[1:] if fit_intercept else rows


def _gradient_steps(
    inputs: FloatArray, penalty: float, training: GradientDescent, *, fit_intercept: bool
) -> tuple[FloatArray, FloatArray, FloatArray]:
    r"""Factors of F, and P, after T steps on the mean loss, from the singular values of the stacked inputs.

    With :math:`M = [X; \sqrt\lambda D] = USV'` the step is
    :math:`w \leftarrow w - (2\eta/n)(M'Mw - X'y)`, so direction i contracts by
    :math:`a_i = 1 - 2\eta s_i^2/n` and :math:`F = V\,\mathrm{diag}((1 - a_i^T)/s_i)\,U_X'`.
    """
    n, width = inputs.shape
    stacked = inputs
    if penalty > 0.0:
        stacked = np.vstack([inputs, _penalty_rows(width, penalty, fit_intercept=fit_intercept)])
    left, values, right = scipy.linalg.svd(stacked, full_matrices=False)
    shrink = 2.0 * training.learning_rate * values**2 / n
    if shrink[0] >= 2.0:
        raise invalid(
            "learning_rate",
            f"be less than {2.0 * training.learning_rate / shrink[0]:.4g} for these inputs, or the steps diverge",
            training.learning_rate,
        )
    learned = _learned_share(shrink, training.n_steps)
    gain = np.divide(learned, values, out=np.zeros_like(values), where=values > 0.0)
    initial_map = np.eye(width) - (right.T * learned) @ right
    return np.asarray(right.T * gain), np.ascontiguousarray(left[:n]), initial_map


def _learned_share(shrink: FloatArray, n_steps: int) -> FloatArray:
    """Return 1 - (1 - shrink)^T without cancellation for small shrink."""
    small = shrink < 0.5
    careful = -np.expm1(n_steps * np.log1p(-np.where(small, shrink, 0.0)))
    return np.asarray(np.where(small, careful, 1.0 - (1.0 - shrink) ** n_steps))
