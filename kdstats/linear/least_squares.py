r"""Least squares that keeps its digits.

Columns are scaled to unit length, factorised by QR with column pivoting, and the solution is
refined once with the residual of the first. Standard errors come from :math:`R^{-1}`, never from
:math:`(X'X)^{-1}`. Where columns are nearly dependent, :math:`R^{-1}` is corrected by the departure of
:math:`XR^{-1}`, computed in twice the working precision, from orthonormal columns; what is left is the
rounding of X itself. Against the certified values of the NIST Statistical Reference Datasets this
keeps several digits more than normal equations or an unscaled pseudo-inverse.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.linalg import lapack

from kdstats.errors import PrecisionWarning, RankDeficientError

__all__ = ["Factorization", "factorize"]

FloatArray = NDArray[np.float64]

EPSILON = float(np.finfo(np.float64).eps)
#: Condition number of the scaled columns beyond which a warning tells the digits to expect.
CONDITION_WARNING = 1e8
#: Condition number of the scaled columns from which the factors are corrected.
CONDITION_CORRECTION = 1e4
#: Splits a double into two halves whose products are exact (Veltkamp).
SPLITTER = 134217729.0
#: Lengths whose squares neither overflow nor lose digits to underflow lie between its inverse and it.
SAFE_LENGTH = 1e140


@dataclass(frozen=True, eq=False, kw_only=True)
class Factorization:
    r"""Scaled, pivoted QR of a matrix M of full column rank, or its minimum-norm counterpart.

    Attributes
    ----------
    matrix : (n, P) ndarray
        M.
    root : (P, r) ndarray
        G with :math:`GG' = (M'M)^{+}`; the variance of :math:`a'\hat\beta` for unit noise is
        :math:`\lVert G'a \rVert^2`.
    condition : float
        Condition number of the scaled columns (an estimate from the diagonal of R).
    """

    matrix: FloatArray
    root: FloatArray
    condition: float
    make_basis: Callable[[], FloatArray]

    @property
    def rank(self) -> int:
        """Numerical rank, r."""
        return int(self.root.shape[1])

    @cached_property
    def basis(self) -> FloatArray:
        """Orthonormal basis Q of the column space, shape (n, r): the pseudo-inverse is ``root @ basis.T``."""
        return self.make_basis()

    def solve(self, rhs: FloatArray) -> FloatArray:
        """Return least-squares coefficients of each column of ``rhs``, refined once."""
        first = self.root @ (self.basis.T @ rhs)
        return np.asarray(first + self.root @ (self.basis.T @ (rhs - self.matrix @ first)))

    def residuals(self, rhs: FloatArray) -> FloatArray:
        """Return what is left of each column of ``rhs`` off the column space, projected twice.

        It never passes through coefficients, whose rounding would show in small residuals.
        """
        left = rhs - self.basis @ (self.basis.T @ rhs)
        return np.asarray(left - self.basis @ (self.basis.T @ left))


def factorize(matrix: FloatArray, *, names: Sequence[str], minimum_norm: bool = False) -> Factorization:
    """Factorise a design matrix.

    Parameters
    ----------
    matrix : (n, P) ndarray
        Canonical float64 input.
    names : sequence of str
        Column names, for messages.
    minimum_norm : bool, default False
        Accept a rank-deficient matrix and use its pseudo-inverse.

    Returns
    -------
    Factorization

    Raises
    ------
    RankDeficientError
        If the columns are linearly dependent to working precision and ``minimum_norm`` is False.
        The message names the dependent columns and what they depend on.

    Warns
    -----
    PrecisionWarning
        If the scaled columns are so close to dependent that fewer than 8 digits are safe.
    """
    n, width = matrix.shape
    scale = _column_lengths(matrix)
    packed, pivots, reflectors, _, _ = lapack.dgeqp3(np.divide(matrix, scale, order="F"), overwrite_a=1)
    order = pivots - 1
    diagonal = np.abs(packed.diagonal())
    tolerance = max(n, width) * EPSILON * diagonal[0]
    rank = int((diagonal > tolerance).sum())
    if rank < width:
        if minimum_norm:
            return _minimum_norm(matrix)
        raise RankDeficientError(_dependence(packed, order, rank, names, n))
    condition = float(diagonal[0] / diagonal[-1])
    if condition > CONDITION_WARNING:
        digits = max(0, int(15.9 - np.log10(condition)))
        warnings.warn(
            f"the columns of X are nearly dependent (scaled condition number {condition:.1e}): "
            f"expect about {digits} correct digits",
            PrecisionWarning,
            stacklevel=2,
        )
    root = np.empty((width, width))
    root[order] = lapack.dtrtrs(packed[:width], np.eye(width), lower=0, overwrite_b=1)[0]
    root /= scale[:, None]
    if condition > CONDITION_CORRECTION:
        return _corrected(matrix, root, scale, condition)
    return Factorization(
        matrix=matrix,
        root=root,
        condition=condition,
        make_basis=lambda: np.ascontiguousarray(lapack.dorgqr(packed, reflectors)[0]),
    )


def _column_lengths(matrix: FloatArray) -> FloatArray:
    """Euclidean length of each column, 1 for a column of zeros."""
    with np.errstate(over="ignore", under="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->j", matrix, matrix))
    if not ((lengths < SAFE_LENGTH) & (lengths > 1.0 / SAFE_LENGTH)).all():
        largest = np.abs(matrix).max(axis=0)
        largest[largest == 0.0] = 1.0
        lengths = np.minimum(largest * np.sqrt(((matrix / largest) ** 2).sum(axis=0)), np.finfo(float).max)
        lengths[lengths == 0.0] = 1.0
    return np.asarray(lengths)


def _corrected(matrix: FloatArray, root: FloatArray, scale: FloatArray, condition: float) -> Factorization:
    r"""Return factors made consistent: with :math:`Z = MG` and :math:`Z'Z = LL'`, :math:`GL^{-T}` and :math:`ZL^{-T}`.

    Then :math:`GL^{-T}L^{-1}G' = (M'M)^{-1}` whatever the rounding of G, as long as Z is right to the last bit.
    """
    powers = np.exp2(np.round(np.log2(scale)))
    nearly = _product(matrix / powers, root * powers[:, None])
    lower = np.linalg.cholesky(nearly.T @ nearly)
    root = scipy.linalg.solve_triangular(lower, root.T, lower=True).T
    return Factorization(
        matrix=matrix,
        root=root,
        condition=condition,
        make_basis=lambda: np.ascontiguousarray(scipy.linalg.solve_triangular(lower, nearly.T, lower=True).T),
    )


def _product(left: FloatArray, right: FloatArray) -> FloatArray:
    """Return ``left @ right`` as if computed in twice the working precision (Ogita, Rump & Oishi 2005)."""
    total = np.zeros((left.shape[0], right.shape[1]))
    lost = np.zeros_like(total)
    left_high, left_low = _halves(left)
    right_high, right_low = _halves(right)
    for j in range(left.shape[1]):
        term = np.multiply.outer(left[:, j], right[j])
        lost += (
            (np.multiply.outer(left_high[:, j], right_high[j]) - term)
            + np.multiply.outer(left_high[:, j], right_low[j])
            + np.multiply.outer(left_low[:, j], right_high[j])
        ) + np.multiply.outer(left_low[:, j], right_low[j])
        new = total + term
        part = new - total
        lost += (total - (new - part)) + (term - part)
        total = new
    return np.asarray(total + lost)


def _halves(array: FloatArray) -> tuple[FloatArray, FloatArray]:
    shifted = SPLITTER * array
    high = shifted - (shifted - array)
    return high, array - high


def _minimum_norm(matrix: FloatArray) -> Factorization:
    left, values, right = scipy.linalg.svd(matrix, full_matrices=False)
    keep = values > max(matrix.shape) * EPSILON * values[0] if values.size else []
    return Factorization(
        matrix=matrix,
        root=np.ascontiguousarray(right[keep].T / values[keep]),
        condition=float(values[keep][0] / values[keep][-1]) if np.any(keep) else 1.0,
        make_basis=lambda: np.ascontiguousarray(left[:, keep]),
    )


def _dependence(packed: FloatArray, order: NDArray[np.int64], rank: int, names: Sequence[str], n: int) -> str:
    """Say which columns depend on which, from the triangular factor."""
    width = len(names)
    if n < width:
        return (
            f"`X` must have at least as many rows as coefficients for a student without penalty; got {n} rows for "
            f"{width} coefficients (set `penalty`, or `minimum_norm=True`)"
        )
    upper = np.triu(packed[:rank, :])
    weights = scipy.linalg.solve_triangular(upper[:, :rank], upper[:, rank:]) if rank else np.zeros((0, width))
    found = []
    for column, combination in zip(order[rank:], weights.T, strict=True):
        partners = [names[order[i]] for i in np.flatnonzero(np.abs(combination) > 1e-8)]
        found.append(f"{names[column]!r} ({_relation(names[column], partners)})")
    return (
        f"`X` must have linearly independent columns for a student without penalty; got {', '.join(found[:5])}"
        f"{' and others' if len(found) > 5 else ''} (drop columns, set `penalty`, or `minimum_norm=True`)"
    )


def _relation(name: str, partners: Sequence[str]) -> str:
    if not partners:
        return "all zero"
    if list(partners) == ["intercept"] or (name == "intercept" and len(partners) == 1):
        constant = partners[0] if name == "intercept" else name
        return f"{constant!r} is constant, as the intercept is"
    return (
        f"a combination of {', '.join(repr(partner) for partner in partners[:4])}{'...' if len(partners) > 4 else ''}"
    )
