r"""Means over students and over inputs that are both samples: standard errors and intervals that count both.

A statistic is written as the mean of a table of contributions :math:`P_{si}` of student s at input i. For the mean of
one number per student and input these are the numbers; for a mean over pairs of different students they are jackknife
pseudo-values over students, input by input. With mean squares of students :math:`M_S`, inputs :math:`M_I` and the rest
:math:`M_R`, the variance of the mean is estimated by

.. math:: V = \frac{M_I + \max(M_S - M_R, 0)}{Sn}, \qquad
          \nu = \frac{(M_I + \max(M_S - M_R, 0))^2}{M_I^2/(n-1) + M_S^2/(S-1)} .

:math:`M_I/(Sn)` is unbiased for the variance given the students, whatever students share with each other at an input;
the second part adds what another set of students would change. Holding it at 0 from below, and a jackknife for
pairs, both err to the cautious side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["CrossedMean", "crossed_contrast", "crossed_mean", "mean_interval", "pair_contributions", "rate_interval"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class CrossedMean:
    """Mean of a table of contributions, with its variance and the degrees of freedom of that.

    Attributes
    ----------
    estimate, standard_error, df : float
    """

    estimate: float
    standard_error: float
    df: float


def crossed_mean(contributions: FloatArray) -> CrossedMean:
    """Return the mean of a complete (S, n) table of contributions; inputs alone count where S is 1.

    NaN anywhere makes all three NaN; one input leaves the standard error NaN.
    """
    inputs, students, df_inputs, df_students = _parts(contributions)
    total = inputs + students[0]
    spread = _squared(inputs, df_inputs) + _squared(students[1], df_students)
    df = total**2 / spread if spread > 0 else df_inputs
    return CrossedMean(
        estimate=float(contributions.mean()),
        standard_error=float(np.sqrt(total)),
        df=float(np.maximum(df, 1.0)) if np.isfinite(total) else float("nan"),
    )


def crossed_contrast(one: FloatArray, other: FloatArray) -> CrossedMean:
    """Return the difference of means of two tables of the same inputs (columns) and different students (rows)."""
    paired = one.mean(axis=0) - other.mean(axis=0)
    n = len(paired)
    inputs = float(paired.var(ddof=1) / n) if n > 1 else float("nan")
    total, spread = inputs, _squared(inputs, n - 1)
    for table in (one, other):
        _, students, _, df = _parts(table)
        total += students[0]
        spread += _squared(students[1], df)
    df = total**2 / spread if spread > 0 else float(n - 1)
    return CrossedMean(
        estimate=float(paired.mean()), standard_error=float(np.sqrt(total)), df=float(np.maximum(df, 1.0))
    )


def pair_contributions(vectors: FloatArray) -> FloatArray:
    r"""Return contributions to the mean product of two different students' vectors, input by input.

    Parameters
    ----------
    vectors : (S, n, d) ndarray
        At least 2 students.

    Returns
    -------
    (S, n) ndarray
        Jackknife pseudo-values of :math:`\sum_{s\ne t} e_s\cdot e_t / (S(S-1))`, unbiased for
        :math:`\|E\,e_s\|^2`; their mean over students is that value itself. Of two students none can be left
        out: both rows then hold the value.
    """
    n_students = len(vectors)
    squares = np.einsum("sid,sid->si", vectors, vectors)
    whole = vectors.sum(axis=0)
    products = np.einsum("sid,id->si", vectors, whole)
    length, own = np.einsum("id,id->i", whole, whole), squares.sum(axis=0)
    value = (length - own) / (n_students * (n_students - 1))
    if n_students == 2:
        return np.broadcast_to(value, squares.shape).copy()
    left = (length - 2 * products + 2 * squares - own) / ((n_students - 1) * (n_students - 2))
    return np.asarray(n_students * value - (n_students - 1) * left)


def mean_interval(mean: CrossedMean, prob: float) -> tuple[float, float]:
    """Return the t interval of a mean."""
    half = stats.t.ppf(0.5 + prob / 2, mean.df) * mean.standard_error
    return float(mean.estimate - half), float(mean.estimate + half)


def rate_interval(mean: CrossedMean, prob: float, *, n_inputs: int) -> tuple[float, float]:
    r"""Return the interval of a rate in [0, 1] that is averaged over students and inputs.

    Notes
    -----
    Clopper-Pearson with the effective sample size :math:`n^* = \hat p(1-\hat p)/V`, shrunk by
    :math:`(t_{n-1}/t_\nu)^2` for the degrees of freedom of V [1]_. A rate of exactly 0 or 1 has no V; it counts as
    that of ``n_inputs`` independent answers, one for each input.

    References
    ----------
    .. [1] Korn, E. L. & Graubard, B. I. (1998), Confidence intervals for proportions with small expected number of
       positive counts estimated from survey data, *Survey Methodology* 24, 193-201.
    """
    rate, tail = mean.estimate, 0.5 + prob / 2
    if not np.isfinite(rate):
        return float("nan"), float("nan")
    if mean.standard_error > 0 and 0 < rate < 1:
        size = rate * (1 - rate) / mean.standard_error**2
        size *= (stats.norm.ppf(tail) / stats.t.ppf(tail, mean.df)) ** 2
    else:
        size = float(n_inputs)
    hits = rate * size
    lower = stats.beta.ppf(1 - tail, hits, size - hits + 1) if hits > 0 else 0.0
    upper = stats.beta.ppf(tail, hits + 1, size - hits) if hits < size else 1.0
    return float(lower), float(upper)


def _parts(table: FloatArray) -> tuple[float, tuple[float, float], float, float]:
    """Return the variance of the mean due to inputs, due to students (held at 0, and with the rest), and their df."""
    n_students, n = table.shape
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    size = n_students * n
    inputs = n_students * float(columns.var(ddof=1)) / size if n > 1 else float("nan")
    if n_students < 2 or n < 2:
        return inputs, (0.0, 0.0), float(n - 1), 1.0
    rest = table - rows[:, None] - columns + table.mean()
    residual = float((rest**2).sum()) / ((n_students - 1) * (n - 1)) / size
    students = n * float(rows.var(ddof=1)) / size
    return inputs, (max(students - residual, 0.0), students), float(n - 1), float(n_students - 1)


def _squared(value: float, df: float) -> float:
    return value**2 / df if df > 0 else float("nan")
