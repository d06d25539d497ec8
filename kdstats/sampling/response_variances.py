r"""Variances of responses as a student can estimate them: pooled over inputs, input by input, or in between.

Shrinkage is that of Smyth (2004, "Linear models and empirical Bayes methods for assessing differential
expression in microarray experiments", Statistical Applications in Genetics and Molecular Biology 3(1),
article 3; the variances of limma): with
:math:`s_i^2 \sim \sigma_i^2\chi^2_d/d` and :math:`1/\sigma_i^2 \sim \chi^2_{d_0}/(d_0 s_0^2)`, the mean of
:math:`1/\sigma_i^2` given :math:`s_i^2` is the inverse of

.. math:: \tilde s_i^2 = \frac{d_0 s_0^2 + d s_i^2}{d_0 + d},

and :math:`d_0, s_0^2` follow from mean and variance over inputs of :math:`\log s_i^2`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["inverse_trigamma", "response_variances", "shrunken_variances"]

FloatArray = NDArray[np.float64]

#: Newton steps of the inverse trigamma function, which converges monotonically from its start.
N_STEPS = 12


def response_variances(squares: FloatArray, degrees_of_freedom: int, *, estimate: str) -> FloatArray:
    """Estimate the variance of a response at each input.

    Parameters
    ----------
    squares : (B, n) ndarray
        Sums of squares of the responses around their means, for B students and n inputs.
    degrees_of_freedom : int
        Of each sum.
    estimate : {"pooled", "per_input", "shrunken"}

    Returns
    -------
    (B, n) ndarray
    """
    variances = squares / degrees_of_freedom
    if estimate == "pooled":
        return np.broadcast_to(variances.mean(axis=1, keepdims=True), variances.shape)
    return shrunken_variances(variances, degrees_of_freedom) if estimate == "shrunken" else variances


def shrunken_variances(variances: FloatArray, degrees_of_freedom: int) -> FloatArray:
    """Move the variances of each student's inputs toward a common one, by as much as they scatter by chance.

    Parameters
    ----------
    variances : (B, n) ndarray
        Greater than 0, except that all of a student's may be 0 and then stay so.
    degrees_of_freedom : int
        Of each of them.

    Returns
    -------
    (B, n) ndarray
        All alike where the variances scatter no more than sampling makes them (an infinite d0).
    """
    half, n = 0.5 * degrees_of_freedom, variances.shape[1]
    if n == 1 or not variances.any():
        return variances
    logs = np.log(np.where(variances > 0.0, variances, 1.0)) - special.digamma(half) + np.log(half)
    centre = logs.mean(axis=1, keepdims=True)
    excess = logs.var(axis=1, ddof=1, keepdims=True) - special.polygamma(1, half)
    varies = excess > 0.0
    prior = inverse_trigamma(np.where(varies, excess, 1.0))
    scale = np.exp(centre + np.where(varies, special.digamma(prior) - np.log(prior), 0.0))
    moderated = (prior * scale + half * variances) / (prior + half)
    return np.where(variances.any(axis=1, keepdims=True), np.where(varies, moderated, scale), 0.0)


def inverse_trigamma(value: FloatArray) -> FloatArray:
    """Return x with trigamma(x) = value, for values greater than 0 (Newton on 1/trigamma, Smyth 2004)."""
    x = 0.5 + 1.0 / value
    for _ in range(N_STEPS):
        trigamma = special.polygamma(1, x)
        x = x + trigamma * (1.0 - trigamma / value) / special.polygamma(2, x)
    return np.asarray(x)
