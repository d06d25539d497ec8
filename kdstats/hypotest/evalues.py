r"""E-values of a variance ratio: betting against a null hypothesis, with a right to stop at any time.

Whitened one-step-ahead deviations of Gaussian students are independent N(0, theta); after nu of them with sum of
squares Q the likelihood of theta against theta_0 is ``(theta_0/theta)^(nu/2) exp(Q/2 (1/theta_0 - 1/theta))``, a
martingale under theta_0. Averaged over an inverse-gamma prior of theta with shape a and scale b it is

.. math:: E = \frac{\Gamma(a+\nu/2)}{\Gamma(a)} \frac{b^a}{(b+Q/2)^{a+\nu/2}} \theta_0^{\nu/2} e^{Q/(2\theta_0)},

still a martingale of mean 1, so that P(sup E >= 1/alpha) <= alpha (Ville). With the prior cut at theta_0, on the
side away from the null, each likelihood ratio is a supermartingale for the whole one-sided null: if u ~ N(0, t) its
factor has the mean ``(theta_0/theta)^(1/2) (1 + t (1/theta - 1/theta_0))^(-1/2)``, at most 1 for every t of the null.

Two groups of students with a common but unknown covariance have no v_0. Their maximal invariant under linear maps,
the eigenvalues l of ``(W_a + W_b)^-1 W_a`` with the scatter matrices W of r directions, has a law that depends on the
ratio theta alone; by Wijsman's theorem its likelihood ratio is

.. math:: \frac{f_\theta}{f_{\theta_0}} = (\theta_0/\theta)^{r\nu_a/2}
   \prod_j \Big(\frac{1-l_j+l_j/\theta_0}{1-l_j+l_j/\theta}\Big)^{(\nu_a+\nu_b)/2},

a martingale in the filtration of the invariant. For theta > theta_0 it grows with W_a, so that it is pathwise smaller
under a smaller true ratio: cut at theta_0 the mixture holds its level for the whole one-sided null.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdstats.problem.validation import as_number

__all__ = [
    "Prior",
    "log_evalue",
    "log_evalue_of_groups",
    "log_evalue_one_sided",
    "log_evalue_unknown_scale",
    "log_mean",
    "null_bounds",
    "prior_of_margin",
    "ratios_of_margin",
]

FloatArray = NDArray[np.float64]

#: Points, and standard deviations to each side, of the sum over an unknown log scale.
SCALE_POINTS, SCALE_SPREAD = 201, 12.0
#: Ratios in the discrete mixture between two groups.
N_RATIOS = 64
LOG_LARGEST_RATIO = 7.0
#: An interval that reaches this far on the log scale has no end.
LOG_FARTHEST = 60.0


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Inverse-gamma prior of the ratio theta, with shape ``a`` and scale ``b``."""

    a: float
    b: float


@lru_cache
def prior_of_margin(margin: float) -> Prior:
    """Return the prior under which log theta has mean 0 and standard deviation log(margin)."""
    from scipy.optimize import brentq
    from scipy.special import polygamma, psi

    spread = np.log(as_number("margin", margin, minimum=1.0, exclusive=True)) ** 2
    low, high = 1.0 / (2.0 + spread + 1.0 / spread), 2.0 + 2.0 / spread
    while polygamma(1, low) < spread:
        low /= 4.0
    a = float(brentq(lambda shape: polygamma(1, shape) - spread, low, high, xtol=1e-14, rtol=1e-12))
    return Prior(a=a, b=float(np.exp(psi(a))))


def log_evalue(squares: ArrayLike, df: ArrayLike, *, prior: Prior, null: float = 1.0) -> FloatArray:
    """Return log E against the null ``theta = null``.

    Parameters
    ----------
    squares : array_like
        Sums of whitened squares Q.
    df : array_like
        Their degrees of freedom nu.
    prior : Prior
        Of theta under the alternative; must not depend on the data.
    null : float, default 1
        Ratio under the null hypothesis.
    """
    q, half = np.asarray(squares, float) / 2.0, np.asarray(df, float) / 2.0
    return np.asarray(_log_marginal(q, half, prior) + half * np.log(null) + q / null)


def log_evalue_one_sided(
    squares: ArrayLike, df: ArrayLike, *, prior: Prior, boundary: float, alternative: str
) -> FloatArray:
    """Return log E against ``theta >= boundary`` (alternative "less") or ``theta <= boundary`` ("greater")."""
    from scipy.special import gammainc, gammaincc

    q, half = np.asarray(squares, float) / 2.0, np.asarray(df, float) / 2.0
    share = gammaincc if alternative == "less" else gammainc
    with np.errstate(divide="ignore"):
        cut = np.log(share(prior.a + half, (prior.b + q) / boundary)) - np.log(share(prior.a, prior.b / boundary))
    return np.asarray(log_evalue(2.0 * q, 2.0 * half, prior=prior, null=boundary) + cut)


def log_evalue_unknown_scale(squares: FloatArray, df: ArrayLike, *, prior: Prior) -> FloatArray:
    """Return log E against "all directions have the same ratio", whatever it is.

    Parameters
    ----------
    squares : ndarray, shape (..., r)
        Whitened sums of squares of each direction.
    df : array_like, shape (...)
        Degrees of freedom of one direction.
    prior : Prior
        Of each direction's ratio to the common scale, independently.

    Returns
    -------
    ndarray, shape (...)

    Notes
    -----
    Both hypotheses are averaged over the common scale c with the right Haar measure dc/c, which gives the likelihood
    ratio of the maximal invariant: its law under the null does not depend on c. The integral over log c is a
    trapezoidal sum.
    """
    from scipy.special import gammaln, logsumexp

    q, half = np.asarray(squares, float) / 2.0, np.asarray(df, float)[..., None] / 2.0
    r, total, count = q.shape[-1], q.sum(axis=-1), half[..., 0] * q.shape[-1]
    # under the alternative log c spreads about log(Q/nu) as log Q and the mean of r prior draws of log theta do
    width = SCALE_SPREAD * np.sqrt(1.0 / np.maximum(count, 0.25) + 2.0 / (r * prior.a))
    shift = np.linspace(-1.0, 1.0, SCALE_POINTS)
    log_c = np.log(total / count)[..., None] + width[..., None] * shift
    scaled = q[..., None, :] / np.exp(log_c)[..., None]
    terms = _log_marginal(scaled, half[..., None, :], prior).sum(axis=-1) - count[..., None] * log_c
    alternative = logsumexp(terms, axis=-1) + np.log(width * (shift[1] - shift[0]))
    return np.asarray(alternative - (gammaln(count) - count * np.log(total)))


@lru_cache
def ratios_of_margin(margin: float) -> tuple[float, ...]:
    """Return equally weighted log ratios, quantiles of a Cauchy law with scale log(margin): a prior for two groups.

    The tails are heavy because two strategies may differ by any factor, and cut at a factor of a thousand.
    """
    scale = np.log(as_number("margin", margin, minimum=1.0, exclusive=True))
    places = 2.0 * (np.arange(N_RATIOS) + 0.5) / N_RATIOS - 1.0
    return tuple(float(value) for value in scale * np.tan(places * np.arctan(LOG_LARGEST_RATIO / scale)))


def log_evalue_of_groups(
    shares: FloatArray,
    df_a: ArrayLike,
    df_b: ArrayLike,
    *,
    log_ratios: tuple[float, ...],
    null: float = 1.0,
    alternative: str = "two-sided",
) -> FloatArray:
    """Return log E against a ratio of the covariances of two groups, whatever their common shape.

    Parameters
    ----------
    shares : ndarray, shape (..., r)
        Eigenvalues of ``(W_a + W_b)^-1 W_a``.
    df_a, df_b : array_like, shape (...)
        Degrees of freedom of the scatter matrices.
    log_ratios : tuple of float
        Equally weighted log ratios under the alternative; must not depend on the data.
    null : float, default 1
        Ratio of the covariances under the null hypothesis, or its end.
    alternative : {"two-sided", "less", "greater"}
        ``"less"`` tests ratios of ``null`` and more, ``"greater"`` ratios of ``null`` and less.
    """
    logs, centre = np.array(log_ratios), float(np.log(null))
    if alternative != "two-sided":
        logs = logs[logs < centre] if alternative == "less" else logs[logs > centre]
    a, b = np.asarray(df_a, float), np.asarray(df_b, float)
    rank = shares.shape[-1]
    base = np.log1p(shares * (1.0 / null - 1.0)).sum(axis=-1)
    terms = np.empty((logs.size, *base.shape))
    for index, log_ratio in enumerate(logs):
        at = np.log1p(shares * np.expm1(-log_ratio)).sum(axis=-1)
        terms[index] = 0.5 * (a + b) * (base - at) - 0.5 * rank * a * (log_ratio - centre)
    return log_mean(terms, axis=0)


def log_mean(logs: FloatArray, axis: int) -> FloatArray:
    """Return the logarithm of the mean of exponentials."""
    from scipy.special import logsumexp

    return np.asarray(logsumexp(logs, axis=axis) - np.log(logs.shape[axis]))


def null_bounds(log_evalue_at: Callable[[float], float], *, start: float, significance: float) -> tuple[float, float]:
    """Return the nulls that E does not reject: an interval valid at every time at once.

    Parameters
    ----------
    log_evalue_at : callable
        log E against a null ratio; convex in the logarithm of the ratio.
    start : float
        Ratio near which E is smallest.
    significance : float
        One minus the confidence level.
    """
    from scipy.optimize import brentq

    if not 0.0 < start < np.inf:
        return 0.0, np.inf
    centre, limit = float(np.log(start)), -float(np.log(significance))

    def excess(log_null: float) -> float:
        return float(log_evalue_at(float(np.exp(log_null))) - limit)

    if excess(centre) >= 0.0:
        return float(np.exp(centre)), float(np.exp(centre))
    ends = []
    for direction in (-1.0, 1.0):
        step = 0.1
        while excess(centre + direction * step) < 0.0:
            step *= 2.0
            if step > LOG_FARTHEST:
                break
        if step > LOG_FARTHEST:
            ends.append(0.0 if direction < 0 else np.inf)
        else:
            ends.append(float(np.exp(brentq(excess, *sorted((centre, centre + direction * step)), xtol=1e-12))))
    return ends[0], ends[1]


def _log_marginal(q: FloatArray, half: FloatArray, prior: Prior) -> FloatArray:
    from scipy.special import gammaln

    shape = prior.a + half
    return np.asarray(
        gammaln(shape) - gammaln(prior.a) + prior.a * np.log(prior.b) - shape * np.log(prior.b + q), dtype=float
    )
