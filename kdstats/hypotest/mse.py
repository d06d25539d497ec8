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
        Of the method asked for: Student's t of the mean, or the Kolmogorov-Smirnov distance.
    df : float
        S-1 for the mean, S for the distance.
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
    _mse: FloatArray

    def confidence_interval(self, confidence_level: float = 0.95) -> ConfidenceInterval:
        """Return Student's t interval of the expected MSE."""
        from scipy import stats

        level = as_probability("confidence_level", confidence_level)
        interval = stats.ttest_1samp(self._mse, self.predicted).confidence_interval(level)
        return ConfidenceInterval(float(interval.low), float(interval.high))


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
        ``scipy.stats.kstest`` against the whole law, or ``scipy.stats.ttest_1samp`` against its mean.

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
    if method == "mean":
        found, df = stats.ttest_1samp(mse, float(law.mean)), mse.size - 1
    else:
        found, df = stats.kstest(mse, lambda x: np.asarray(law.cdf(x), dtype=float)), mse.size
    return MseResult(
        statistic=float(found.statistic),
        pvalue=float(found.pvalue),
        alternative="two-sided",
        method=method,
        df=float(df),
        observed=float(mse.mean()),
        predicted=float(law.mean),
        variance_ratio=float(mse.var(ddof=1) / law.variance) if law.variance > 0 else np.nan,
        _mse=mse,
    )


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
