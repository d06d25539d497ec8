"""Laws of the ratio of an observed to a predicted variance.

Every test of this package asks one of three questions of such a law: how probable is a ratio this
small or this large if the true ratio is theta, and which theta are compatible with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kdstats.hypotest.inversion import weighted_chi_square_cdf

__all__ = ["CautiousLaw", "ConfidenceInterval", "LocationLaw", "RatioLaw", "ScaleLaw", "WeightedLaw"]

FloatArray = NDArray[np.float64]


class ConfidenceInterval(NamedTuple):
    """Ends of a confidence interval."""

    low: float
    high: float


class RatioLaw(Protocol):
    """Law of an observed ratio, given the true ratio theta."""

    @property
    def df(self) -> float:
        """Degrees of freedom of the observation."""
        ...

    def lower(self, ratio: float, theta: float) -> float:
        """Return P(ratio' <= ratio | theta)."""
        ...

    def upper(self, ratio: float, theta: float) -> float:
        """Return P(ratio' >= ratio | theta)."""
        ...

    def interval(self, ratio: float, confidence_level: float) -> ConfidenceInterval:
        """Return the thetas that neither one-sided test at (1 - level)/2 rejects."""
        ...


def two_sided(law: RatioLaw, ratio: float, theta: float = 1.0) -> float:
    """Return the equal-tailed two-sided p-value."""
    return min(1.0, 2.0 * min(law.lower(ratio, theta), law.upper(ratio, theta)))


@dataclass(frozen=True, kw_only=True)
class ScaleLaw:
    """``theta`` times chi-square(df)/df, over an independent chi-square(df_denominator)/df_denominator."""

    df: float
    df_denominator: float = np.inf

    def lower(self, ratio: float, theta: float) -> float:
        """Return P(ratio' <= ratio | theta)."""
        return float(self._base().cdf(ratio / theta))

    def upper(self, ratio: float, theta: float) -> float:
        """Return P(ratio' >= ratio | theta)."""
        return float(self._base().sf(ratio / theta))

    def quantile(self, q: float) -> float:
        """Return the q-quantile of the ratio at theta = 1."""
        return float(self._base().ppf(q))

    def interval(self, ratio: float, confidence_level: float) -> ConfidenceInterval:
        """Return the interval of theta."""
        tail = (1.0 - confidence_level) / 2.0
        return ConfidenceInterval(ratio / self.quantile(1.0 - tail), ratio / self.quantile(tail))

    def _base(self) -> Any:
        from scipy import stats

        if np.isinf(self.df_denominator):
            return stats.chi2(self.df, scale=1.0 / self.df)
        return stats.f(self.df, self.df_denominator)


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightedLaw:
    """``theta`` times sum_j w_j chi-square(df_each)/df_each, weights of sum 1: the exact law of an average variance.

    The average over correlated points of variances from n+1 Gaussian students is this, with weights
    in proportion to the eigenvalues of the covariance between points.
    """

    weights: FloatArray
    df_each: float

    @property
    def df(self) -> float:
        """Satterthwaite degrees of freedom, ``df_each / sum w^2``."""
        return float(self.df_each / (self.weights**2).sum())

    def lower(self, ratio: float, theta: float) -> float:
        """Return P(ratio' <= ratio | theta)."""
        if self._equal():
            return ScaleLaw(df=self.df).lower(ratio, theta)
        if ratio <= 0.0:
            return 0.0
        df = np.full(self.weights.size, float(self.df_each))
        return weighted_chi_square_cdf(ratio / theta * self.df_each, self.weights, df)

    def upper(self, ratio: float, theta: float) -> float:
        """Return P(ratio' >= ratio | theta)."""
        if self._equal():
            return ScaleLaw(df=self.df).upper(ratio, theta)
        return 1.0 - self.lower(ratio, theta)

    def quantile(self, q: float) -> float:
        """Return the q-quantile of the ratio at theta = 1."""
        from scipy.optimize import brentq

        if self._equal():
            return ScaleLaw(df=self.df).quantile(q)
        low = high = ScaleLaw(df=self.df).quantile(q)
        while self.lower(low, 1.0) > q:
            low *= 0.8
        while self.lower(high, 1.0) < q:
            high *= 1.25
        return float(
            low if low == high else brentq(lambda x: self.lower(x, 1.0) - q, low, high, xtol=1e-12, rtol=1e-10)
        )

    def interval(self, ratio: float, confidence_level: float) -> ConfidenceInterval:
        """Return the interval of theta."""
        tail = (1.0 - confidence_level) / 2.0
        return ConfidenceInterval(ratio / self.quantile(1.0 - tail), ratio / self.quantile(tail))

    def _equal(self) -> bool:
        return bool(np.ptp(self.weights) <= 1e-12 * self.weights.max())


@dataclass(frozen=True, kw_only=True)
class LocationLaw:
    """``theta`` plus ``standard_error`` times Student's t: a mean over students with an estimated standard error."""

    standard_error: float
    df: float

    def lower(self, ratio: float, theta: float) -> float:
        """Return P(ratio' <= ratio | theta)."""
        from scipy import stats

        return float(stats.t.cdf((ratio - theta) / self.standard_error, self.df))

    def upper(self, ratio: float, theta: float) -> float:
        """Return P(ratio' >= ratio | theta)."""
        return self.lower(-ratio, -theta)

    def interval(self, ratio: float, confidence_level: float) -> ConfidenceInterval:
        """Return the interval of theta."""
        from scipy import stats

        half = float(stats.t.ppf(0.5 + confidence_level / 2.0, self.df)) * self.standard_error
        return ConfidenceInterval(ratio - half, ratio + half)


@dataclass(frozen=True, kw_only=True)
class CautiousLaw:
    """Of two laws, each right in a regime of its own, whichever speaks less against a ratio."""

    first: RatioLaw
    second: RatioLaw

    @property
    def df(self) -> float:
        """Degrees of freedom of the first law."""
        return self.first.df

    def lower(self, ratio: float, theta: float) -> float:
        """Return the larger P(ratio' <= ratio | theta)."""
        return max(self.first.lower(ratio, theta), self.second.lower(ratio, theta))

    def upper(self, ratio: float, theta: float) -> float:
        """Return the larger P(ratio' >= ratio | theta)."""
        return max(self.first.upper(ratio, theta), self.second.upper(ratio, theta))

    def interval(self, ratio: float, confidence_level: float) -> ConfidenceInterval:
        """Return the hull of both intervals."""
        ends = [law.interval(ratio, confidence_level) for law in (self.first, self.second)]
        return ConfidenceInterval(min(low for low, _ in ends), max(high for _, high in ends))
