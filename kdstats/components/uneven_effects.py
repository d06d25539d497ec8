r"""Degrees of freedom of mean squares of crossed sources whose effects are not independent Gaussian draws.

Effects of trained students are functions of draws, such as products :math:`u_iv_j`. Two things then make a mean square
vary more than its chi-square law says:

* *Its own levels.* Where :math:`u_i` is large all cells of an interaction at level i are. The squares of the estimated
  effects are themselves a crossed table, whose mean has the variance :math:`\sum_T\sigma_T^2/n_T`, T running over
  its terms with :math:`n_T` levels: degrees of freedom :math:`2E^2/\mathrm{Var}`.
* *Levels of another source.* Effects of a averaged over L levels of b are :math:`a_i(1+c\bar b)`: one draw of
  :math:`\bar b` moves them all. Leaving out one level of b at a time (jackknife) shows it. Were effects and their
  interaction g with b independent, the mean Q of squared effects on :math:`\nu` degrees of freedom would vary
  relatively by :math:`4GL/(Q\nu(L-1)^2)` in that jackknife, G the mean square of g, and this is in the chi-square law
  already; what is beyond it, and beyond chance, is added to :math:`2/\nu`.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

__all__ = ["NO_ERROR", "df_of_mean_variance", "term_effects", "uneven_df"]

FloatArray = NDArray[np.float64]

#: Degrees of freedom that stand for a variance without error.
NO_ERROR = 1e9
#: Share of its chi-square degrees of freedom below which a mean square takes those that its effects show.
FAR_FEWER = 1 / 2
#: Chance of Gaussian effects to vary with the levels of another source as much as is taken for more than chance.
CHANCE = 0.1


def term_effects(table: FloatArray, axes: tuple[int, ...], *, rounding: FloatArray | float = 0.0) -> FloatArray:
    """Return the estimated effects of one term, with one level of every other source.

    Parameters
    ----------
    table : (L_1, ..., L_k, P) ndarray
        Means of the students that cross all levels of k sources.
    axes : tuple of int
        Sources of the term.
    rounding : float or (P,) ndarray, default 0
        Size up to which an effect is rounding of the numbers given, and 0.
    """
    others = tuple(axis for axis in range(table.ndim - 1) if axis not in axes)
    effects = _centred(table.mean(axis=others, keepdims=True), axes)
    return np.where(np.abs(effects) > rounding, effects, 0.0)


def uneven_df(
    table: FloatArray, axes: tuple[int, ...], *, df: float, average_df: float, rounding: FloatArray | float = 0.0
) -> tuple[FloatArray, float]:
    """Return the degrees of freedom of the mean square of one term, in each column and of its average over columns.

    Parameters
    ----------
    table, axes, rounding
        As in :func:`term_effects`.
    df, average_df : float
        Degrees of freedom for independent Gaussian effects; those returned are never more.
    """
    others = [axis for axis in range(table.ndim - 1) if axis not in axes]
    squares = term_effects(table, axes, rounding=rounding) ** 2
    size = squares.mean(axis=tuple(range(table.ndim - 1)))
    found, average = np.full(size.shape, float(df)), float(average_df)
    if len(axes) > 1:
        own = squares.reshape(*(table.shape[axis] for axis in axes), -1)
        found = _if_far_fewer(found, df_of_mean_variance(own))
        average = float(_if_far_fewer(average, df_of_mean_variance(own.mean(axis=-1, keepdims=True))[0]))
    excess, excess_of_average = np.zeros_like(size), 0.0
    for axis in others:
        beyond = _excess(table, axes, axis, size, df=df, average_df=average_df)
        excess, excess_of_average = excess + beyond[0], excess_of_average + beyond[1]
    averaged = average / (1.0 + 0.5 * average * excess_of_average)
    return np.maximum(found / (1.0 + 0.5 * found * excess), 1.0), max(averaged, 1.0)


def df_of_mean_variance(variances: FloatArray) -> FloatArray:
    """Return the degrees of freedom 2 E^2 / Var of the mean of variances (L_1, ..., L_k, P) of crossed students.

    Components of the variances below 0 are taken for 0. The squared mean is too large by 2 / df on average, so that
    2 is taken off.
    """
    n_axes = variances.ndim - 1
    sizes, mean = np.array(variances.shape[:-1]), variances.mean(axis=tuple(range(n_axes)))
    terms = [axes for order in range(1, n_axes + 1) for axes in itertools.combinations(range(n_axes), order)]
    components: dict[tuple[int, ...], FloatArray] = {}
    spread = np.zeros_like(mean)
    for axes in reversed(terms):
        levels = int(np.prod(sizes[list(axes)]))
        averaged = variances.mean(axis=tuple(axis for axis in range(n_axes) if axis not in axes), keepdims=True)
        effects = _centred(averaged, axes)
        square = (effects**2).reshape(levels, -1).sum(axis=0) / np.prod(sizes[list(axes)] - 1)
        finer = [other for other in components if set(axes) < set(other)]
        components[axes] = square - sum(
            (components[other] * levels / np.prod(sizes[list(other)]) for other in finer), np.zeros_like(mean)
        )
        spread += np.maximum(components[axes], 0.0) / levels
    df = np.divide(2.0 * mean**2, spread, out=np.full(mean.shape, NO_ERROR), where=spread > 0.0)
    return np.asarray(np.clip(df - 2.0, 1.0, NO_ERROR))


def _excess(
    table: FloatArray, axes: tuple[int, ...], axis: int, size: FloatArray, *, df: float, average_df: float
) -> tuple[FloatArray, float]:
    """Return the relative variance that levels of another source add to a mean square, and to its average."""
    inside = (*axes, axis)
    outside = tuple(i for i in range(table.ndim - 1) if i not in inside)
    both = table.mean(axis=outside, keepdims=True)
    n = both.shape[axis]
    left = _centred((n * both.mean(axis=axis, keepdims=True) - both) / (n - 1.0), axes)
    squares = (left**2).mean(axis=tuple(i for i in range(table.ndim - 1) if i != axis))
    shared = (_centred(both, inside) ** 2).mean(axis=tuple(range(table.ndim - 1)))
    return (
        _beyond(squares, size, shared, n=n, df=df),
        float(_beyond(squares.mean(axis=1), size.mean(), shared.mean(), n=n, df=average_df)),
    )


def _beyond(squares: FloatArray, size: FloatArray, shared: FloatArray, *, n: int, df: float) -> FloatArray:
    jackknife = (n - 1.0) * squares.var(axis=0)
    expected = 4.0 * shared * size * n / (df * (n - 1.0) ** 2)
    beyond = (np.asarray(size) > 0.0) & (jackknife > expected * chdtri(n - 1.0, CHANCE) / (n - 1.0))
    return np.asarray(np.divide(jackknife - expected, np.square(size), out=np.zeros_like(jackknife), where=beyond))


def _if_far_fewer(df: Any, own: FloatArray) -> FloatArray:
    return np.where(own < FAR_FEWER * np.asarray(df), own, df)


def _centred(values: FloatArray, axes: tuple[int, ...]) -> FloatArray:
    for axis in axes:
        values = values - values.mean(axis=axis, keepdims=True)
    return values
