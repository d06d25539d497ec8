"""Test of the whole covariance between query points, not only its diagonal.

The predictions of a linear student vary in p (+ 1) directions, however many points are asked: outside the
range of the predicted covariance there must be nothing, inside it the whitened covariance must be the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdstats.components.result import VarianceComponents
from kdstats.errors import ComparisonError
from kdstats.hypotest.inversion import likelihood_ratio_cdf, weighted_chi_square_cdf
from kdstats.hypotest.multiplicity import adjust_pvalues
from kdstats.hypotest.pairing import Pair, pair
from kdstats.problem.validation import as_count

__all__ = ["CovarianceResult", "covariance_level", "covariance_test", "whitened_statistic"]

FloatArray = NDArray[np.float64]

#: Directions with a smaller share of the largest predicted eigenvalue are outside the range.
RANGE_TOLERANCE = 1e-10
#: Share of the observed variance that may lie outside the range: single-precision training stays below it.
OUTSIDE_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class CovarianceResult:
    """Likelihood-ratio test of the inter-student covariance, one per output, combined by Holm.

    Attributes
    ----------
    statistic : float
        ``(S-1)(tr W - log det W - r)`` of the output with the smallest p-value, W the whitened covariance.
    pvalue : float
        0 if there is variance outside the range of the predicted covariance.
    df : float
        ``r(r+1)/2``, of the chi-square limit; the exact law is used.
    n_directions : int
        r, leading directions tested; ``share_tested`` the part of the predicted variance they hold.
    outside_range : float
        Share of the observed variance outside the range of the predicted covariance.
    eigenvalues : ndarray
        Of W, descending; all 1 in expectation under the null up to sampling spread.
    """

    statistic: float
    pvalue: float
    alternative: str
    df: float
    n_directions: int
    share_tested: float
    outside_range: float
    eigenvalues: FloatArray
    method: str


def covariance_test(
    predicted: VarianceComponents, observed: VarianceComponents, *, n_directions: int | None = None
) -> CovarianceResult:
    """Test the covariance of the student means between query points.

    Parameters
    ----------
    predicted : VarianceComponents
        With ``covariance`` (``kd.predict(problem, covariance=True)``), exact.
    observed : VarianceComponents
        With ``student_predictions``.
    n_directions : int, optional
        Leading eigenvectors to test. Default: the whole range, or the leading (S-1)/2 of it if that is less,
        for beyond that the test has little power.

    Returns
    -------
    CovarianceResult

    Raises
    ------
    ComparisonError
        If either lacks what it needs, or ``n_directions`` exceeds the rank or S-1.

    Notes
    -----
    Assumes Gaussian students. With r outputs sampled per student the predicted intra-student variance over r,
    independent between points, is added to the diagonal. The p-value is from the exact law of the
    likelihood ratio, whose moments are ratios of gamma functions (Anderson 2003, section 10.8; the
    characteristic function is inverted numerically), so it holds its level for any rank up to S-1, where
    the Bartlett-corrected chi-square does not.
    """
    if n_directions is not None:
        as_count("n_directions", n_directions)
    return covariance_of(pair(predicted, observed), n_directions)


def covariance_of(both: Pair, n_directions: int | None = None) -> CovarianceResult:
    """Return the test of a pair."""
    covariance, predictions = both.covariance, both.observed.predictions
    if covariance is None:
        raise ComparisonError("`predicted` must keep its covariance; got None (kd.predict(problem, covariance=True))")
    if predictions is None:
        raise ComparisonError("`observed` must keep its student_predictions; got None")
    if (both.inter_se > 0).any():
        raise ComparisonError("`predicted` must have an exact covariance; got standard errors above 0")
    extra = (
        both.expected_between - both.inter
        if not both.observed.n_replicates
        else both.intra * both.observed.within_share
    )
    each = [
        _one_output(covariance[q] + np.diag(extra[:, q]), predictions[:, :, q], n_directions)
        for q in range(len(covariance))
    ]
    adjusted = adjust_pvalues([item.pvalue for item in each])
    worst = each[int(np.argmin(adjusted))]
    return CovarianceResult(**{**vars(worst), "pvalue": float(adjusted.min())})


def whitened_statistic(whitened: FloatArray, n: int) -> float:
    """Return ``n (tr W - log det W - r)``."""
    eigenvalues = np.linalg.eigvalsh(whitened)
    if eigenvalues[0] <= 0:
        return np.inf
    return float(n * (eigenvalues - np.log(eigenvalues) - 1.0).sum())


def covariance_level(n_directions: int, factor: float, *, alpha: float = 0.05) -> float:
    r"""Return how often the test rejects a true covariance if log variances vary ``factor`` times as much.

    With independent directions and many students the statistic tends to :math:`\chi^2_{r(r-1)/2}+f\chi^2_r` in the
    place of :math:`\chi^2_{r(r+1)/2}`: off the diagonal nothing changes.
    """
    from scipy.special import chdtri

    if not n_directions:
        return alpha
    off, on = n_directions * (n_directions - 1) / 2, float(n_directions)
    limit = float(chdtri(off + on, alpha))
    weights, df = np.array([1.0, factor]), np.array([off, on])
    return 1.0 - weighted_chi_square_cdf(limit, weights[df > 0], df[df > 0])


def _one_output(covariance: FloatArray, predictions: FloatArray, n_directions: int | None) -> CovarianceResult:
    n = len(predictions) - 1
    centered = predictions - predictions.mean(axis=0)
    eigenvalues, vectors = (part[..., ::-1] for part in np.linalg.eigh(covariance))
    rank = int((eigenvalues > RANGE_TOLERANCE * max(eigenvalues[0], 0.0)).sum()) if eigenvalues[0] > 0 else 0
    inside = centered @ vectors[:, :rank]
    total = float((centered**2).sum())
    outside = float(((centered - inside @ vectors[:, :rank].T) ** 2).sum()) / total if total > 0 else 0.0
    chosen = min(rank, max(1, n // 2)) if n_directions is None else n_directions
    if chosen > min(rank, n):
        raise ComparisonError(
            f"`n_directions` must be at most {min(rank, n)} (rank {rank}, {n + 1} students); got {chosen}"
        )
    scores = inside[:, :chosen] / np.sqrt(eigenvalues[:chosen])
    whitened = scores.T @ scores / n
    statistic = whitened_statistic(whitened, n) if chosen else 0.0
    pvalue = (
        1.0 - likelihood_ratio_cdf(statistic, n, chosen) if chosen and np.isfinite(statistic) else float(chosen == 0)
    )
    return CovarianceResult(
        statistic=statistic,
        pvalue=0.0 if outside > OUTSIDE_TOLERANCE else pvalue,
        alternative="two-sided",
        df=chosen * (chosen + 1) / 2,
        n_directions=chosen,
        share_tested=float(eigenvalues[:chosen].sum() / eigenvalues[:rank].sum()) if rank else 1.0,
        outside_range=outside,
        eigenvalues=np.linalg.eigvalsh(whitened)[::-1],
        method="likelihood ratio, exact law",
    )
