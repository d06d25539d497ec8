"""How many degrees of freedom, and so how many students, a decision needs.

One point has S-1 degrees of freedom for S students, an average over correlated points
``effective_rank`` times as many. Everything here is a root of chi-square distribution functions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kdstats.hypotest.ratio_law import ScaleLaw
from kdstats.problem.validation import as_number, as_probability

__all__ = [
    "df_for_equality",
    "df_for_equivalence",
    "df_to_decide",
    "equality_power",
    "equivalence_power",
    "students",
    "students_for_equality",
    "students_for_equivalence",
]

#: Beyond this many degrees of freedom a question counts as one that students cannot answer.
MAX_DF = 1e12


def equality_power(ratio: float, *, df: float, significance: float = 0.05, df_denominator: float = np.inf) -> float:
    """Return the probability that the two-sided equality test rejects.

    Parameters
    ----------
    ratio : float
        True variance over predicted variance.
    df : float
        Degrees of freedom of the observed average variance.
    significance : float, default 0.05
        Level of the test.
    df_denominator : float, default inf
        Degrees of freedom of a prediction with Monte Carlo error.

    Examples
    --------
    >>> round(equality_power(1.5, df=100.0), 3)
    0.832
    """
    ratio, df = as_number("ratio", ratio, minimum=0.0, exclusive=True), as_number("df", df, minimum=0.0, exclusive=True)
    level = as_probability("significance", significance)
    law = ScaleLaw(df=df, df_denominator=df_denominator)
    return law.lower(law.quantile(level / 2), ratio) + law.upper(law.quantile(1 - level / 2), ratio)


def equivalence_power(
    df: float, *, margin: float = 1.5, ratio: float = 1.0, significance: float = 0.05, df_denominator: float = np.inf
) -> float:
    """Return the probability that both one-sided tests of the equivalence test reject.

    Parameters
    ----------
    df : float
        Degrees of freedom of the observed average variance.
    margin : float, default 1.5
        Ratios in (1/margin, margin) count as equivalent.
    ratio : float, default 1
        True variance over predicted variance.
    significance : float, default 0.05
        Level of each one-sided test, and of the whole.
    df_denominator : float, default inf
        Degrees of freedom of a prediction with Monte Carlo error.
    """
    df = as_number("df", df, minimum=0.0, exclusive=True)
    margin = as_number("margin", margin, minimum=1.0, exclusive=True)
    level = as_probability("significance", significance)
    law = ScaleLaw(df=df, df_denominator=df_denominator)
    low, high = law.quantile(1 - level) / margin, law.quantile(level) * margin
    return max(0.0, law.lower(high, ratio) - law.lower(low, ratio)) if high > low else 0.0


def df_for_equality(ratio: float, *, power: float = 0.8, significance: float = 0.05) -> float:
    """Return the degrees of freedom at which the equality test rejects a ratio with a given power."""
    ratio = as_number("ratio", ratio, minimum=0.0, exclusive=True)
    wanted = as_probability("power", power)
    if ratio == 1.0:
        return float("inf")
    return _least_df(lambda df: equality_power(ratio, df=df, significance=significance) - wanted)


def df_for_equivalence(
    margin: float = 1.5,
    *,
    ratio: float = 1.0,
    power: float = 0.8,
    significance: float = 0.05,
    df_denominator: float = np.inf,
) -> float:
    """Return the degrees of freedom at which the equivalence test succeeds with a given power.

    Infinite where no number is enough: ``ratio`` outside the margin, or a Monte Carlo prediction too
    coarse for it.

    Examples
    --------
    >>> import math
    >>> [math.ceil(df_for_equivalence(margin)) for margin in (1.25, 1.5, 2.0)]
    [345, 106, 37]
    """
    wanted = as_probability("power", power)
    return _least_df(
        lambda df: (
            equivalence_power(df, margin=margin, ratio=ratio, significance=significance, df_denominator=df_denominator)
            - wanted
        )
    )


def students_for_equality(
    ratio: float, *, effective_rank: float, power: float = 0.8, significance: float = 0.05
) -> int | None:
    """Return the number of students with which the equality test rejects a true ratio with a given power.

    Parameters
    ----------
    ratio : float
        True variance over predicted variance.
    effective_rank : float
        Independent points that the query points amount to, ``(tr C)^2 / tr C^2``.
    power, significance : float
        Probability of rejecting; level.

    Returns
    -------
    int or None
        None where no number is enough.
    """
    return students(df_for_equality(ratio, power=power, significance=significance), effective_rank=effective_rank)


def students_for_equivalence(
    margin: float = 1.5, *, effective_rank: float, ratio: float = 1.0, power: float = 0.8, significance: float = 0.05
) -> int | None:
    """Return the number of students with which the equivalence test succeeds with a given power.

    Examples
    --------
    >>> students_for_equivalence(1.5, effective_rank=1.0)
    107
    """
    df = df_for_equivalence(margin, ratio=ratio, power=power, significance=significance)
    return students(df, effective_rank=effective_rank)


def df_to_decide(
    margin: float, *, significance: float, significance_equality: float, df_denominator: float = np.inf
) -> float:
    """Return the degrees of freedom beyond which equality rejects or equivalence succeeds, whatever the ratio.

    There the acceptance region of the equality test lies inside the success region of the equivalence test.
    """

    def slack(df: float) -> float:
        law = ScaleLaw(df=df, df_denominator=df_denominator)
        high = margin * law.quantile(significance) / law.quantile(1 - significance_equality / 2) - 1.0
        low = law.quantile(significance_equality / 2) * margin / law.quantile(1 - significance) - 1.0
        return min(high, low)

    return _least_df(slack)


def students(df: float, *, effective_rank: float) -> int | None:
    """Return the number of students that has at least ``df`` degrees of freedom, None if infinite."""
    rank = as_number("effective_rank", effective_rank, minimum=0.0, exclusive=True)
    return None if np.isinf(df) else max(2, int(np.ceil(df / rank - 1e-9)) + 1)


def _least_df(excess: Callable[[float], float]) -> float:
    """Return where a function that grows with the degrees of freedom becomes positive."""
    from scipy.optimize import brentq

    low, high = 0.5, 4.0
    if excess(low) >= 0:
        return low
    while excess(high) < 0:
        low, high = high, 4.0 * high
        if high > MAX_DF:
            return float("inf")
    return float(brentq(excess, low, high, rtol=1e-10))
