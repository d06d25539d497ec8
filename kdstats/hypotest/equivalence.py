"""Test that an observed variance is close enough to the predicted one: not being rejected is not agreement."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.hypotest.equality import KURTOSES, Ratio, component_ratio, margin_ends, ratio_of
from kdstats.hypotest.pairing import pair
from kdstats.hypotest.ratio_law import ConfidenceInterval, RatioLaw
from kdstats.problem.validation import as_choice, as_number, as_probability

__all__ = ["EquivalenceResult", "equivalence_test"]


@dataclass(frozen=True, kw_only=True, eq=False)
class EquivalenceResult:
    """Two one-sided tests on the ratio of variances.

    Attributes
    ----------
    statistic : float
        Observed over predicted average variance.
    pvalue : float
        The larger of the two one-sided p-values: at most the level, the true ratio is in (1/margin, margin).
    pvalue_lower, pvalue_upper : float
        Of "the true ratio is at most 1/margin" and "at least margin".
    pvalue_beyond : float
        Of the opposite test, "the true ratio is within [1/margin, margin]", two-sided.
    margin, df : float
        Margin on the ratio scale; degrees of freedom of the observation.
    """

    component: str
    statistic: float
    pvalue: float
    pvalue_lower: float
    pvalue_upper: float
    pvalue_beyond: float
    margin: float
    df: float
    df_denominator: float
    alternative: str
    law: RatioLaw | None = field(repr=False)
    ratio: Ratio = field(repr=False)

    def confidence_interval(self, confidence_level: float = 0.90) -> ConfidenceInterval:
        """Return the interval of the true ratio; at 1 - 2 alpha it lies in the margin iff equivalence is shown."""
        level = as_probability("confidence_level", confidence_level)
        if self.law is None or not np.isfinite(self.statistic):
            return ConfidenceInterval(self.statistic, self.statistic)
        ends = self.law.interval(self.ratio.value, level)
        return ConfidenceInterval(*(float(component_ratio(end, self.ratio.share)) for end in ends))


def equivalence_test(
    predicted: VarianceComponents,
    observed: VarianceComponents,
    *,
    margin: float = 1.5,
    component: str = "inter_student",
    kurtosis: str = "auto",
) -> EquivalenceResult:
    """Test that observed over predicted average variance lies within (1/margin, margin).

    Parameters
    ----------
    predicted, observed : VarianceComponents
        Same points (in any order) and outputs.
    margin : float, default 1.5
        Greater than 1, on the ratio scale.
    component, kurtosis
        As in :func:`kdstats.hypotest.equality_test`.

    Returns
    -------
    EquivalenceResult

    Notes
    -----
    Level at most alpha at both ends of the margin, by the intersection-union principle. At a true ratio of
    1, 80% power takes 345, 106 and 37 degrees of freedom for margins 1.25, 1.5 and 2. Where students are known from
    r sampled outputs each, the margin holds for inter_student, not for the variance inter + intra/r of their means.
    """
    margin = as_number("equivalence_margin", margin, minimum=1.0, exclusive=True)
    as_choice("component", component, COMPONENTS)
    as_choice("kurtosis", kurtosis, KURTOSES)
    return equivalence_of(
        ratio_of(pair(predicted, observed), component=component, kurtosis=kurtosis), component, margin
    )


def equivalence_of(ratio: Ratio, component: str, margin: float) -> EquivalenceResult:
    """Return the equivalence test of a ratio."""
    law, value = ratio.law, ratio.value
    if law is None or not np.isfinite(value):
        inside = bool(np.isnan(value) or 1.0 / margin < value < margin)
        lower = upper = 0.0 if inside else 1.0
        beyond = 1.0 if inside else 0.0
    else:
        low, high = margin_ends(margin, ratio.share)
        lower, upper = law.upper(value, low), law.lower(value, high)
        beyond = min(1.0, 2.0 * min(law.upper(value, high), law.lower(value, low)))
    return EquivalenceResult(
        component=component,
        statistic=float(component_ratio(value, ratio.share)),
        pvalue=max(lower, upper),
        pvalue_lower=lower,
        pvalue_upper=upper,
        pvalue_beyond=beyond,
        margin=margin,
        df=np.inf if law is None else law.df,
        df_denominator=getattr(law, "df_denominator", np.inf),
        alternative="equivalence",
        law=law,
        ratio=ratio,
    )
