"""Test that the students' test errors follow their predicted law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdstats.components.result import VarianceComponents
from kdstats.errors import ComparisonError
from kdstats.hypotest.ratio_law import ConfidenceInterval
from kdstats.problem.validation import as_array, as_choice, as_probability

__all__ = ["MseLaw", "MseResult", "mse_test", "student_mse"]

FloatArray = NDArray[np.float64]


class MseLaw(Protocol):
    """Law of one student's test mean squared error."""

    @property
    def mean(self) -> float:
        """Expected MSE."""
        ...

    @property
    def variance(self) -> float:
        """Variance of the MSE over students."""
        ...

    def cdf(self, x: Any) -> Any:
        """Distribution function."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class MseResult:
    """Student MSEs against their predicted law.

    Attributes
    ----------
    statistic, pvalue : float
        Of the method asked for: observed over predicted mean, or the Kolmogorov-Smirnov distance.
    df : float
        Of the chi-square of the mean, ``2 S mean^2 / variance`` of the law; S for the distance.
    observed, predicted : float
        Mean MSE, squared output units.
    variance_ratio : float
        Observed over predicted variance of the MSE.
    """

    statistic: float
    pvalue: float
    alternative: str
    method: str
    df: float
    observed: float
    predicted: float
    variance_ratio: float
    _df_mean: float

    def confidence_interval(self, confidence_level: float = 0.95) -> ConfidenceInterval:
        """Return the interval of the expected MSE, for a law that differs from the predicted one in scale only."""
        from scipy.special import chdtri

        tail = (1.0 - as_probability("confidence_level", confidence_level)) / 2.0
        low, high = (self.observed * self._df_mean / float(chdtri(self._df_mean, q)) for q in (tail, 1.0 - tail))
        return ConfidenceInterval(low, high)


def mse_test(observed: Any, law: MseLaw, *, target: Any = None, method: str = "kolmogorov") -> MseResult:
    """Test that students' test MSEs follow a predicted law.

    Parameters
    ----------
    observed : VarianceComponents or array_like
        Observation that keeps its ``student_predictions``, or the MSE of each student, shape (S,).
    law : object
        With ``mean``, ``variance`` and ``cdf(x)``, such as ``kd.mse_distribution(problem, ...)``.
    target : array_like, optional
        True values at the query points, shape (m,) or (m, q); needed with VarianceComponents.
    method : {"kolmogorov", "mean"}
        ``scipy.stats.kstest`` against the whole law; or the mean against its own, with the chi-square that has the
        law's mean and variance: errors of students are skewed, and with few of them Student's t rejects too often (.17
        of true laws with five students). For laws of a density, as of sums of squares: one of few values is not like a
        chi-square.

    Returns
    -------
    MseResult

    Raises
    ------
    ComparisonError
        If predictions or target are missing, shapes differ, or there are fewer than two students.
    """
    from scipy import stats

    as_choice("method", method, ("kolmogorov", "mean"))
    mse = (
        student_mse(observed, target)
        if isinstance(observed, VarianceComponents)
        else as_array("observed", observed, ndim=1)
    )
    if mse.size < 2:
        raise ComparisonError(f"`observed` must have at least 2 students to be tested; got {mse.size}")
    if mse.min() < 0.0:
        raise ComparisonError(f"`observed` must have mean squared errors of at least 0; got {mse.min():.3g}")
    if not (law.mean > 0.0 and law.variance > 0.0):
        raise ComparisonError(
            f"`law` must have mean and variance above 0; got {float(law.mean):.3g}, {float(law.variance):.3g}"
        )
    if method == "mean":
        statistic, pvalue, df = _mean_test(mse, float(law.mean), float(law.variance))
    else:
        found = stats.kstest(mse, lambda x: np.asarray(law.cdf(x), dtype=float))
        statistic, pvalue, df = float(found.statistic), float(found.pvalue), float(mse.size)
    return MseResult(
        statistic=statistic,
        pvalue=pvalue,
        alternative="two-sided",
        method=method,
        df=df,
        observed=float(mse.mean()),
        predicted=float(law.mean),
        variance_ratio=float(mse.var(ddof=1) / law.variance),
        _df_mean=float(2.0 * mse.size * law.mean**2 / law.variance),
    )


def _mean_test(mse: FloatArray, mean: float, variance: float) -> tuple[float, float, float]:
    """Return the ratio to the predicted mean, its two-sided p-value and the degrees of freedom of its chi-square."""
    from scipy.special import chdtr, chdtrc

    ratio, df = float(mse.mean()) / mean, 2.0 * mse.size * mean**2 / variance
    return ratio, float(min(1.0, 2.0 * min(chdtr(df, df * ratio), chdtrc(df, df * ratio)))), float(df)


def student_mse(observed: VarianceComponents, target: Any) -> FloatArray:
    """Return each student's mean squared error over points and outputs, shape (S,)."""
    predictions = observed.student_predictions
    if predictions is None:
        raise ComparisonError("`observed` must keep its student_predictions; got None")
    if target is None:
        raise ComparisonError("`target` must give the true values at the query points; got None")
    values = predictions.transpose("student", "point", "output").values
    truth = as_array("target", target, ndim=(1, 2))
    truth = truth[:, None] if truth.ndim == 1 else truth
    if truth.shape != values.shape[1:]:
        raise ComparisonError(
            f"`target` must have shape {values.shape[1:]}, as the predictions have; got {truth.shape}"
        )
    return np.asarray(((values - truth) ** 2).mean(axis=(1, 2)))
