"""Test that averaging k responses divides the inter-student variance by k, with no floor.

With correlation rho between the responses to one input the variance is ``V [rho + (1 - rho)/k]``: it falls
like 1/k only where rho = 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kdstats.components.departure import inflation, slope_level
from kdstats.components.result import VarianceComponents
from kdstats.errors import ComparisonError
from kdstats.hypotest.inversion import weighted_chi_square_cdf
from kdstats.hypotest.pairing import Observed, estimated_rank, observed_arrays
from kdstats.hypotest.ratio_law import ConfidenceInterval
from kdstats.hypotest.student_space import warn_of_shared_seeds
from kdstats.problem.validation import as_count, as_number, as_probability

__all__ = ["FloorResult", "RateResult", "floor_of", "rate_test", "slope_of"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class FloorResult:
    """Test that ``v(k) = a + b/k`` has no floor a, against a floor above 0.

    Attributes
    ----------
    statistic : float
        Mean of k under weights nu_k k v_k, minus its expectation without a floor.
    pvalue : float
        One-sided, of a = 0 against a > 0.
    floor, slope : float
        Maximum-likelihood a and b, squared output units; a may be negative.
    correlation : float
        Implied correlation between responses, a/(a + b).
    """

    statistic: float
    pvalue: float
    alternative: str
    floor: float
    slope: float
    correlation: float
    _k: FloatArray = field(repr=False)
    _variance: FloatArray = field(repr=False)
    _df: FloatArray = field(repr=False)

    def confidence_interval(self, confidence_level: float = 0.95) -> ConfidenceInterval:
        """Return the profile-likelihood interval of the correlation between responses."""
        level = as_probability("confidence_level", confidence_level)
        return _correlation_interval(self._k, self._variance, self._df, self.correlation, level)


@dataclass(frozen=True, kw_only=True, eq=False)
class RateResult:
    """Slope of log inter-student variance against log k, and the test for a floor.

    Attributes
    ----------
    slope, standard_error : float
        Weighted least-squares slope and its standard error; ``statistic`` is their z against ``null_slope``.
    pvalue : float
        Two-sided, of ``slope == null_slope``.
    n_responses, variance, df : ndarray
        The k, the average inter-student variance and its degrees of freedom at each.
    lack_of_fit_pvalue : float
        That the points lie on a straight line in logs; NaN for two values of k.
    floor : FloorResult
        The test for a floor.
    """

    statistic: float
    pvalue: float
    alternative: str
    slope: float
    standard_error: float
    null_slope: float
    lack_of_fit_pvalue: float
    n_responses: NDArray[np.int_]
    variance: FloatArray
    df: FloatArray
    floor: FloorResult

    def confidence_interval(self, confidence_level: float = 0.95) -> ConfidenceInterval:
        """Return the interval of the slope."""
        from scipy import special

        half = special.ndtri(0.5 + as_probability("confidence_level", confidence_level) / 2.0) * self.standard_error
        return ConfidenceInterval(float(self.slope - half), float(self.slope + half))

    def summary(self) -> str:
        """Return a printable table."""
        low, high = self.confidence_interval()
        floor_low, floor_high = self.floor.confidence_interval()
        rows = [f"{'k':>6} {'variance':>12} {'df':>10}"]
        rows += [
            f"{k:>6d} {v:>12.5g} {n:>10.1f}" for k, v, n in zip(self.n_responses, self.variance, self.df, strict=True)
        ]
        rows += [
            f"slope of log variance on log k: {self.slope:.4f} [{low:.4f}, {high:.4f}], p = {self.pvalue:.4g} against "
            f"{self.null_slope:g}",
            f"floor: {self.floor.floor:.5g}, p = {self.floor.pvalue:.4g}; correlation between responses "
            f"{self.floor.correlation:.4f} [{floor_low:.4f}, {floor_high:.4f}]",
            "level: about 5% (intervals 95%) for Gaussian students; were they Laplace (excess kurtosis 3, in "
            f"independent directions), up to {slope_level(inflation()):.0%}",
        ]
        return "\n".join(rows)


def rate_test(
    observed_by_k: Mapping[int, VarianceComponents], *, null_slope: float = -1.0, effective_rank: float | None = None
) -> RateResult:
    """Test the rate at which averaging k responses removes inter-student variance.

    Parameters
    ----------
    observed_by_k : mapping of int to VarianceComponents
        Observation for each number of responses k; at least two, with students that are independent
        between them.
    null_slope : float, default -1
        Slope under the null hypothesis.
    effective_rank : float, optional
        Independent points that the query points amount to, from a prediction. Default: estimated from each
        observation.

    Returns
    -------
    RateResult

    Raises
    ------
    ComparisonError
        Fewer than two values of k, differing points, shared students, or a variance that is not positive.

    Notes
    -----
    ``v_k nu_k / E v_k`` is chi-square with ``nu_k`` degrees of freedom (Gaussian students; Satterthwaite), so
    that ``log v_k`` has bias ``digamma(nu/2) - log(nu/2)`` and variance ``trigamma(nu/2)``, both used exactly.
    The test for a floor is the score test of a = 0 in ``v = a + b/k``: given b, it compares
    ``sum nu_k k^2 v_k / sum nu_k k v_k`` with its null law, which is free of b and exact.
    """
    if not isinstance(observed_by_k, Mapping) or len(observed_by_k) < 2:
        raise ComparisonError(
            "`observed_by_k` must map at least 2 numbers of responses to observations; "
            f"got {len(observed_by_k) if isinstance(observed_by_k, Mapping) else type(observed_by_k).__name__}"
        )
    null_slope = as_number("null_slope", null_slope)
    k = np.array(sorted(as_count("n_responses", key) for key in observed_by_k))
    results = [observed_by_k[int(key)] for key in k]
    _check_comparable(results)
    arrays = [observed_arrays(result) for result in results]
    points = [_average(item, result, effective_rank) for item, result in zip(arrays, results, strict=True)]
    variance, df = (np.array(column) for column in zip(*points, strict=True))
    if (variance <= 0).any():
        bad = int(np.argmax(variance <= 0))
        got = f"{variance[bad]:.3g} at k={k[bad]}"
        raise ComparisonError(f"`observed_by_k` must have positive inter-student variance at every k; got {got}")
    return slope_of(k, variance, df, null_slope=null_slope)


def slope_of(k: NDArray[np.int_], variance: FloatArray, df: FloatArray, *, null_slope: float = -1.0) -> RateResult:
    """Return the weighted least-squares slope on logs and the floor test, from averages and degrees of freedom."""
    from scipy import special

    response = np.log(variance) - special.digamma(df / 2) + np.log(df / 2)
    weights = 1.0 / special.polygamma(1, df / 2)
    x = np.log(k) - weights @ np.log(k) / weights.sum()
    information = float(weights @ x**2)
    slope = float(weights @ (x * response)) / information
    error = information**-0.5
    statistic = (slope - null_slope) / error
    residual = response - weights @ response / weights.sum() - slope * x
    spare = len(k) - 2
    return RateResult(
        statistic=statistic,
        pvalue=float(2.0 * special.ndtr(-abs(statistic))),
        alternative="two-sided",
        slope=slope,
        standard_error=error,
        null_slope=null_slope,
        lack_of_fit_pvalue=float(special.chdtrc(spare, weights @ residual**2)) if spare else np.nan,
        n_responses=k,
        variance=variance,
        df=df,
        floor=floor_of(k, variance, df),
    )


def floor_of(k: NDArray[np.int_], variance: FloatArray, df: FloatArray) -> FloorResult:
    """Return the score test of a = 0 in ``v = a + b/k`` and the maximum-likelihood fit."""
    numbers = k.astype(float)
    mass = df * numbers * variance
    center = float(mass @ numbers / mass.sum())
    weights = numbers - center
    pvalue = 1.0 - weighted_chi_square_cdf(0.0, weights[weights != 0], df[weights != 0])
    correlation = _best_correlation(numbers, variance, df)
    scale = _scale(correlation, numbers, variance, df)
    return FloorResult(
        statistic=center - float(df @ numbers / df.sum()),
        pvalue=pvalue,
        alternative="greater",
        floor=correlation * scale,
        slope=(1.0 - correlation) * scale,
        correlation=correlation,
        _k=numbers,
        _variance=variance,
        _df=df,
    )


def _average(arrays: Observed, result: VarianceComponents, effective_rank: float | None) -> tuple[float, float]:
    """Return the average inter-student variance and its Satterthwaite degrees of freedom."""
    if arrays.single_output:
        raise ComparisonError(
            "`observed_by_k` must have at least 2 outputs per student, or their known variance; got 1"
        )
    between = float(arrays.between.mean())
    if effective_rank is not None:
        df = arrays.df_between * as_number("effective_rank", effective_rank, minimum=0.0, exclusive=True)
    else:
        rank = result.attrs.get("effective_rank")
        if rank is None and arrays.predictions is not None:
            rank = estimated_rank(arrays.predictions.reshape(len(arrays.predictions), -1))
        df = _sample_df(arrays.df_between, 1.0 if rank is None else float(rank))
    if not arrays.n_replicates:
        return between, df
    value = between - arrays.within_share * float(arrays.within.mean())
    spread = 2.0 * between**2 / df + (arrays.within_share * arrays.within_se_of_mean) ** 2
    return value, 2.0 * value**2 / spread


def _sample_df(df: float, rank: float) -> float:
    """Degrees of freedom with the rank of the sample covariance in the place of the consistent estimate of the rank.

    The consistent estimate is known badly with few students and then overstates the degrees of freedom; the plain
    ratio of the sample's traces, which Wishart moments relate to it, errs to the careful side.
    """
    if df < 1:
        return 0.0
    plain = (rank + 2.0 / df) / ((df - 1.0) * (df + 2.0) / df**2 + (rank + 2.0 / df) / df)
    return df * plain


def _check_comparable(results: list[VarianceComponents]) -> None:
    first = results[0].inter_student
    for other in results:
        if not isinstance(other, VarianceComponents) or other.exactness != "observed":
            raise ComparisonError("`observed_by_k` must hold observations; got something else")
        if list(other.inter_student["point"].values.tolist()) != list(first["point"].values.tolist()):
            raise ComparisonError("`observed_by_k` must have the same points at every k; got differing labels")
    warn_of_shared_seeds(
        results,
        "`observed_by_k` must have independent students at every k, and observations here share a seed: give "
        "each k its own `rng`, or the level of the tests is not held",
        stacklevel=3,
    )
    kept = [r.student_predictions for r in results if r.student_predictions is not None]
    for index, one in enumerate(kept[1:], start=1):
        if one.shape == kept[index - 1].shape and np.array_equal(one.values, kept[index - 1].values):
            raise ComparisonError(
                "`observed_by_k` must have independent students at every k; got the same students twice"
            )


def _shape(correlation: float, k: FloatArray) -> FloatArray:
    return np.asarray(correlation + (1.0 - correlation) / k)


def _scale(correlation: float, k: FloatArray, variance: FloatArray, df: FloatArray) -> float:
    return float(df @ (variance / _shape(correlation, k)) / df.sum())


def _deviance(correlation: float, k: FloatArray, variance: FloatArray, df: FloatArray) -> float:
    """Twice the negative profile log-likelihood of the correlation, up to a constant."""
    return float(df @ np.log(_shape(correlation, k)) + df.sum() * np.log(_scale(correlation, k, variance, df)))


def _least_correlation(k: FloatArray) -> float:
    """Return the end of the correlations at which v(k) is positive for every k, -1/(max k - 1)."""
    return float(-1.0 / (k.max() - 1.0)) * (1.0 - 1e-9)


def _best_correlation(k: FloatArray, variance: FloatArray, df: FloatArray) -> float:
    from scipy.optimize import minimize_scalar

    best = minimize_scalar(
        lambda rho: _deviance(rho, k, variance, df),
        bounds=(_least_correlation(k), 1.0),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return float(best.x)


def _correlation_interval(
    k: FloatArray, variance: FloatArray, df: FloatArray, best: float, level: float
) -> ConfidenceInterval:
    from scipy import special
    from scipy.optimize import brentq

    # Bartlett's factor brings the mean of the deviance of few degrees of freedom to that of chi-square
    factor = 1.0 + float((1.0 / df).sum() - 1.0 / df.sum()) / (3.0 * (len(df) - 1.0))
    limit = _deviance(best, k, variance, df) + factor * float(special.chdtri(1, 1.0 - level))

    def excess(rho: float) -> float:
        return _deviance(rho, k, variance, df) - limit

    def end(edge: float) -> float:
        return edge if excess(edge) <= 0 else float(brentq(excess, *sorted((edge, best)), xtol=1e-12))

    return ConfidenceInterval(end(_least_correlation(k)), end(1.0))
