r"""What tests and intervals for Gaussian students do where students have another law: by formula, before any data.

The variance of n draws with excess kurtosis :math:`\kappa` has the relative variance :math:`2/(n-1)+\kappa/n`, that of
Gaussian ones times

.. math:: f = 1 + \kappa\,\frac{n-1}{2n}

and its degrees of freedom are divided by f; so it is for an average over points if the directions in which
students vary are independent. For the ratio of two variances of students that are correlated by r, :math:`\kappa`
counts :math:`1-r^2` times. A test that takes the Gaussian law then rejects as often as the law of :math:`\nu/f` degrees
of freedom is outside the limits of that of :math:`\nu`. Laplace students (:math:`\kappa = 3`) stand for tails that
nobody would notice among few students.
"""

from __future__ import annotations

import numpy as np

__all__ = ["LAPLACE", "inflation", "level_of_variance", "slope_level"]

#: Excess kurtosis of the Laplace law.
LAPLACE = 3.0


def inflation(n: float = np.inf, *, excess: float = LAPLACE, correlation: float = 0.0) -> float:
    """Return by how much the variance of a log variance of n draws exceeds the Gaussian one.

    Parameters
    ----------
    n : float
        Draws; infinite for the limit of many.
    excess : float, default 3
        Excess kurtosis of one draw.
    correlation : float, default 0
        Between two groups whose variances are compared.
    """
    share = 1.0 if np.isinf(n) else (n - 1.0) / n
    return float(1.0 + 0.5 * excess * (1.0 - correlation**2) * share)


def level_of_variance(
    df: float, factor: float, *, df_other: float = np.inf, alpha: float = 0.05, one_sided: bool = False
) -> float:
    """Return how often a chi-square (F) test of a variance (ratio) rejects a true null of inflated variance.

    Parameters
    ----------
    df, df_other : float
        Degrees of freedom that the test takes; ``df_other`` of the denominator, infinite for a known variance.
    factor : float
        See :func:`inflation`. It divides both.
    alpha : float, default 0.05
        Nominal level.
    one_sided : bool, default False
        Against smaller variances, as in either test of equivalence at the margin's end; else two-sided.
    """
    from scipy import stats

    def law(f: float) -> stats.rv_continuous:
        return stats.chi2(df / f, scale=f / df) if np.isinf(df_other) else stats.f(df / f, df_other / f)

    if one_sided:
        return float(law(factor).cdf(law(1.0).ppf(alpha)))
    low, high = law(1.0).ppf([alpha / 2.0, 1.0 - alpha / 2.0])
    return float(law(factor).cdf(low) + law(factor).sf(high))


def slope_level(factor: float, *, alpha: float = 0.05) -> float:
    """Return how often a two-sided normal test of inflated variance rejects a true null."""
    from scipy.special import ndtr, ndtri

    return float(2.0 * ndtr(ndtri(alpha / 2.0) / np.sqrt(factor)))
