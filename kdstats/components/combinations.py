r"""Intervals for linear combinations of mean squares, and for ratios of two of them.

A variance component of a factorial design is :math:`\sum_j c_j \theta_j`, :math:`\theta_j` the expectation of a
mean square :math:`S_j^2` with :math:`n_j` degrees of freedom, the coefficients of either sign. The modified
large-sample interval replaces the normal quantile times the standard error by distances that are exact in the
limits where one mean square dominates, and where two cancel: with :math:`P` the positive and :math:`N` the negative
terms, :math:`\hat\gamma-\sqrt{V_L}` with

.. math:: V_L = \sum_P G_q^2c_q^2S_q^4 + \sum_N H_r^2c_r^2S_r^4 + \sum_{P,N} G_{qr}|c_qc_r|S_q^2S_r^2
                + \sum_{q<t\in P} G^*_{qt}c_qc_tS_q^2S_t^2 .

For a sum it is a variant of the interval of [1]_; for a difference of two it excludes 0 exactly where an F test
rejects [2]_.

References
----------
.. [1] Graybill, F. A. & Wang, C.-M. (1980), J. Amer. Statist. Assoc. 75.
.. [2] Ting, N., Burdick, R. K., Graybill, F. A., Jeyaratnam, S. & Lu, T.-F. C. (1990), J. Statist.
   Comput. Simul. 35.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, fdtri

__all__ = ["combination_interval", "ratio_interval"]

FloatArray = NDArray[np.float64]

#: Halvings of a bracket: beyond the digits of a double.
N_BISECTIONS = 60
#: Doublings of a bracket before a bound is taken to be infinite.
N_DOUBLINGS = 40


@dataclass(frozen=True, eq=False, kw_only=True)
class _Distances:
    """Relative distances of one tail: G and H (J, ...), G_qr and G*_qt (J, J, ...)."""

    lower: FloatArray
    upper: FloatArray
    crossed: FloatArray
    joint: FloatArray


def combination_interval(
    coefficients: FloatArray, mean_squares: FloatArray, df: FloatArray, *, prob: float
) -> FloatArray:
    """Return the two-sided modified large-sample interval of a linear combination of expected mean squares.

    Parameters
    ----------
    coefficients : (J, ...) ndarray
        Of either sign.
    mean_squares : (J, ...) ndarray
        Independent, each a multiple of a chi-square over its degrees of freedom.
    df : (J, ...) ndarray
        Degrees of freedom, whole or effective. All three broadcast against each other.
    prob : float
        Coverage.

    Returns
    -------
    (..., 2) ndarray
        Lower and upper bound; the lower may be negative.
    """
    terms, df = _aligned(coefficients * mean_squares, df)
    distances = _distances(df, (1 - prob) / 2)
    return np.stack([_lower(terms, distances), -_lower(-terms, distances)], axis=-1)


def ratio_interval(
    numerator: FloatArray, denominator: FloatArray, mean_squares: FloatArray, df: FloatArray, *, prob: float
) -> FloatArray:
    """Return the interval of the ratio of two linear combinations of the same expected mean squares.

    Parameters
    ----------
    numerator, denominator : (J, ...) ndarray
        Coefficients; the combination in the denominator is positive.
    mean_squares, df, prob
        As in :func:`combination_interval`.

    Returns
    -------
    (..., 2) ndarray
        NaN where the denominator is estimated to be 0 or less.

    Notes
    -----
    Holds the ratios x for which the interval of numerator - x denominator contains 0. For the share of one
    source among two mean squares it is the exact F interval.
    """
    shape = np.broadcast_shapes(numerator.shape, denominator.shape, mean_squares.shape)
    over, under = (np.broadcast_to(c * mean_squares, shape) for c in (numerator, denominator))
    over, df = _aligned(over, df)
    distances = _distances(df, (1 - prob) / 2)
    total = under.sum(axis=0)
    known = total > 0
    start = np.divide(over.sum(axis=0), total, out=np.zeros_like(total), where=known)

    def below(x: FloatArray) -> FloatArray:
        return _lower(over - x * under, distances)

    def above(x: FloatArray) -> FloatArray:
        return _lower(x * under - over, distances)

    bounds = np.stack([_edge(below, start, -1.0), _edge(above, start, 1.0)], axis=-1)
    return np.where(known[..., None], bounds, np.nan)


def _aligned(terms: FloatArray, df: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Give the degrees of freedom the number of axes of the terms, and one number where all points have the same."""
    df = np.reshape(df, df.shape + (1,) * (terms.ndim - df.ndim))
    first = df[(slice(None), *(slice(0, 1),) * (df.ndim - 1))]
    return terms, first if (df == first).all() else df


def _edge(positive: Callable[[FloatArray], FloatArray], start: FloatArray, direction: float) -> FloatArray:
    """Return where, going from ``start``, a function that is not positive there becomes so."""
    step = np.full_like(start, direction)
    for _ in range(N_DOUBLINGS):
        reached = positive(start + step) > 0
        if reached.all():
            break
        step = np.where(reached, step, 2 * step)
    near, far = np.zeros_like(step), step
    for _ in range(N_BISECTIONS):
        middle = 0.5 * (near + far)
        beyond = positive(start + middle) > 0
        near, far = np.where(beyond, near, middle), np.where(beyond, middle, far)
    return np.where(reached, start + far, direction * np.inf)


def _distances(df: FloatArray, tail: float) -> _Distances:
    lower, upper = 1 - df / chdtri(df, tail), df / chdtri(df, 1 - tail) - 1
    n, size = df, df.shape[0]
    crossed = np.zeros((size, size, *df.shape[1:]))
    joint = np.zeros_like(crossed)
    for q in range(size):
        for t in range(size):
            if q == t:
                continue
            quantile = fdtri(n[q], n[t], 1 - tail)
            crossed[q, t] = ((quantile - 1) ** 2 - (lower[q] * quantile) ** 2 - upper[t] ** 2) / quantile
            both = n[q] + n[t]
            pooled = (1 - both / chdtri(both, tail)) ** 2 * both**2 / (n[q] * n[t])
            joint[q, t] = pooled - lower[q] ** 2 * n[q] / n[t] - lower[t] ** 2 * n[t] / n[q]
    return _Distances(lower=lower, upper=upper, crossed=crossed, joint=joint)


def _lower(terms: FloatArray, distances: _Distances) -> FloatArray:
    """Return the lower bound of the sum of the expectations of ``terms``, signed multiples of mean squares."""
    plus, minus = np.maximum(terms, 0.0), np.maximum(-terms, 0.0)
    square = ((distances.lower * plus) ** 2 + (distances.upper * minus) ** 2).sum(axis=0)
    others = np.maximum((terms > 0).sum(axis=0) - 1, 1)
    for q in range(terms.shape[0]):
        square += plus[q] * (distances.crossed[q] * minus).sum(axis=0)
        square += plus[q] * (distances.joint[q, q + 1 :] * plus[q + 1 :]).sum(axis=0) / others
    bound: FloatArray = terms.sum(axis=0) - np.sqrt(np.maximum(square, 0.0))
    return bound
