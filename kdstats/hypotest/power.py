"""How many degrees of freedom, and so how many students, a decision needs.

One point has S-1 degrees of freedom for S students, an average over correlated points
``effective_rank`` times as many. Everything here is a root of chi-square distribution functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kdstats.hypotest.ratio_law import ScaleLaw
from kdstats.problem.validation import as_choice, as_count, as_number, as_probability

__all__ = [
    "df_for_equality",
    "df_for_equivalence",
    "df_to_decide",
    "equality_power",
    "equivalence_power",
    "ratio_power",
    "students",
    "students_for_equality",
    "students_for_equivalence",
    "students_for_mean",
    "students_for_rate",
    "students_for_ratio",
    "students_until_decided",
]

#: Beyond this many degrees of freedom a question counts as one that students cannot answer.
MAX_DF = 1e12
#: Upper quartile of the normal law: both one-sided e-values are past their limit with probability one half.
QUARTILE = 0.6745


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


def ratio_power(
    ratio: float,
    *,
    df: float,
    df_other: float | None = None,
    correlation: float = 0.0,
    alternative: str = "two-sided",
    significance: float = 0.05,
) -> float:
    """Return the probability that the test of two strategies rejects equality.

    Parameters
    ----------
    ratio : float
        True ratio of the two variances.
    df, df_other : float
        Degrees of freedom of the two averages, effective rank times S-1; default: the same.
    correlation : float, default 0
        Between the students of a pair. Not 0: the paired test, by Fisher's transform of its correlation (approximate).
    alternative : {"two-sided", "less", "greater"}
        ``"greater"`` with a ratio above 1 is a step of :func:`kdstats.ordering_test`.
    significance : float, default 0.05
        Level.

    Examples
    --------
    >>> round(ratio_power(1.5, df=200.0), 3)
    0.816
    >>> round(ratio_power(1.5, df=200.0, correlation=0.8), 3)
    0.997
    """
    from scipy.special import ndtr, ndtri

    ratio = as_number("ratio", ratio, minimum=0.0, exclusive=True)
    df = as_number("df", df, minimum=0.0, exclusive=True)
    other = df if df_other is None else as_number("df_other", df_other, minimum=0.0, exclusive=True)
    rho = as_number("correlation", correlation, minimum=-1.0, maximum=1.0)
    as_choice("alternative", alternative, ("two-sided", "less", "greater"))
    level = as_probability("significance", significance)
    tail = level / 2.0 if alternative == "two-sided" else level
    if rho == 0.0:
        law = ScaleLaw(df=df, df_denominator=other)
        below, above = law.lower(law.quantile(tail), ratio), law.upper(law.quantile(1.0 - tail), ratio)
    else:
        across = (ratio - 1.0) / np.sqrt((ratio + 1.0) ** 2 - 4.0 * rho**2 * ratio)
        shift = np.arctanh(across) * np.sqrt(max(min(df, other) - 2.0, 0.0))
        below, above = (float(ndtr(ndtri(tail) - sign * shift)) for sign in (1.0, -1.0))
    return {"two-sided": below + above, "less": below, "greater": above}[alternative]


def students_for_ratio(
    ratio: float,
    *,
    effective_rank: float,
    correlation: float = 0.0,
    alternative: str = "two-sided",
    power: float = 0.8,
    significance: float = 0.05,
) -> int | None:
    """Return the number of students of each strategy with which a true ratio is found with a given power.

    Parameters
    ----------
    ratio, correlation, alternative, significance
        As in :func:`ratio_power`.
    effective_rank : float
        Independent points that the query points amount to.
    power : float, default 0.8
        Probability of rejecting equality.

    Returns
    -------
    int or None
        None where no number is enough.

    Examples
    --------
    >>> students_for_ratio(5.0, effective_rank=1.0), students_for_ratio(1.5, effective_rank=6.0)
    (15, 33)
    """
    wanted, side = as_probability("power", power), {"greater": 1.0, "less": -1.0}.get(alternative, 0.0)
    if ratio == 1.0 or side * np.log(as_number("ratio", ratio, minimum=0.0, exclusive=True)) < 0.0:
        return None
    options = {"correlation": correlation, "alternative": alternative, "significance": significance}
    df = _least_df(lambda df: ratio_power(ratio, df=df, **options) - wanted)  # type: ignore[arg-type]
    return students(df, effective_rank=effective_rank)


def students_for_rate(
    slope: float,
    n_responses: Sequence[int],
    *,
    effective_rank: float,
    null_slope: float = -1.0,
    power: float = 0.8,
    significance: float = 0.05,
) -> int | None:
    """Return the number of students at each k with which a slope other than ``null_slope`` is found.

    Parameters
    ----------
    slope : float
        True slope of log variance on log k.
    n_responses : sequence of int
        The k of the design.
    effective_rank, power, significance
        As in :func:`students_for_ratio`.

    Returns
    -------
    int or None

    Notes
    -----
    A log variance of nu degrees of freedom has the variance trigamma(nu/2), which gives the slope its error.

    Examples
    --------
    >>> students_for_rate(-0.8, [1, 2, 5, 10], effective_rank=4.0)
    34
    """
    from scipy.special import ndtr, ndtri, polygamma

    logs = np.log(np.array([as_count("n_responses", k) for k in n_responses], dtype=float))
    spread, gap = float(((logs - logs.mean()) ** 2).sum()), as_number("slope", slope) - null_slope
    if spread == 0.0 or gap == 0.0:
        return None
    wanted, z = as_probability("power", power), -float(ndtri(as_probability("significance", significance) / 2.0))

    def excess(df: float) -> float:
        shift = abs(gap) / float(np.sqrt(polygamma(1, df / 2.0) / spread))
        return float(ndtr(shift - z) + ndtr(-shift - z)) - wanted

    return students(_least_df(excess), effective_rank=effective_rank)


def students_for_mean(
    ratio: float, *, relative_sd: float, power: float = 0.8, significance: float = 0.05
) -> int | None:
    """Return the number of students with which a mean over students is found to differ from its prediction.

    For the tests of intra-student variance, of the total (conservation) and of the mean test error, which are
    Student's t over students.

    Parameters
    ----------
    ratio : float
        True mean over predicted mean.
    relative_sd : float
        Standard deviation between students of what is averaged, over the true mean: for the total of a linear student
        at its n training points ``sqrt(2 / n)``.
    power, significance
        As in :func:`students_for_ratio`.

    Returns
    -------
    int or None

    Examples
    --------
    >>> students_for_mean(1.1, relative_sd=(2 / 20) ** 0.5)
    97
    """
    from scipy.special import nctdtr, stdtrit

    ratio = as_number("ratio", ratio, minimum=0.0, exclusive=True)
    sd = as_number("relative_sd", relative_sd, minimum=0.0, exclusive=True) * ratio
    wanted, tail = as_probability("power", power), as_probability("significance", significance) / 2.0
    if ratio == 1.0:
        return None

    def excess(df: float) -> float:
        shift = abs(ratio - 1.0) * np.sqrt(df + 1.0) / sd
        return 1.0 - float(nctdtr(df, shift, -float(stdtrit(df, tail)))) - wanted

    return students(_least_df(excess), effective_rank=1.0)


def students_until_decided(
    ratio: float = 1.0, *, n_directions: int, margin: float = 1.5, significance: float = 0.05
) -> int | None:
    """Return about how many students a sequential test takes: its e-value gets to 1/alpha at the expected squares.

    Parameters
    ----------
    ratio : float, default 1
        True over predicted variance.
    n_directions : int
        Directions in which students vary; see :class:`kdstats.SequentialTest`.
    margin : float, default 1.5
        Of the test.
    significance : float, default 0.05
        Level.

    Returns
    -------
    int or None
        Near the median number of students at which equality is rejected or equivalence shown, whichever is first. For
        equivalence the e-values are taken at the quartiles of the sum of squares, for both must reach 1/alpha.

    Examples
    --------
    >>> students_until_decided(1.0, n_directions=6), students_until_decided(2.0, n_directions=1)
    (30, 33)
    """
    from kdstats.hypotest.evalues import log_evalue, log_evalue_one_sided, prior_of_margin

    ratio = as_number("ratio", ratio, minimum=0.0, exclusive=True)
    margin = as_number("margin", margin, minimum=1.0, exclusive=True)
    limit, prior = -np.log(as_probability("significance", significance)), prior_of_margin(margin)
    rank = as_count("n_directions", n_directions)

    def excess(df: float) -> float:
        q, quartile = ratio * df, QUARTILE * ratio * np.sqrt(2.0 * df)
        sides = (
            log_evalue_one_sided(max(squares, 0.0), df, prior=prior, boundary=end, alternative=side)
            for side, end, squares in (("less", margin, q + quartile), ("greater", 1.0 / margin, q - quartile))
        )
        return float(max(log_evalue(q, df, prior=prior), min(sides)) - limit)

    return students(_least_df(excess), effective_rank=float(rank))
