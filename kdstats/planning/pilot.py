r"""What a pilot of a few responses to each input says about the variances, and how far it may be wrong.

One variance for all inputs: the estimate has :math:`\nu = nq(k_0-1)` degrees of freedom for n inputs, q outputs and
k₀ responses, and :math:`\hat\sigma^2\nu/\chi^2_\nu` are draws whose quantiles are the exact interval. A misfit
estimated from the residuals of the pilot's means is :math:`\hat\tau^2 = R - \hat\sigma^2[1+(k_0-1)\rho]/k_0`, R their
mean square, with draws :math:`Rf/\chi^2_f` for R.

One variance for each input: they are shrunk towards each other (Smyth 2004;
:mod:`kdstats.sampling.response_variances`). With :math:`\sigma_i^2 \sim d_0 s_0^2/\chi^2_{d_0}` the variances given
their estimates are :math:`(d_0s_0^2 + \nu s_i^2)/\chi^2_{d_0+\nu}`. The expected inter-student variance is linear in
them, so allocating by their means is the best that can be done, and an interval from their draws stays right for a
design chosen by them. Each draw takes :math:`d_0, s_0^2` from estimates simulated anew (a parametric bootstrap), so
that their error is in the interval too.

Responses to one input with correlation ρ have sample variances with expectation :math:`(1-\rho)\sigma^2`; what is
called an estimate of :math:`\sigma^2` here has been divided by that factor, which leaves the degrees of freedom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.special
from numpy.typing import NDArray

from kdstats.errors import invalid
from kdstats.sampling.response_variances import inverse_trigamma

__all__ = ["InputVariances", "input_variances", "variance_draws"]

FloatArray = NDArray[np.float64]

#: Half the prior degrees of freedom that count as infinite: all inputs share one variance.
POOLED = 5e5


@dataclass(frozen=True, eq=False, kw_only=True)
class InputVariances:
    """Variances of the inputs after a pilot.

    Attributes
    ----------
    mean : (n,) ndarray
        Expected variances.
    prior_df : float
        d₀: how many degrees of freedom the other inputs are worth to each (infinite: one variance for all).
    draws : (n_draws, n) ndarray
    """

    mean: FloatArray
    prior_df: float
    draws: FloatArray


def variance_draws(
    estimate: float,
    df: int,
    *,
    n_draws: int,
    generator: np.random.Generator,
    n_inputs: int = 1,
    input_correlation: float = 0.0,
) -> FloatArray:
    """Return draws of a variance whose estimate has ``df`` degrees of freedom at each of some inputs.

    Noise with correlation r between inputs has the eigenvalues 1 - r and, once, 1 + (n - 1) r.
    """
    if input_correlation == 0.0:
        return np.asarray(estimate * df * n_inputs / generator.chisquare(df * n_inputs, size=n_draws))
    common = (1.0 + (n_inputs - 1) * input_correlation) * generator.chisquare(df, size=n_draws)
    if n_inputs > 1:
        common = common + (1.0 - input_correlation) * generator.chisquare(df * (n_inputs - 1), size=n_draws)
    return np.asarray(estimate * df * n_inputs / common)


def input_variances(estimates: FloatArray, df: int, *, n_draws: int, generator: np.random.Generator) -> InputVariances:
    """Shrink the variances that a pilot gave, each on ``df`` degrees of freedom.

    Raises
    ------
    ProblemError
        If an estimate is 0, which a pilot with continuous noise does not give, or the estimates scatter so widely that
        the variances have no mean.
    """
    if (estimates <= 0.0).any():
        where = int(np.argmin(estimates))
        raise invalid("noise_variance", "be greater than 0 at every input with a pilot", f"0 at index {where}")
    n = estimates.size
    half, scale = _prior(estimates[None, :], df)
    if half[0] + 0.5 * df <= 1.0:
        raise invalid("pilot", "have more responses: the variances of the inputs scatter too widely for", f"{df} + 1")
    again = np.broadcast_to(scale, (n_draws, n))
    if half[0] < POOLED:
        again = again * half[0] / generator.gamma(half[0], size=(n_draws, n))
    halves, scales = _prior(again * generator.chisquare(df, size=(n_draws, n)) / df, df)
    pooled = halves >= POOLED
    total = df * n * float(estimates.mean())
    draws = np.empty((n_draws, n))
    draws[pooled] = (total / generator.chisquare(df * n, size=n_draws))[pooled, None]
    shape, sums = _posterior(estimates, df, halves[~pooled], scales[~pooled])
    draws[~pooled] = sums / generator.gamma(np.broadcast_to(shape, sums.shape))
    if half[0] >= POOLED:
        return InputVariances(mean=np.full(n, float(estimates.mean())), prior_df=np.inf, draws=draws)
    shape, sums = _posterior(estimates, df, half, scale)
    return InputVariances(mean=(sums / (shape - 1.0))[0], prior_df=2.0 * float(half[0]), draws=draws)


def _posterior(estimates: FloatArray, df: int, half: FloatArray, scale: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return shape and scale of the inverse gamma law of the variances given their estimates."""
    return half[:, None] + 0.5 * df, half[:, None] * scale[:, None] + 0.5 * df * estimates


def _prior(estimates: FloatArray, df: int) -> tuple[FloatArray, FloatArray]:
    """Return d₀/2 and s₀² of each row of estimates, from mean and variance of their logarithms."""
    half = 0.5 * df
    logs = np.log(estimates) - scipy.special.digamma(half) + np.log(half)
    spread = np.var(logs, axis=1, ddof=1) - scipy.special.polygamma(1, half)
    centre = logs.mean(axis=1)
    prior = np.where(spread > 0.5 / POOLED, inverse_trigamma(np.maximum(spread, 0.5 / POOLED)), 2.0 * POOLED)
    return prior, np.asarray(np.exp(centre + scipy.special.digamma(prior) - np.log(prior)))
