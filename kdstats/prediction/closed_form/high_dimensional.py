r"""Limits when the number of features grows with the number of inputs (result T11).

For isotropic inputs and a new isotropic point, with p/n → γ (Hastie, Montanari, Rosset & Tibshirani,
"Surprises in high-dimensional ridgeless least squares interpolation", Annals of Statistics 2022).
"""

from __future__ import annotations

import numpy as np

from kdstats.errors import invalid
from kdstats.problem.validation import as_count, as_number

__all__ = ["high_dimensional_variance"]


def high_dimensional_variance(
    aspect_ratio: float, *, noise_variance: float = 1.0, penalty: float = 0.0, n_responses: int = 1
) -> float:
    r"""Return the limit of the inter-student variance at a new point.

    Parameters
    ----------
    aspect_ratio : float
        γ, features per input; not 1 without a penalty.
    noise_variance : float, default 1.0
        Variance of one response.
    penalty : float, default 0.0
        Ridge penalty per input, λ/n for a sum-of-squares loss. 0 is the minimum-norm solution.
    n_responses : int, default 1
        Responses averaged per input.

    Returns
    -------
    float
        Without penalty :math:`\sigma^2\gamma/(1-\gamma)` below and :math:`\sigma^2/(\gamma-1)` above
        γ = 1; with it :math:`\sigma^2\gamma[M + \lambda M']`,
        :math:`M = \bigl(-(1-\gamma+\lambda) + \sqrt{(1-\gamma+\lambda)^2 + 4\gamma\lambda}\bigr)/(2\gamma\lambda)`.

    Examples
    --------
    >>> high_dimensional_variance(0.5), high_dimensional_variance(2.0)
    (1.0, 1.0)
    """
    gamma = as_number("aspect_ratio", aspect_ratio, minimum=0.0, exclusive=True)
    variance = as_number("noise_variance", noise_variance, minimum=0.0) / as_count("n_responses", n_responses)
    ridge = as_number("penalty", penalty, minimum=0.0)
    if ridge == 0.0:
        if gamma == 1.0:
            raise invalid("aspect_ratio", "differ from 1 without a penalty (the variance is infinite there)", gamma)
        return variance * (gamma / (1.0 - gamma) if gamma < 1.0 else 1.0 / (gamma - 1.0))
    if gamma > 1.0:  # X'X and XX' share their spectrum but for zeros, which would cancel in M + lambda*M'
        gamma, ridge = 1.0 / gamma, ridge / gamma
    # The Stieltjes transform M of the limiting spectrum at -lambda, written without cancellation.
    linear = 1.0 - gamma + ridge
    root = np.sqrt(linear**2 + 4.0 * gamma * ridge)
    transform = 2.0 / (linear + root)
    # Implicit derivative of gamma*lambda*M^2 + (1 - gamma + lambda)*M - 1 = 0.
    slope = -(gamma * transform**2 + transform) / (2.0 * gamma * ridge * transform + linear)
    return float(variance * gamma * (transform + ridge * slope))
