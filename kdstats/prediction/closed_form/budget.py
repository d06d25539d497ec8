r"""A fixed number of responses, spent on new inputs or on more responses per input (result T9).

With N = nk responses in all, p features of a Gaussian design and a new point from the same law,
least squares has variance :math:`\sigma^2 p/(N - k(p+1))`: new inputs beat repeated responses when the
student is well specified. With misfit of variance τ² between inputs, a price per input and one per
response, the best k is :math:`\sqrt{\sigma^2 c_0/(\tau^2 c_1)}`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdstats.errors import invalid
from kdstats.problem.validation import as_count, as_number

__all__ = ["BudgetPlan", "fixed_budget_variance", "optimal_responses"]


@dataclass(frozen=True, kw_only=True)
class BudgetPlan:
    """The best number of responses per input.

    Attributes
    ----------
    continuous : float
        The minimiser over real k (infinite without misfit and with free responses).
    n_responses : int
        The better of its two integer neighbours, at least 1.
    """

    continuous: float
    n_responses: int


def fixed_budget_variance(n_total: int, *, n_features: int, n_responses: int, noise_variance: float = 1.0) -> float:
    """Return the expected inter-student variance at a new point, for N responses split k to an input.

    Parameters
    ----------
    n_total : int
        N, a multiple of ``n_responses``.
    n_features : int
        p, of a Gaussian design without intercept.
    n_responses : int
        k.
    noise_variance : float, default 1.0
        Variance of one response.

    Raises
    ------
    ProblemError
        If N is no multiple of k, or N/k does not exceed p + 1, below which the variance is infinite.

    Examples
    --------
    >>> one, five = (fixed_budget_variance(100, n_features=4, n_responses=k) for k in (1, 5))
    >>> one < five
    True
    """
    total, p = as_count("n_total", n_total), as_count("n_features", n_features)
    k = as_count("n_responses", n_responses)
    variance = as_number("noise_variance", noise_variance, minimum=0.0)
    if total % k:
        raise invalid("n_total", f"be a multiple of n_responses ({k})", total)
    if total // k <= p + 1:
        raise invalid("n_total", f"be more than n_responses * (n_features + 1) = {k * (p + 1)}", total)
    return variance * p / (total - k * (p + 1))


def optimal_responses(
    *, noise_variance: float, misfit_variance: float, input_cost: float, response_cost: float
) -> BudgetPlan:
    r"""Return how many responses per input a budget should buy.

    Minimises :math:`(\tau^2 + \sigma^2/k)(c_0 + c_1 k)`, the variance per input times its price.

    Parameters
    ----------
    noise_variance : float
        σ², variance of a response around its input's mean.
    misfit_variance : float
        τ², variance between inputs that the student cannot fit; greater than 0.
    input_cost, response_cost : float
        c₀ and c₁, in one currency; the response's greater than 0.
    """
    noise = as_number("noise_variance", noise_variance, minimum=0.0)
    misfit = as_number("misfit_variance", misfit_variance, minimum=0.0, exclusive=True)
    per_input = as_number("input_cost", input_cost, minimum=0.0)
    per_response = as_number("response_cost", response_cost, minimum=0.0, exclusive=True)
    best = float(np.sqrt(noise * per_input / (misfit * per_response)))
    neighbours = {max(1, int(np.floor(best))), max(1, int(np.ceil(best)))}
    chosen = min(neighbours, key=lambda k: (misfit + noise / k) * (per_input + per_response * k))
    return BudgetPlan(continuous=best, n_responses=chosen)
