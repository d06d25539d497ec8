"""Distribution functions from characteristic functions, where no library has the law."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["distribution_function", "likelihood_ratio_cdf", "weighted_chi_square_cdf"]

FloatArray = NDArray[np.float64]
LogCharacteristic = Callable[[FloatArray], NDArray[np.complex128]]

#: Half-width of the period of the inversion, in standard deviations: what lies beyond is aliased.
PERIOD_SD = 40.0
#: The sum stops where the modulus of the characteristic function falls below this.
NEGLIGIBLE = 1e-13
#: Most terms ever summed; reached only below about four degrees of freedom.
MAX_TERMS = 2**18


def weighted_chi_square_cdf(x: float, weights: FloatArray, df: FloatArray) -> float:
    """Return P(sum_j w_j X_j <= x) for independent X_j, chi-square with ``df[j]`` degrees of freedom.

    Weights may be of either sign and degrees of freedom need not be integers. Absolute error about
    1e-12, or 1e-6 where the degrees of freedom add up to less than four.
    """
    center = float(weights @ df)
    scale = float(np.sqrt(2.0 * (weights**2) @ df))

    def log_cf(t: FloatArray) -> NDArray[np.complex128]:
        return np.asarray(-0.5 * (np.log1p(-2j * np.multiply.outer(t, weights)) @ df.astype(complex)))

    return distribution_function(x, log_cf, center=center, scale=scale)


def likelihood_ratio_cdf(x: float, n: int, r: int) -> float:
    """Return the null law of ``n (tr W - log det W - r)``, where nW is Wishart with n df in r dimensions.

    From the moments ``E[exp(s tr A) det(A)^h] = 2^{rh} (1-2s)^{-r(n/2+h)} Gamma_r(n/2+h) / Gamma_r(n/2)``
    of A = nW, exact for every n >= r.
    """
    from scipy.special import digamma, loggamma, polygamma

    half = 0.5 * (n - np.arange(r))
    center = n * (r * np.log(n / 2) - digamma(half).sum())
    scale = np.sqrt(n**2 * polygamma(1, half).sum() - 2.0 * n * r)
    start = loggamma(half).sum()

    def log_cf(t: FloatArray) -> NDArray[np.complex128]:
        s = 1j * t
        h = -n * s
        gammas = sum(loggamma(a + h) for a in half) - start
        shift = s * (n * r * (np.log(n) - 1.0))
        return np.asarray(gammas + shift + r * h * np.log(2.0) - r * (n / 2 + h) * np.log(1.0 - 2.0 * s))

    return distribution_function(x, log_cf, center=float(center), scale=float(scale))


def distribution_function(x: float, log_cf: LogCharacteristic, *, center: float, scale: float) -> float:
    """Invert a characteristic function by the midpoint rule (Gil-Pelaez; Davies 1973).

    ``F(x) = 1/2 - (1/pi) sum_k Im[phi(t_k) exp(-i t_k x)] / (k + 1/2)`` with ``t_k = (k + 1/2) step``; the
    only errors are the mass farther than one period from x and the terms left off.
    """
    step = 2.0 * np.pi / (abs(x - center) + PERIOD_SD * scale)
    n_terms = 64
    while n_terms < MAX_TERMS and log_cf(np.array([n_terms * step])).real[0] > np.log(NEGLIGIBLE):
        n_terms *= 2
    k = np.arange(n_terms) + 0.5
    terms = 0.0
    for part in np.array_split(k, max(1, n_terms // 4096)):
        t = part * step
        terms += float((np.exp(log_cf(t) - 1j * t * x).imag / part).sum())
    return float(np.clip(0.5 - terms / np.pi, 0.0, 1.0))
