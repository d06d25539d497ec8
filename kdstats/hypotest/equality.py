"""Tests that an observed variance is the predicted one.

The average over correlated points of variances from S Gaussian students has
``nu = (S-1) (tr C)^2 / tr C^2`` degrees of freedom (Satterthwaite), C their covariance between points.
Counting the m points as independent, ``m (S-1)``, rejects true predictions and is not offered.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.errors import ComparisonError
from kdstats.hypotest.multiplicity import METHODS, adjust_pvalues
from kdstats.hypotest.pairing import Pair, pair
from kdstats.hypotest.ratio_law import (
    CautiousLaw,
    ConfidenceInterval,
    LocationLaw,
    RatioLaw,
    ScaleLaw,
    WeightedLaw,
    two_sided,
)
from kdstats.problem.validation import as_choice, as_number, as_probability

__all__ = ["EqualityResult", "PointwiseResult", "equality_test", "pointwise_test", "ratio_of"]

FloatArray = NDArray[np.float64]

ALTERNATIVES = ("two-sided", "less", "greater")
KURTOSES = ("auto", "gaussian", "estimated")
#: Standard errors by which the spread of the students' squared distances must exceed the Gaussian one for
#: ``kurtosis="auto"`` to estimate it: one false switch in a thousand or fewer.
NOT_GAUSSIAN = 3.3


@dataclass(frozen=True, kw_only=True, eq=False)
class Ratio:
    """An observed average over a predicted one, with its law; of the predicted one the component is a ``share``."""

    observed: float
    predicted: float
    law: RatioLaw | None
    rank: float
    rank_source: str
    method: str
    share: float = 1.0

    @property
    def value(self) -> float:
        """Observed over predicted; NaN for 0/0."""
        if self.predicted == 0.0:
            return np.nan if self.observed == 0.0 else np.copysign(np.inf, self.observed)
        return self.observed / self.predicted


def component_ratio(ratio: Any, share: Any) -> Any:
    r"""Return the ratio of a component from that of a variance it is a share of, the rest being as predicted.

    Means of r sampled outputs vary by inter + intra/r. Where that is R times what was predicted, of which inter is the
    share s, inter itself is :math:`1 + (R-1)/s` times what was predicted.
    """
    ratio, share = np.asarray(ratio, dtype=float), np.asarray(share, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(share == 1.0, ratio, 1.0 + (ratio - 1.0) / share)[()]


def margin_ends(margin: float, share: Any) -> tuple[Any, Any]:
    """Return 1/margin and margin on the scale of a variance of which the component is a share."""
    return 1.0 + share * (1.0 / margin - 1.0), 1.0 + share * (margin - 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class EqualityResult:
    """Test that an average variance equals its prediction.

    Attributes
    ----------
    statistic : float
        Observed over predicted average variance. Where students are known from r sampled outputs each, the law is that
        of the variance of their means, and the ratio of the component follows from it with intra/r as observed.
    pvalue : float
        Of the alternative named in ``alternative``.
    df : float
        Degrees of freedom of the observation; ``df_denominator`` those of the prediction (inf: no error).
    observed, predicted : float
        The averages over points and outputs, squared output units.
    effective_rank : float
        Independent points the query points amount to; ``rank_source`` says where it is from.
    method : str
        The law of the statistic.
    """

    component: str
    statistic: float
    pvalue: float
    alternative: str
    df: float
    df_denominator: float
    observed: float
    predicted: float
    effective_rank: float
    rank_source: str
    method: str
    law: RatioLaw | None = field(repr=False)
    ratio: Ratio = field(repr=False)

    def confidence_interval(self, confidence_level: float = 0.95) -> ConfidenceInterval:
        """Return the two-sided interval of the true ratio of variances."""
        level = as_probability("confidence_level", confidence_level)
        if self.law is None or not np.isfinite(self.statistic):
            return ConfidenceInterval(self.statistic, self.statistic)
        ends = self.law.interval(self.ratio.value, level)
        return ConfidenceInterval(*(float(component_ratio(end, self.ratio.share)) for end in ends))


@dataclass(frozen=True, kw_only=True, eq=False)
class PointwiseResult:
    """Tests at every point and output, with control of their number.

    Attributes
    ----------
    statistic : ndarray, shape (m, q)
        Observed over predicted variance at each point.
    pvalues, adjusted_pvalues : ndarray, shape (m, q)
        Two-sided, before and after adjustment by ``multiplicity``.
    pvalue : float
        Smallest adjusted p-value: the test that all points are as predicted.
    df : float
        Degrees of freedom at one point, S-1.
    worst : tuple
        (point, output) labels of the smallest p-value.
    """

    component: str
    statistic: FloatArray
    pvalues: FloatArray
    adjusted_pvalues: FloatArray
    pvalue: float
    alternative: str
    df: float
    df_denominator: FloatArray
    multiplicity: str
    labels: tuple[tuple[Hashable, Hashable], ...]
    ratio: FloatArray = field(repr=False)
    share: FloatArray = field(repr=False)

    @property
    def worst(self) -> tuple[Hashable, Hashable]:
        """Labels of the point and output with the smallest p-value."""
        return self.labels[int(np.argmin(self.pvalues))]

    def confidence_interval(self, confidence_level: float = 0.95) -> ConfidenceInterval:
        """Return the interval of each true ratio, two arrays of shape (m, q); pointwise coverage."""
        tail = (1.0 - as_probability("confidence_level", confidence_level)) / 2.0
        low, high = (_ratio_quantile(q, self.df, self.df_denominator) for q in (1.0 - tail, tail))
        ends = (component_ratio(self.ratio / end, self.share) for end in (low, high))
        return ConfidenceInterval(*ends)

    def beyond(self, margin: float) -> FloatArray:
        """Return adjusted p-values of "the true ratio is within [1/margin, margin]" at every point."""
        return adjust_pvalues(self.unadjusted_beyond(margin), method=self.multiplicity)

    def unadjusted_beyond(self, margin: float) -> FloatArray:
        """Return the p-values behind :meth:`beyond`, before adjustment."""
        margin = as_number("margin", margin, minimum=1.0)
        lower, upper = margin_ends(margin, self.share)
        high = _ratio_tail(self.ratio / upper, self.df, self.df_denominator, upper=True)
        low = _ratio_tail(self.ratio / lower, self.df, self.df_denominator, upper=False)
        return np.where(np.isnan(self.ratio), 1.0, np.minimum(1.0, 2.0 * np.minimum(high, low)))


def equality_test(
    predicted: VarianceComponents,
    observed: VarianceComponents,
    *,
    component: str = "inter_student",
    alternative: str = "two-sided",
    kurtosis: str = "auto",
) -> EqualityResult:
    """Test that the average of a component over points and outputs equals its prediction.

    Parameters
    ----------
    predicted, observed : VarianceComponents
        Same points (in any order) and outputs.
    component : {"inter_student", "intra_student", "total"}
        What is tested.
    alternative : {"two-sided", "less", "greater"}
        Of the observed against the predicted variance.
    kurtosis : {"auto", "gaussian", "estimated"}
        Law of the students' predictions. ``"gaussian"``: the weighted chi-square law, exact, where the
        eigenvalues of the predicted covariance are known, chi-square with Satterthwaite degrees of freedom
        otherwise. ``"estimated"``: degrees of freedom from the spread over students of their squared distance
        from the mean, which needs ``observed.student_predictions``. ``"auto"``: Gaussian, unless that spread
        exceeds what Gaussian students would show by more than 3.3 standard errors (heavy tails).

    Returns
    -------
    EqualityResult

    Raises
    ------
    ComparisonError
        See :func:`kdstats.compare`.

    Notes
    -----
    With r outputs per student the variance of the student means, whose expectation is
    ``inter + intra / r``, is compared with ``predicted inter + observed intra / r``; the errors of the latter
    and of a Monte Carlo prediction become the denominator's degrees of freedom of an F law. Intra-student
    variance is a mean over independent students, tested by Student's t.
    """
    as_choice("component", component, COMPONENTS)
    as_choice("alternative", alternative, ALTERNATIVES)
    as_choice("kurtosis", kurtosis, KURTOSES)
    ratio = ratio_of(pair(predicted, observed), component=component, kurtosis=kurtosis)
    return equality_of(ratio, component=component, alternative=alternative)


def pointwise_test(
    predicted: VarianceComponents, observed: VarianceComponents, *, multiplicity: str = "holm"
) -> PointwiseResult:
    """Test the inter-student variance at every point and output.

    Parameters
    ----------
    predicted, observed : VarianceComponents
        Same points (in any order) and outputs.
    multiplicity : str, default "holm"
        See :func:`kdstats.hypotest.adjust_pvalues`.

    Returns
    -------
    PointwiseResult

    Notes
    -----
    Each ratio is chi-square with S-1 degrees of freedom over them (Gaussian students), or F where the
    prediction has Monte Carlo error or students were sampled with replicates.
    """
    as_choice("multiplicity", multiplicity, METHODS)
    return pointwise_of(pair(predicted, observed), multiplicity=multiplicity)


def equality_of(ratio: Ratio, *, component: str, alternative: str) -> EqualityResult:
    """Return the test of a ratio of 1."""
    law, value = ratio.law, ratio.value
    if law is None or not np.isfinite(value):
        pvalue = 1.0 if np.isnan(value) or value == 1.0 else 0.0
    elif alternative == "two-sided":
        pvalue = two_sided(law, value)
    else:
        pvalue = law.lower(value, 1.0) if alternative == "less" else law.upper(value, 1.0)
    return EqualityResult(
        component=component,
        statistic=float(component_ratio(value, ratio.share)),
        pvalue=pvalue,
        alternative=alternative,
        df=np.inf if law is None else law.df,
        df_denominator=getattr(law, "df_denominator", np.inf),
        observed=ratio.observed - (1.0 - ratio.share) * ratio.predicted,
        predicted=ratio.share * ratio.predicted,
        effective_rank=ratio.rank,
        rank_source=ratio.rank_source,
        method=ratio.method,
        law=law,
        ratio=ratio,
    )


def pointwise_of(both: Pair, *, multiplicity: str) -> PointwiseResult:
    """Return the tests of every point of a pair."""
    between, expected = both.between, both.expected_between
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = between / expected
        df_denominator = 2.0 * expected**2 / both.expected_between_variance
    df_denominator = np.where(both.expected_between_variance > 0, df_denominator, np.inf)
    df = both.observed.df_between
    raw = 2.0 * np.minimum(
        _ratio_tail(ratio, df, df_denominator, upper=False), _ratio_tail(ratio, df, df_denominator, upper=True)
    )
    raw = np.where(np.isnan(ratio), 1.0, np.where(np.isinf(ratio), 0.0, np.minimum(1.0, raw)))
    adjusted = adjust_pvalues(raw, method=multiplicity)
    share = np.ones_like(ratio)
    if both.observed.n_replicates > 1:
        share = np.divide(both.inter, expected, out=share, where=expected > 0.0)
    return PointwiseResult(
        component="total" if both.observed.single_output else "inter_student",
        statistic=component_ratio(ratio, share),
        pvalues=raw,
        adjusted_pvalues=adjusted,
        pvalue=float(adjusted.min()),
        alternative="two-sided",
        df=df,
        df_denominator=df_denominator,
        multiplicity=multiplicity,
        labels=both.labels,
        ratio=ratio,
        share=share,
    )


def ratio_of(both: Pair, *, component: str, kurtosis: str) -> Ratio:
    """Return the ratio of averages and its law for one component."""
    if both.observed.single_output and component != "total":
        raise ComparisonError(
            f"`observed` must have at least 2 outputs per student, or their known variance, to test {component}; "
            "with one output per student test component='total'"
        )
    if component == "intra_student":
        return _intra_ratio(both)
    inter = _between_ratio(both, kurtosis)
    return inter if component == "inter_student" or both.observed.single_output else _total_ratio(both, inter)


def _between_ratio(both: Pair, kurtosis: str) -> Ratio:
    between, predicted = float(both.between.mean()), float(both.expected_between.mean())
    rank, n = both.rank, both.observed.df_between
    df_kurtosis = _kurtosis_df(both, kurtosis)
    df_denominator = 2.0 * predicted**2 / both.expected_mean_variance if both.expected_mean_variance > 0 else np.inf
    law: RatioLaw | None
    if predicted <= 0.0:
        law, method = None, "degenerate: the predicted variance is 0"
    elif df_kurtosis is not None:
        law, method = (
            ScaleLaw(df=df_kurtosis, df_denominator=_df_left(both, df_denominator)),
            "chi-square, estimated kurtosis",
        )
    elif np.isfinite(df_denominator):
        law, method = ScaleLaw(df=n * rank.value, df_denominator=df_denominator), "F, effective degrees of freedom"
    elif rank.weights is not None and rank.source == "predicted":
        law, method = WeightedLaw(weights=rank.weights, df_each=n), "weighted chi-square, exact"
    else:
        law, method = ScaleLaw(df=n * rank.value), "chi-square, effective degrees of freedom"
    return Ratio(
        observed=between,
        predicted=predicted,
        law=law,
        rank=rank.value,
        rank_source=rank.source,
        method=method,
        share=float(both.inter.mean()) / predicted if predicted > 0.0 and both.observed.n_replicates > 1 else 1.0,
    )


def _df_left(both: Pair, df_denominator: float) -> float:
    """Degrees of freedom of the denominator next to an estimated kurtosis, which covers the within part if recorded."""
    if "inter_student" not in both.observed.average_se:
        return df_denominator
    error = both.inter_se_of_mean
    return 2.0 * float(both.expected_between.mean()) ** 2 / error**2 if error > 0 else np.inf


def _intra_ratio(both: Pair) -> Ratio:
    observed, predicted = float(both.observed.within.mean()), float(both.intra.mean())
    students = both.observed.df_between
    variance = both.observed.within_se_of_mean**2 + both.intra_se_of_mean**2
    law = (
        LocationLaw(standard_error=float(np.sqrt(variance)) / predicted, df=students)
        if variance > 0 < predicted
        else None
    )
    if law is None and np.isclose(observed, predicted, rtol=1e-9, atol=0.0):
        observed = predicted
    method = "degenerate: no variation between students" if law is None else "Student's t over students"
    return Ratio(observed=observed, predicted=predicted, law=law, rank=1.0, rank_source="not needed", method=method)


def _total_ratio(both: Pair, inter: Ratio) -> Ratio:
    """Between plus within: as a chi-square, right where the first part prevails, and by Student's t over students.

    The chi-square has the degrees of freedom of Gaussian students or those of the recorded standard error, which has
    the covariance of both parts, whichever are fewer. The larger p-value counts.
    """
    share = 1.0 - both.observed.within_share
    observed = inter.observed + share * float(both.observed.within.mean())
    predicted = float((both.inter + both.intra).mean())
    within = (share * both.observed.within_se_of_mean) ** 2
    between = 0.0 if inter.law is None else 2.0 * inter.predicted**2 / inter.law.df
    recorded = float(both.observed.average_se.get("total", 0.0)) ** 2
    monte_carlo = both.inter_se_of_mean**2 + both.intra_se_of_mean**2
    relative = 0.0
    if predicted > 0.0 < observed:
        relative = max((between + within) / predicted**2, recorded / observed**2)
    law = None
    if relative > 0.0:
        error = float(np.sqrt((recorded or between + within) + monte_carlo)) / predicted
        law = CautiousLaw(
            first=ScaleLaw(
                df=2.0 / relative, df_denominator=2.0 * predicted**2 / monte_carlo if monte_carlo else np.inf
            ),
            second=LocationLaw(standard_error=error, df=both.observed.df_between),
        )
    return Ratio(
        observed=observed,
        predicted=predicted,
        law=law,
        rank=inter.rank,
        rank_source=inter.rank_source,
        method="degenerate"
        if law is None
        else "chi-square of both parts and Student's t over students: the larger p-value",
    )


def _kurtosis_df(both: Pair, kurtosis: str) -> float | None:
    """Degrees of freedom from the spread of the students' squared distances, None for Gaussian students.

    For Gaussian students the squared distances have the cumulants of a weighted chi-square, from which
    the standard error of the logarithm of their relative variance follows (delta method).
    """
    values = both.observed.predictions
    if kurtosis == "gaussian":
        return None
    if values is None:
        if kurtosis == "estimated":
            raise ComparisonError(
                "`kurtosis` must not be 'estimated' where `observed` keeps no student_predictions; got None"
            )
        return None
    size = len(values)
    squares = ((values - values.mean(axis=0)) ** 2).mean(axis=(1, 2))
    if size < 4 or not squares.any():
        return None
    relative = _relative_variance(both, squares)
    if relative == 0.0:
        return None
    weights, rank = both.rank.weights, both.rank.value
    second, third, fourth = (
        factor * (float((weights**power).sum()) if weights is not None else rank ** (1 - power))
        for factor, power in ((2.0, 2), (8.0, 3), (48.0, 4))
    )
    error = np.sqrt(2.0 / (size - 1) + (fourth / second**2 + 4.0 * second - 4.0 * third / second) / size)
    if kurtosis == "auto" and np.log(relative / second) < NOT_GAUSSIAN * error:
        return None
    return 2.0 * both.observed.df_between / relative


def _relative_variance(both: Pair, squares: FloatArray) -> float:
    """Variance of one student's contribution to the average, over its squared mean.

    With sampled outputs the contribution is the squared distance less the student's own variance over r, whose
    spread the estimation recorded.
    """
    recorded = both.observed.average_se.get("inter_student")
    if both.observed.n_replicates > 1 and recorded is not None:
        return float(both.observed.df_between * recorded**2 / both.expected_between.mean() ** 2)
    return float(squares.var(ddof=1) / squares.mean() ** 2)


def _ratio_tail(ratio: FloatArray, df: float, df_denominator: FloatArray, *, upper: bool) -> FloatArray:
    from scipy import special

    exact = np.isinf(df_denominator)
    chi_square, fisher = (special.chdtrc, special.fdtrc) if upper else (special.chdtr, special.fdtr)
    finite = np.where(np.isfinite(ratio), np.maximum(ratio, 0.0), 0.0)
    tails = np.where(exact, chi_square(df, df * finite), fisher(df, np.where(exact, 1.0, df_denominator), finite))
    return np.asarray(tails, dtype=float)


def _ratio_quantile(q: float, df: float, df_denominator: FloatArray) -> FloatArray:
    from scipy import special

    exact = np.isinf(df_denominator)
    fisher = special.fdtri(df, np.where(exact, 1.0, df_denominator), q)
    return np.asarray(np.where(exact, special.chdtri(df, 1.0 - q) / df, fisher), dtype=float)
