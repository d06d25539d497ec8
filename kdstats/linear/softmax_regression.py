r"""Multinomial logistic regression: many students at once, each fitted to convergence.

The loss of a student with rows :math:`x_i`, labels :math:`y_i` (which sum to 1 over C classes) and weights
:math:`w_i` is :math:`\sum_i w_i\,[\log\sum_c e^{x_i'\beta_c} - \sum_c y_{ic}\,x_i'\beta_c] +
\tfrac12\sum_p \lambda_p\lVert\beta_{p\cdot}\rVert^2`. Adding a vector to all :math:`\beta_c` changes no
probability, and the penalised minimum sums to 0 over classes, so coefficients are sought as :math:`\beta = VQ'` with
orthonormal contrasts Q.

Newton's method serves every student of a chunk together. Its systems are solved by conjugate gradients, preconditioned
by the curvature at a common centre, so that a student costs products with X alone and no matrix of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

__all__ = ["SoftmaxFits", "SoftmaxRegression", "contrasts", "curvature", "obstacle", "spread_of_rows"]

FloatArray = NDArray[np.float64]

#: Newton steps after which a fit that still moves is called one without a finite minimum.
MOST_STEPS = 50
#: Largest change of a logit in the last step of a converged fit; the step itself leaves about its square.
LOGIT_TOLERANCE = 1e-7
#: Steps of conjugate gradients in one Newton step, at most.
MOST_INNER_STEPS = 250
#: Entries (rows, students, classes) that are handled at a time, and most students.
CHUNK, MOST_STUDENTS = 2_000_000, 64
#: Difference of logits beyond which a fit is looked at again.
LARGE_LOGITS = 25.0
#: Size of the linear program (unknowns times conditions) up to which separation is proved by one.
MOST_PROGRAM = 4_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class SoftmaxFits:
    """Fits of S students.

    Attributes
    ----------
    coefficients : (S, P, C) ndarray
        They sum to 0 over classes.
    converged : (S,) ndarray of bool
        False where steps had not become small: no finite minimum, most often (see :func:`obstacle`).
    """

    coefficients: FloatArray
    converged: NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class SoftmaxRegression:
    """What students share: rows, penalties, and a centre near which their fits lie.

    Attributes
    ----------
    inputs : (n, P) ndarray
        Rows, with the column of ones where an intercept is fitted.
    penalties : (P,) ndarray
        Penalty of each row of coefficients.
    row_weight : float
        Mean weight of a row: 1, or m/n where m of n rows are drawn.
    centre_labels : (n, C) ndarray
        Labels that the centre is fitted to.
    """

    inputs: FloatArray
    penalties: FloatArray
    centre_labels: FloatArray
    row_weight: float = 1.0

    @property
    def n_classes(self) -> int:
        """Number of classes, C."""
        return int(self.centre_labels.shape[1])

    @cached_property
    def contrasts(self) -> FloatArray:
        """Orthonormal contrasts of the classes, shape (C, C-1)."""
        return contrasts(self.n_classes)

    @cached_property
    def _centre(self) -> tuple[FloatArray, FloatArray | None]:
        return self._fit_centre()

    @property
    def centre(self) -> FloatArray:
        """Coefficients of the centre in contrasts, shape (P, C-1)."""
        return self._centre[0]

    @property
    def has_centre(self) -> bool:
        """Whether the labels of the centre have a finite fit."""
        return self._centre[1] is not None

    @property
    def factor(self) -> FloatArray:
        """Lower Cholesky factor of the curvature at the centre, by coefficient and contrast."""
        factor = self._centre[1]
        assert factor is not None
        return factor

    def fit(self, labels: FloatArray, row_weights: FloatArray | None = None) -> SoftmaxFits:
        """Fit S students.

        Parameters
        ----------
        labels : (S, n, C) ndarray
        row_weights : (S, n) ndarray, optional
            Default: ``row_weight`` for every row.
        """
        n_students, n, n_classes = labels.shape
        most = max(1, min(MOST_STUDENTS, CHUNK // (n * n_classes)))
        size = 1 << (most.bit_length() - 1)
        coefficients = np.empty((n_students, self.inputs.shape[1], n_classes))
        converged = np.empty(n_students, dtype=bool)
        for first in range(0, n_students, size):
            filled = np.minimum(np.arange(first, first + size), n_students - 1)  # the same sizes for any S
            weights = None if row_weights is None else row_weights[filled].T[:, :, None]
            found, small = _Newton(self, np.moveaxis(labels[filled], 0, 1), weights).run()
            small &= ~self._run_away(labels[filled], row_weights if row_weights is None else row_weights[filled], found)
            part = slice(first, min(first + size, n_students))
            coefficients[part] = np.moveaxis(found @ self.contrasts.T, 1, 0)[: part.stop - first]
            converged[part] = small[: part.stop - first]
        return SoftmaxFits(coefficients=coefficients, converged=converged)

    def _run_away(self, labels: FloatArray, row_weights: FloatArray | None, found: FloatArray) -> NDArray[np.bool_]:
        """Whether logits grew so large that curvature is lost in rounding, and the labels have no finite fit."""
        away = np.zeros(len(labels), dtype=bool)
        if self.penalties.all():
            return away
        for student in range(len(labels)):
            logits = self.inputs @ found[:, student] @ self.contrasts.T
            if np.ptp(logits, axis=1).max() > LARGE_LOGITS:
                seen = labels[student] if row_weights is None else labels[student] * (row_weights[student] > 0)[:, None]
                own = np.where(seen > 0.0, logits, -np.inf).max(axis=1)
                told_apart = (own[seen.any(axis=1)] == logits.max(axis=1)[seen.any(axis=1)]).all()
                away[student] = bool(told_apart) if self._is_large(seen) else obstacle(self, seen) is not None
        return away

    def _is_large(self, labels: FloatArray) -> bool:
        """Whether a linear program over these labels would be too large."""
        width, n_classes = self.inputs.shape[1], labels.shape[1]
        return bool(width * n_classes * (labels > 0.0).sum() * (n_classes - 1) > MOST_PROGRAM)

    def _fit_centre(self) -> tuple[FloatArray, FloatArray | None]:
        """Newton's method from 0 with the whole curvature; no factor if it does not converge."""
        found = np.zeros((self.inputs.shape[1], self.n_classes - 1))
        for _ in range(MOST_STEPS):
            logits = self.inputs @ found @ self.contrasts.T
            p = softmax(logits, axis=1)
            gradient = self.row_weight * (self.inputs.T @ (p - self.centre_labels) @ self.contrasts)
            gradient += self.penalties[:, None] * found
            try:
                factor = scipy.linalg.cholesky(curvature(self, p), lower=True)
            except np.linalg.LinAlgError:
                return found, None
            step = -scipy.linalg.cho_solve((factor, True), gradient.ravel()).reshape(found.shape)
            moved = self.inputs @ step @ self.contrasts.T
            if np.abs(moved).max() <= LOGIT_TOLERANCE:
                return found + step, factor
            found = found + self._length(found, step, logits, moved, gradient) * step
        return found, None

    def _length(
        self, found: FloatArray, step: FloatArray, logits: FloatArray, moved: FloatArray, gradient: FloatArray
    ) -> float:
        """Halve a step until the loss falls enough."""

        def loss(length: float) -> float:
            at, coefficients = logits + length * moved, found + length * step
            fit = float((logsumexp(at, axis=1) - (self.centre_labels * at).sum(axis=1)).sum())
            return self.row_weight * fit + 0.5 * float((self.penalties[:, None] * coefficients**2).sum())

        start, slope, length = loss(0.0), float((gradient * step).sum()), 1.0
        while length > 1e-10 and loss(length) > start + 1e-4 * length * slope + 1e-12 * abs(start):
            length *= 0.5
        return length


class _Newton:
    """Newton's method for one chunk of students, in coordinates in which the centre has curvature 1."""

    def __init__(self, model: SoftmaxRegression, labels: FloatArray, weights: FloatArray | None) -> None:
        self.model, self.labels = model, np.ascontiguousarray(labels)  # (n, S, C)
        self.weights = np.full((1, 1, 1), model.row_weight) if weights is None else weights  # (n, S, 1)
        self.n_students = labels.shape[1]

    def run(self) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Return coefficients in contrasts (P, S, C-1) and whether each student converged."""
        model = self.model
        found = np.repeat(model.centre[:, None], self.n_students, axis=1)
        converged = np.zeros(self.n_students, dtype=bool)
        logits = self._at_rows(found)
        for _ in range(MOST_STEPS):
            p = softmax(logits, axis=2)
            gradient = self._at_coefficients(self.weights * (p - self.labels), found)
            step = self._unwhitened(self._solve(p, -self._whitened(gradient), converged))
            moved = self._at_rows(step)
            length = self._lengths(found, step, logits, moved, gradient)
            length[converged] = 0.0
            found += length[None, :, None] * step
            logits += length[None, :, None] * moved
            converged |= np.abs(moved).max(axis=(0, 2)) <= LOGIT_TOLERANCE
            if converged.all():
                break
        return found, converged

    def _at_rows(self, coefficients: FloatArray) -> FloatArray:
        """Logits (n, S, C) of coefficients (P, S, C-1)."""
        wide = coefficients @ self.model.contrasts.T
        return np.asarray((self.model.inputs @ wide.reshape(len(wide), -1)).reshape(-1, *wide.shape[1:]))

    def _at_coefficients(self, pull: FloatArray, coefficients: FloatArray) -> FloatArray:
        """Gradient (P, S, C-1) of a pull on the logits (n, S, C) and of the penalty on coefficients."""
        wide = (self.model.inputs.T @ pull.reshape(len(pull), -1)).reshape(-1, *pull.shape[1:])
        return np.asarray(wide @ self.model.contrasts + self.model.penalties[:, None, None] * coefficients)

    def _whitened(self, gradient: FloatArray) -> FloatArray:
        flat = np.moveaxis(gradient, 1, 2).reshape(-1, self.n_students)
        return np.asarray(scipy.linalg.solve_triangular(self.model.factor, flat, lower=True, check_finite=False))

    def _unwhitened(self, flat: FloatArray) -> FloatArray:
        back = scipy.linalg.solve_triangular(self.model.factor, flat, lower=True, trans="T", check_finite=False)
        return np.asarray(np.moveaxis(back.reshape(*self.model.centre.shape, self.n_students), 2, 1))

    def _solve(self, p: FloatArray, right: FloatArray, skip: NDArray[np.bool_]) -> FloatArray:
        """Solve each student's whitened Newton system by conjugate gradients, (d, S)."""
        solution, residual = np.zeros_like(right), right.copy()
        direction, square = residual.copy(), (residual**2).sum(axis=0)
        goal = square * np.minimum(0.1, np.sqrt(square)) ** 2
        active = ~skip & (square > 0.0)
        for _ in range(MOST_INNER_STEPS):
            if not active.any():
                break
            moved = self._unwhitened(direction)
            logits = self._at_rows(moved)
            pull = self.weights * p * (logits - (p * logits).sum(axis=2, keepdims=True))
            product = self._whitened(self._at_coefficients(pull, moved))
            bend = (direction * product).sum(axis=0)
            active &= bend > 0.0
            size = np.where(active, square / np.where(bend > 0.0, bend, 1.0), 0.0)
            solution += size * direction
            residual -= size * product
            new = (residual**2).sum(axis=0)
            direction = residual + np.where(active, new / np.where(square > 0.0, square, 1.0), 0.0) * direction
            square = np.where(active, new, square)
            active &= square > goal
        return solution

    def _lengths(
        self, found: FloatArray, step: FloatArray, logits: FloatArray, moved: FloatArray, gradient: FloatArray
    ) -> FloatArray:
        """Halve each student's step until its loss falls enough, shape (S,)."""
        slope, penalties = (gradient * step).sum(axis=(0, 2)), self.model.penalties[:, None, None]

        def loss(length: FloatArray) -> FloatArray:
            at, coefficients = logits + length[None, :, None] * moved, found + length[None, :, None] * step
            by_row = logsumexp(at, axis=2) - (self.labels * at).sum(axis=2)
            penalty = 0.5 * (penalties * coefficients**2).sum(axis=(0, 2))
            return np.asarray((self.weights[..., 0] * by_row).sum(axis=0) + penalty)

        length = np.ones(self.n_students)
        start = loss(np.zeros(self.n_students))
        for _ in range(30):
            high = loss(length) > start + 1e-4 * length * slope + 1e-12 * np.abs(start)
            if not high.any():
                break
            length[high] *= 0.5
        return length


def contrasts(n_classes: int) -> FloatArray:
    """Return orthonormal columns that sum to 0, shape (C, C-1)."""
    return np.asarray(scipy.linalg.helmert(n_classes).T)


def curvature(model: SoftmaxRegression, p: FloatArray) -> FloatArray:
    """Return the second derivative of the loss where rows have probabilities p (n, C), by coefficient and contrast."""
    spread = np.einsum("nc,cr,cs->nrs", p, model.contrasts, model.contrasts, optimize=True)
    mean = p @ model.contrasts
    blocks = model.row_weight * spread_of_rows(model.inputs, spread - mean[:, :, None] * mean[:, None, :])
    blocks[np.diag_indices(len(blocks))] += np.repeat(model.penalties, model.contrasts.shape[1])
    return blocks


def spread_of_rows(inputs: FloatArray, blocks: FloatArray) -> FloatArray:
    """Return the sum over rows of x x' times a symmetric block (n, R, R), shape (P R, P R)."""
    width, n_contrasts = inputs.shape[1], blocks.shape[1]
    total = np.empty((width, n_contrasts, width, n_contrasts))
    for r in range(n_contrasts):
        for s in range(r + 1):
            total[:, r, :, s] = (inputs * blocks[:, r, s, None]).T @ inputs
            total[:, s, :, r] = total[:, r, :, s]
    return total.reshape(width * n_contrasts, -1)


def obstacle(model: SoftmaxRegression, labels: FloatArray) -> str | None:
    """Say why the labels (n, C) have no finite fit, or None if nothing is found.

    A class that no label gives has an unpenalised intercept without bound. Without a penalty on the others, so have
    classes that a linear rule tells apart; a linear program of Albert and Anderson's (1984) conditions shows it.
    """
    given = labels > 0.0
    free = model.penalties == 0.0
    if not free.any():
        return None
    missing = np.flatnonzero(~given.any(axis=0))
    if missing.size:
        return f"no label gives class {missing[0]}"
    if not free.all():
        return None
    if model._is_large(labels):
        return None
    width, n_classes = model.inputs.shape[1], labels.shape[1]
    row, kept = np.nonzero(given)
    rows = []
    for shift in range(1, n_classes):
        block = np.zeros((row.size, width, n_classes))
        block[np.arange(row.size), :, kept] = model.inputs[row]
        block[np.arange(row.size), :, (kept + shift) % n_classes] = -model.inputs[row]
        rows.append(block.reshape(row.size, -1))
    conditions = np.vstack(rows)
    from scipy.optimize import linprog

    answer = linprog(-conditions.sum(axis=0), A_ub=-conditions, b_ub=np.zeros(len(conditions)), bounds=(-1.0, 1.0))
    return "a linear rule separates the classes" if answer.status == 0 and -answer.fun > 1e-7 else None
