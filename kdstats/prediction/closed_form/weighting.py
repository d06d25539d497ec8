"""Weights of two estimates from known variances, bias and covariance, and what estimated ones cost (T4 and T8)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdstats.errors import invalid
from kdstats.linear.label_law import published_weight_moments
from kdstats.problem.validation import as_count, as_number

__all__ = [
    "OptimalWeight",
    "estimated_gls_inflation",
    "optimal_weight",
    "published_oracle_gain",
]


@dataclass(frozen=True, kw_only=True)
class OptimalWeight:
    """The weight of the responses with the smallest mean squared error.

    Attributes
    ----------
    weight : float
        Outside [0, 1] where the covariance is large.
    mse : float
        Mean squared error of the mixture with that weight.
    """

    weight: float
    mse: float


def optimal_weight(
    teacher_variance: float, student_variance: float, *, bias: float = 0.0, covariance: float = 0.0
) -> OptimalWeight:
    r"""Return the weight of the responses in a mixture with a biased, correlated estimate (result T8).

    Parameters
    ----------
    teacher_variance : float
        :math:`v_T`, variance of the mean of the responses (of one response, over k).
    student_variance : float
        :math:`v_S`, variance of the student's own estimate.
    bias : float, default 0.0
        b, mean of the student's estimate less that of the responses.
    covariance : float, default 0.0
        c, of the two; not 0 for a student trained on the same responses.

    Raises
    ------
    ProblemError
        If the covariance is greater than the variances allow, or the two always agree, so that every
        weight gives the same.

    Notes
    -----
    The mixture :math:`\alpha\bar y + (1-\alpha)\hat s` has mean squared error
    :math:`\alpha^2v_T + (1-\alpha)^2(v_S + b^2) + 2\alpha(1-\alpha)c`. Half its derivative,
    :math:`\alpha v_T - (1-\alpha)(v_S+b^2) + (1-2\alpha)c`, is 0 at
    :math:`\alpha = (v_S+b^2-c)/(v_T+v_S+b^2-2c)`, a minimum because the denominator is
    :math:`E(\bar y-\hat s)^2 \ge 0`; there the error is
    :math:`(v_T(v_S+b^2)-c^2)/(v_T+v_S+b^2-2c)`. It needs four numbers of which a user sees at most
    the variances; with independent estimates c is 0.

    Examples
    --------
    >>> optimal_weight(1.0, 0.5, bias=0.5, covariance=0.3).weight
    0.391304347826087
    """
    v_t = as_number("teacher_variance", teacher_variance, minimum=0.0)
    v_s = as_number("student_variance", student_variance, minimum=0.0)
    b, c = as_number("bias", bias), as_number("covariance", covariance)
    if c * c > v_t * v_s * (1.0 + 1e-12):
        raise invalid("covariance", f"be at most {np.sqrt(v_t * v_s):g} in size for these variances", c)
    error = v_s + b * b
    whole = v_t + error - 2.0 * c
    if whole <= 0.0:
        raise invalid("covariance", "leave a difference between the two estimates (any weight gives the same)", c)
    return OptimalWeight(weight=(error - c) / whole, mse=(v_t * error - c * c) / whole)


def published_oracle_gain(n_responses: int) -> float:
    r"""Return the gain of weighting as published, an oracle: its variance over that of averaging.

    Parameters
    ----------
    n_responses : int
        k, at least 2 (one response has no empirical variance).

    Returns
    -------
    float
        :math:`E[(1+\chi^2_{k-1}/k)^{-2}]`, for Gaussian responses; it tends to 1/4. A bound, not an
        estimator: it mixes in the teacher's noiseless mean, which nobody has.

    Examples
    --------
    >>> [round(published_oracle_gain(k), 3) for k in (3, 10)]
    [0.491, 0.317]
    """
    k = as_count("n_responses", n_responses, minimum=2, reason="(the empirical variance of one is 0)")
    return float(published_weight_moments(k)[1])


def estimated_gls_inflation(n_responses: int) -> float:
    """Return how much weights 1/s^2 from k responses inflate the variance of generalised least squares (result T4).

    Parameters
    ----------
    n_responses : int
        k, at least 6: up to 5 the weights have infinite variance.

    Returns
    -------
    float
        (k - 3)/(k - 5), for many inputs, fixed k and Gaussian responses.

    Examples
    --------
    >>> round(estimated_gls_inflation(12), 3), round(estimated_gls_inflation(20), 3)
    (1.286, 1.133)
    """
    k = as_count("n_responses", n_responses, minimum=6, reason="(up to 5 responses the weights have infinite variance)")
    return (k - 3) / (k - 5)
