"""What a test of the ratio of two strategies' variances found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from kdstats.components.departure import inflation, level_of_variance
from kdstats.hypotest.ratio_law import ConfidenceInterval
from kdstats.problem.validation import as_probability

__all__ = ["AT_LEAST", "EXACT", "RatioResult", "gaussian_level", "tail"]

#: Levels of tests and coverage of intervals, in words.
EXACT = "5% (interval 95%) for Gaussian students"
AT_LEAST = "at most 5% (interval at least 95%) for Gaussian students"


@dataclass(frozen=True, kw_only=True, eq=False)
class RatioResult:
    """Test that two strategies' average variances have a given ratio.

    Attributes
    ----------
    statistic : float
        Average variance of the first strategy over that of the second.
    pvalue : float
        Of ``null_ratio`` against ``alternative``.
    df, df_other : float
        Degrees of freedom of the two averages; of a paired test, of Student's t at ``null_ratio``.
    correlation : float
        Between the strategies' students; NaN where they are not paired.
    effective_rank, effective_rank_other : float
        Independent points that the points amount to for each strategy; NaN where the method needs none.
    method : str
        Law of the statistic, in words.
    coverage : str
        Under which law of students p-value and interval hold their level, whether about or at least, and what was
        measured where that is known to fall short.
    unreliable : str
        Why neither p-value nor interval decides anything, and what to do instead; empty where nothing is known against
        them.
    """

    component: str
    statistic: float
    pvalue: float
    alternative: str
    null_ratio: float
    df: float
    df_other: float
    correlation: float
    effective_rank: float
    n_students: tuple[int, int]
    paired: bool
    method: str
    coverage: str
    _interval: Callable[[float], ConfidenceInterval] = field(repr=False)
    effective_rank_other: float = np.nan
    unreliable: str = ""

    def confidence_interval(self, confidence_level: float = 0.95) -> ConfidenceInterval:
        """Return the two-sided interval of the true ratio."""
        return self._interval(as_probability("confidence_level", confidence_level))

    def summary(self) -> str:
        """Return a printable account."""
        low, high = self.confidence_interval()
        sizes = " and ".join(str(size) for size in self.n_students)
        pairs = f", paired, correlation {self.correlation:.3f}" if self.paired else ""
        marked = [f"UNRELIABLE: {self.unreliable}"] if self.unreliable else []
        return "\n".join(
            [
                f"ratio of {self.component} variances: {self.statistic:.4g}, 95% interval [{low:.4g}, {high:.4g}]",
                f"p = {self.pvalue:.4g} of a ratio of {self.null_ratio:g} ({self.alternative}); {self.method}",
                f"{sizes} students{pairs}",
                f"level: {self.coverage}",
                *marked,
            ]
        )

    def __str__(self) -> str:
        return self.summary()


def gaussian_level(df: tuple[float, float], n: tuple[int, int], *, several: bool, correlation: float = 0.0) -> str:
    """Say what level a test of Gaussian students has, and what Laplace students would make of it."""
    factor = inflation(min(n), correlation=correlation)
    laplace = level_of_variance(df[0], factor, df_other=df[1])
    return (
        f"{AT_LEAST if several else EXACT}; were they Laplace (excess kurtosis 3, in independent "
        f"directions), up to about {laplace:.0%} (interval {1.0 - laplace:.0%})"
    )


def tail(lower: float, upper: float, alternative: str) -> float:
    """Return the p-value of an alternative from those of both sides."""
    if alternative == "two-sided":
        return min(1.0, 2.0 * min(lower, upper))
    return lower if alternative == "less" else upper
