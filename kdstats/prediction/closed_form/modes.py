r"""Law of the most frequent of k sampled answers, exactly, for thousands of classes.

Ties are broken at random. Give each class an independent uniform priority: the winner is the class whose pair of count
and priority is largest. With :math:`w_{c,i} = (kp_c)^i/i!` (independent answers) or :math:`(\alpha_c)_i/i!`
(correlated ones), both up to a factor :math:`s^i`, counts have the law of independent variables of weights w, given
their sum, and with :math:`g_{c,m,u}(x) = \sum_{i<m} w_{c,i}x^i + u\,w_{c,m}x^m`

.. math:: P(\text{c wins}) = \frac{1}{W_k}\sum_{m=1}^k \int_0^1 [x^k]\; w_{c,m}x^m \prod_{d\ne c} g_{d,m,u}(x)\,du,

:math:`W_k` the same coefficient of the sum of all classes. The integrand is a polynomial in u of degree at most
:math:`\lfloor k/m\rfloor - 1`, so that Gauss-Legendre nodes integrate it exactly; every term is positive, so that no
digits cancel. Classes too unlikely to be seen m times (probability below 1e-18) count as one, whose weights are known
in closed form.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numpy.typing import NDArray

from kdstats.errors import PredictionError
from kdstats.prediction.closed_form.count_law import count_weights, log_count_masses

__all__ = ["expected_of_mode", "mode_law"]

FloatArray = NDArray[np.float64]

#: Probability of an event that is left out.
NEGLIGIBLE = 1e-18
#: Distance of the total probability from 1 that is more than rounding.
SUM_TOLERANCE = 1e-9

if TYPE_CHECKING:

    def _compiled(function: Any) -> Any: ...

else:
    _compiled = numba.njit(cache=True)


def mode_law(p: FloatArray, *, n_responses: int, correlation: float = 0.0) -> FloatArray:
    """Return the probability that each class is the most frequent of k answers, shape (C,).

    Parameters
    ----------
    p : (C,) ndarray
        Probability of each class in one answer.
    n_responses : int
        Answers k.
    correlation : float, default 0.0
        Between the answers, in [0, 1].

    Notes
    -----
    Ties are broken at random. Exact up to rounding and C times 1e-17. Costs of the order of
    C k² where no class is likely to be seen more than a few times, up to C k³ / 4 where all are.
    """
    if correlation == 1.0 or n_responses == 1:
        return np.array(p)
    setting = _setting(p, n_responses, n_responses, correlation)
    found = np.zeros(len(p))
    for m, active, nodes, masses in setting.levels:
        weights = setting.weights[:active]
        _add_law(weights, setting.rest(active), m, nodes, masses, found[:active])
    return _checked(_unsorted(found / setting.whole[-1], setting.order), 1.0)


def expected_of_mode(
    p: FloatArray, values: FloatArray, *, n_responses: NDArray[np.int64], correlation: float = 0.0
) -> FloatArray:
    """Return the expected value of functions of the most frequent answer, for many k at the cost of the largest.

    Parameters
    ----------
    p : (C,) ndarray
        Probability of each class in one answer.
    values : (W, C) ndarray
        Each row has a value, at least 0, for every class: an indicator gives the probability of an event.
    n_responses : (K,) ndarray of int
        Numbers of answers k.
    correlation : float, default 0.0
        Between the answers, in [0, 1].

    Returns
    -------
    (K, W) ndarray
    """
    largest, smallest = int(n_responses.max()), int(n_responses.min())
    one = p @ values.T
    if correlation == 1.0 or largest == 1:
        return np.broadcast_to(one, (len(n_responses), len(values))).copy()
    setting = _setting(p, largest, smallest, correlation)
    table = np.ascontiguousarray(np.vstack([values, np.ones(len(p))])[:, setting.order].T)
    found = np.zeros((largest + 1, table.shape[1]))
    for m, active, nodes, masses in setting.levels:
        _add_expected(setting.weights[:active], setting.rest(active), m, nodes, masses, table[:active], found)
    answer = found[n_responses] / setting.whole[n_responses, None]
    _checked(answer[:, -1:].T, 1.0)
    return np.asarray(answer[:, :-1])


@dataclass(frozen=True, eq=False, kw_only=True)
class _Setting:
    """Weights of classes in falling order of probability, and for each level m who can reach it."""

    order: NDArray[np.int64]
    weights: FloatArray
    whole: FloatArray
    cumulative: FloatArray
    scale: float
    levels: list[tuple[int, int, FloatArray, FloatArray]]
    is_correlated: bool

    def rest(self, active: int) -> FloatArray:
        """Return the weights of all classes after the first ``active`` ones taken together."""
        left = max(float(self.cumulative[-1] - self.cumulative[active]), 0.0)
        if active == len(self.order):
            left = 0.0
        found: FloatArray = count_weights(
            np.array([left]), len(self.whole) - 1, self.scale, is_correlated=self.is_correlated
        )[0]
        return found


def _setting(p: FloatArray, largest: int, smallest: int, correlation: float) -> _Setting:
    order = np.argsort(-p, kind="stable")
    order = order[: int((p > 0.0).sum())]
    is_correlated = correlation > 0.0
    total = 1.0 / correlation - 1.0 if is_correlated else 1.0
    sizes = total * p[order]
    scale = largest / np.e / (total + largest / np.e) if is_correlated else largest / np.e
    weights = count_weights(sizes, largest, scale, is_correlated=is_correlated)
    whole = count_weights(np.array([total]), largest, scale, is_correlated=is_correlated)[0]
    top = np.cumsum(np.exp(log_count_masses(p[order[:1]], n_responses=smallest, correlation=correlation))[0])
    levels = []
    j = np.arange(largest)
    with np.errstate(divide="ignore"):
        factor = np.log((largest - j) / (j + 1.0) / ((total + j) if is_correlated else 1.0))
    reach = np.zeros(len(order))
    for m in range(1, largest + 1):
        reach = reach + factor[m - 1] + np.log(sizes + (m - 1 if is_correlated else 0.0))
        active = int((reach > np.log(NEGLIGIBLE)).sum())
        if active == 0 or (m < smallest and top[m] < NEGLIGIBLE):
            continue
        levels.append((m, active, *_nodes((largest // m + 1) // 2)))
    cumulative = np.concatenate([[0.0], np.cumsum(sizes)])
    return _Setting(
        order=order,
        weights=weights,
        whole=whole,
        cumulative=cumulative,
        scale=scale,
        levels=levels,
        is_correlated=is_correlated,
    )


@functools.cache
def _nodes(count: int) -> tuple[FloatArray, FloatArray]:
    """Return Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, masses = np.polynomial.legendre.leggauss(count)
    return 0.5 * (nodes + 1.0), 0.5 * masses


def _unsorted(found: FloatArray, order: NDArray[np.int64]) -> FloatArray:
    answer = np.zeros(len(found))
    answer[order] = found[: len(order)]
    return answer


def _checked(probabilities: FloatArray, whole: float) -> FloatArray:
    worst = float(np.abs(probabilities.sum(axis=0) - whole).max())
    if not worst < SUM_TOLERANCE:
        raise PredictionError(
            f"the law of the most frequent answer sums to 1 up to {worst:.2g} only: too many responses for float64"
        )
    return probabilities


@_compiled
def _times(polynomial: Any, weights: Any, m: int, u: float) -> None:
    """Multiply a polynomial, in place, by the sum of weights x^i below m and u times that at m."""
    top = len(polynomial) - 1
    for i in range(top, 0, -1):
        total = polynomial[i]  # weights[0] is 1; for m >= 1 the constant term stays
        for j in range(1, min(m - 1, i) + 1):
            total += weights[j] * polynomial[i - j]
        if i >= m:
            total += u * weights[m] * polynomial[i - m]
        polynomial[i] = total


@_compiled
def _add_law(weights: Any, rest: Any, m: int, nodes: Any, masses: Any, found: Any) -> None:
    """Add each class's weight of winning with a count of m; forward products are kept, backward ones grow."""
    n_classes, size = weights.shape
    before = np.empty((n_classes, size))
    for q in range(len(nodes)):
        forward = rest.copy()
        for c in range(n_classes):
            before[c] = forward
            if c < n_classes - 1:
                _times(forward, weights[c], m, nodes[q])
        after = np.zeros(size)
        after[0] = 1.0
        for c in range(n_classes - 1, -1, -1):
            value = 0.0
            for i in range(size - m):
                value += before[c, i] * after[size - 1 - m - i]
            found[c] += masses[q] * weights[c, m] * value
            _times(after, weights[c], m, nodes[q])


@_compiled
def _add_expected(weights: Any, rest: Any, m: int, nodes: Any, masses: Any, values: Any, found: Any) -> None:
    """Add the weight of winning with a count of m, times each value, for every number of answers."""
    n_classes, size = weights.shape
    width = values.shape[1]
    derivative = np.empty((width, size))
    for q in range(len(nodes)):
        product = rest.copy()
        derivative[:] = 0.0
        for c in range(n_classes):
            for v in range(width):
                _times(derivative[v], weights[c], m, nodes[q])
                if values[c, v] != 0.0:
                    factor = values[c, v] * weights[c, m]
                    for i in range(m, size):
                        derivative[v, i] += factor * product[i - m]
            _times(product, weights[c], m, nodes[q])
        for v in range(width):
            for i in range(size):
                found[i, v] += masses[q] * derivative[v, i]
