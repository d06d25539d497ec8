r"""Ratio of average intra-student or total variances of independent strategies.

* intra, sampled outputs: the mean squares within have chi-square laws, their ratio is F.
* intra, known own variances: means over students; :math:`\bar w_a-\theta\bar w_b` is tested by Welch's t.
* total: the log ratio is recovered from the intervals of the two totals (Zou & Donner 2008):
  :math:`L=\ell_a-\ell_b-\sqrt{(\ell_a-l_a)^2+(u_b-\ell_b)^2}` with logarithms :math:`\ell` of the estimates, l and u of
  the limits. The p-value is the level at which the ratio tested lies on the limit.
* ``method="kurtosis"``: standard errors of the logarithms as the estimation recorded them, Welch's t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.components.kurtosis import excess_kurtosis_within
from kdstats.components.margins import chi_square_margins, known_total_margins, sampled_total_margins
from kdstats.components.result import VarianceComponents
from kdstats.components.uncertainty import average_df
from kdstats.errors import ComparisonError
from kdstats.hypotest.pairing import Observed, observed_arrays
from kdstats.hypotest.ratio_law import ConfidenceInterval
from kdstats.hypotest.ratio_result import AT_LEAST, RatioResult, tail
from kdstats.hypotest.resampled_ratio import FAR_LEVEL, not_gaussian
from kdstats.hypotest.unpaired_ratio import f_interval

__all__ = ["AverageLaw", "average_law", "component_ratio", "doubt_of_gaussian", "log_ratio_limits", "log_ratio_pvalues"]

FloatArray = NDArray[np.float64]

#: Fewest students for standard errors from students of any law.
FEWEST_ANY = 200
#: Most students of one strategy per student of the other, where their own variances have an unknown law.
UNEQUAL = 1.5
#: Levels between which a p-value is sought; above the second, nothing speaks against the null.
LEVELS = (1e-15, 0.8)


@dataclass(frozen=True, kw_only=True, eq=False)
class AverageLaw:
    """What the law of an average component is made of; arrays of independent tables broadcast.

    ``between`` and ``within`` are averaged mean squares, ``n_replicates`` is 0 where own variances are known,
    ``errors`` are standard errors of inter, intra and total.
    """

    between: Any
    within: Any
    df_between: Any
    df_within: Any
    n_replicates: int
    n_students: int
    errors: tuple[Any, Any, Any]

    @property
    def total(self) -> Any:
        """Average total variance."""
        return self.between + self.rest

    @property
    def rest(self) -> Any:
        """Part of the total that is not in the variance of student means."""
        return self.within * (1.0 - 1.0 / self.n_replicates) if self.n_replicates else self.within

    def total_limits(self, prob: Any) -> tuple[FloatArray, FloatArray]:
        """Return the interval of the total at coverage ``prob``."""
        if self.n_replicates:
            df = {"df_between": self.df_between, "df_within": self.df_within}
            below, above = sampled_total_margins(self.between, self.rest, **df, prob=prob)
        else:
            inter = chi_square_margins(self.df_between, prob)
            below, above = known_total_margins(
                (inter[0] * self.between, inter[1] * self.between),
                errors=self.errors,
                n_students=self.n_students,
                prob=prob,
            )
        return self.total - below, self.total + above


def average_law(observed: VarianceComponents) -> AverageLaw:
    """Return the law of the averages of a balanced observation.

    Raises
    ------
    ComparisonError
        If each student gave one output.
    """
    arrays = observed_arrays(observed)
    if arrays.single_output:
        raise ComparisonError("`component` must be 'inter_student' where each student gave one output")
    shape = arrays.between.size
    ranks = [float(observed.attrs.get(name) or 1.0) for name in ("effective_rank", "effective_rank_within")]
    if shape == 1:
        ranks = [1.0, 1.0]
    errors = [_error(arrays, observed, name) for name in ("inter_student", "intra_student", "total")]
    return AverageLaw(
        between=float(arrays.between.mean()),
        within=float(arrays.within.mean()),
        df_between=float(average_df(arrays.df_between, np.asarray(ranks[0]))),
        df_within=float(average_df(arrays.df_within, np.asarray(ranks[1]))) if arrays.n_replicates else np.nan,
        n_replicates=arrays.n_replicates,
        n_students=int(arrays.df_between) + 1,
        errors=(errors[0], errors[1], errors[2]),
    )


def _error(arrays: Observed, observed: VarianceComponents, name: str) -> float:
    return float(arrays.average_se.get(name, observed.standard_error[name].values.mean()))


def log_ratio_limits(first: AverageLaw, second: AverageLaw, prob: Any) -> tuple[FloatArray, FloatArray]:
    """Return the interval of the log ratio of totals at coverage ``prob``."""
    logs, ends = [np.log(law.total) for law in (first, second)], []
    with np.errstate(divide="ignore"):
        for law in (first, second):
            ends.append([np.log(np.maximum(end, 0.0)) for end in law.total_limits(prob)])
    centre = logs[0] - logs[1]
    low = centre - np.hypot(logs[0] - ends[0][0], ends[1][1] - logs[1])
    high = centre + np.hypot(ends[0][1] - logs[0], logs[1] - ends[1][0])
    return low, high


def log_ratio_pvalues(limits: Callable[[float], tuple[Any, Any]], *, centre: float, null: float) -> tuple[float, float]:
    """Return one-sided p-values, of a smaller and of a larger estimate, that invert intervals about ``centre``."""
    from scipy.optimize import brentq

    side = 0 if centre > null else 1

    def excess(log_level: float) -> float:
        """Positive where the interval excludes the null."""
        end = float(limits(1.0 - np.exp(log_level))[side])
        return float(np.clip(end - null if side == 0 else null - end, -1e6, 1e6))

    least, most = np.log(LEVELS)
    if excess(most) <= 0.0:
        half = 0.5
    elif excess(least) >= 0.0:
        half = LEVELS[0] / 2.0
    else:
        half = float(np.exp(brentq(excess, least, most, xtol=1e-10))) / 2.0
    return (1.0 - half, half) if side == 0 else (half, 1.0 - half)


def doubt_of_gaussian(observed: VarianceComponents, *, means: bool) -> str:
    """Say what speaks against Gaussian replicate errors, and Gaussian student ``means``; empty if nothing does."""
    students, squares = observed.student_predictions, observed.mean_squares
    if students is not None and means:
        doubt = not_gaussian(students)
        if doubt:
            return f"student means have {doubt}"
    if squares is not None and "within" in squares and observed.n_students:
        found = excess_kurtosis_within(squares, observed.n_students)
        if found is not None and found.pvalue < FAR_LEVEL:
            size = f"(p = {found.pvalue:.2g})"
            return f"own variances of students spread more than those of equally noisy Gaussian ones {size}"
    return ""


def component_ratio(
    observed_a: VarianceComponents,
    observed_b: VarianceComponents,
    component: str,
    *,
    null_ratio: float,
    alternative: str,
    method: str,
) -> RatioResult:
    """Test the ratio of average intra-student or total variances of independent students."""
    both = (observed_a, observed_b)
    laws = [average_law(item) for item in both]
    means = [float(getattr(item, component).mean()) for item in both]
    if min(means) <= 0.0:
        raise ComparisonError(f"`component` must have positive variance in both; got {min(means):.4g}")
    errors = [law.errors[1 if component == "intra_student" else 2] for law in laws]
    if max(errors) == 0.0:
        raise ComparisonError(f"`component` must vary between students to be compared; got {component} without spread")
    sizes = [law.n_students for law in laws]
    known = not all(law.n_replicates for law in laws)
    ratio, df = means[0] / means[1], _welch_df(errors, means, sizes)
    unreliable = ""
    if method == "kurtosis":
        lower, upper, interval, words = _of_logarithms(means, errors, df=df, sizes=sizes, null=null_ratio)
    else:
        if known and max(sizes) > UNEQUAL * min(sizes) and min(sizes) < FEWEST_ANY:
            raise ComparisonError(
                f"`observed_b` must have about as many students as `observed_a`, or both at least {FEWEST_ANY}, where "
                f"their own variances are known, for the law of these is not; got {sizes[0]} and {sizes[1]}"
            )
        doubts = [doubt_of_gaussian(item, means=component == "total") for item in both]
        if any(doubts):
            found = next(doubt for doubt in doubts if doubt)
            unreliable = f"{found}: from {FEWEST_ANY} students on method='kurtosis' takes any law"
        if component == "total":
            lower, upper, interval, words = _of_totals(laws, null_ratio)
        elif not known:
            lower, upper, interval, words = _of_mean_squares(laws, null_ratio)
        else:
            lower, upper, interval, words = _of_means(means, errors, sizes=sizes, null=null_ratio)
    return RatioResult(
        component=component,
        statistic=ratio,
        pvalue=tail(lower, upper, alternative),
        alternative=alternative,
        null_ratio=null_ratio,
        df=df,
        df_other=df,
        correlation=np.nan,
        effective_rank=np.nan,
        n_students=(sizes[0], sizes[1]),
        paired=False,
        method=words,
        coverage=_coverage(component, method, known=known),
        unreliable=unreliable,
        _interval=interval,
    )


def _coverage(component: str, method: str, *, known: bool) -> str:
    if method == "kurtosis":
        return f"about 5% (interval 95%) for students of any law, from {FEWEST_ANY} on"
    if component == "total":
        own = "any law of their own variances" if known else "Gaussian outputs"
        return f"{AT_LEAST} and {own}"
    return "5% (interval 95%) for students of any own variances" if known else "5% (interval 95%) for Gaussian outputs"


_Answer = tuple[float, float, Callable[[float], ConfidenceInterval], str]


def _welch_df(errors: list[float], means: list[float], sizes: list[int]) -> float:
    parts = [(error / mean) ** 2 for error, mean in zip(errors, means, strict=True)]
    return float(sum(parts) ** 2 / sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True)))


def _of_totals(laws: list[AverageLaw], null: float) -> _Answer:
    centre = float(np.log(laws[0].total / laws[1].total))

    def limits(prob: float) -> tuple[Any, Any]:
        return log_ratio_limits(laws[0], laws[1], prob)

    def interval(level: float) -> ConfidenceInterval:
        low, high = limits(level)
        return ConfidenceInterval(float(np.exp(low)), float(np.exp(high)))

    lower, upper = log_ratio_pvalues(limits, centre=centre, null=float(np.log(null)))
    return lower, upper, interval, "log ratio, recovered from the intervals of both totals; level at most nominal"


def _of_mean_squares(laws: list[AverageLaw], null: float) -> _Answer:
    from scipy.special import fdtr, fdtrc

    df = (float(laws[0].df_within), float(laws[1].df_within))
    ratio = float(laws[0].within / laws[1].within)
    words = "F of the mean squares within, Gaussian errors"
    x = ratio / null
    return float(fdtr(*df, x)), float(fdtrc(*df, x)), lambda level: f_interval(ratio, df, level), words


def _of_means(means: list[float], errors: list[float], *, sizes: list[int], null: float) -> _Answer:
    from scipy import stats

    def standardised(ratio: float) -> tuple[float, float]:
        scaled = [errors[0], ratio * errors[1]]
        df = _welch_df(scaled, [1.0, 1.0], sizes)
        return (means[0] - ratio * means[1]) / float(np.hypot(scaled[0], scaled[1])), df

    def interval(level: float) -> ConfidenceInterval:
        from scipy.optimize import brentq

        ends, centre = [], float(np.log(means[0] / means[1]))
        for sign in (-1.0, 1.0):

            def excess(away: float, sign: float = sign) -> float:
                z, df = standardised(float(np.exp(centre + sign * away)))
                return abs(z) - float(stats.t.ppf(0.5 + level / 2.0, df))

            far = 1e-6
            while far < 40.0 and excess(far) < 0.0:
                far *= 2.0
            limit = 0.0 if sign < 0 else np.inf  # not excluded however far away
            ends.append(limit if excess(far) < 0.0 else float(np.exp(centre + sign * brentq(excess, 0.0, far))))
        return ConfidenceInterval(*ends)

    z, df = standardised(null)
    return float(stats.t.cdf(z, df)), float(stats.t.sf(z, df)), interval, "difference of means over students, Welch's t"


def _of_logarithms(means: list[float], errors: list[float], *, df: float, sizes: list[int], null: float) -> _Answer:
    from scipy import stats

    if min(sizes) < FEWEST_ANY:
        raise ComparisonError(
            f"`method` 'kurtosis' must have at least {FEWEST_ANY} students of each strategy to hold its level here; "
            f"got {min(sizes)}: train more, or take method='normal' if students and outputs may be taken for Gaussian"
        )
    ratio, law = means[0] / means[1], stats.t(df)
    error = float(np.hypot(errors[0] / means[0], errors[1] / means[1]))
    z = float(np.log(ratio / null)) / error

    def interval(level: float) -> ConfidenceInterval:
        half = float(law.ppf(0.5 + level / 2.0)) * error
        return ConfidenceInterval(ratio * float(np.exp(-half)), ratio * float(np.exp(half)))

    return float(law.cdf(z)), float(law.sf(z)), interval, "log ratio, Welch's t over students"
