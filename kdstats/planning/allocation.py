r"""Responses to inputs whose noise differs: who is asked how often.

For a fixed linear map the average inter-student variance is :math:`\sum_i w_i[\rho + (1-\rho)/k_i]` with :math:`w_i =
a_i\sigma_i^2` and :math:`a_i` the average over query points of :math:`L_{qi}^2`. Over real numbers the best
allocation of a total is :math:`k_i \propto \sqrt{w_i}` (Neyman's rule), with at least one response each; over
integers one response after the other goes where it gains most, which is optimal because the sum is separable and
convex.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["allocate", "allocated_share", "relaxed_optimum"]

FloatArray = NDArray[np.float64]

#: Halvings that find the smallest gain worth a response.
N_HALVINGS = 60
#: Share of a negative correlation below which the variance of a mean counts as 0.
ROUNDING = 1e-12


def allocate(weights: FloatArray, total: int, *, limit: int | None = None) -> NDArray[np.int64]:
    r"""Return integers of at least 1, with a given sum, that minimise :math:`\sum_i w_i/k_i`.

    Parameters
    ----------
    weights : (n,) ndarray
        w, at least 0.
    total : int
        Sum, at least n; what exceeds ``n * limit`` is left over.
    limit : int, optional
        Largest entry.

    Examples
    --------
    >>> import numpy as np
    >>> allocate(np.array([1.0, 4.0, 9.0]), 12)
    array([2, 4, 6])
    """
    n = weights.size
    most = total if limit is None else limit
    if total >= n * most:
        return np.full(n, most, dtype=np.int64)
    if not weights.max() > 0.0:
        return np.asarray(total // n + (np.arange(n) < total % n), dtype=np.int64)
    shares = weights / weights.max()
    low, high = -np.log(4.0 * float(total) ** 2 + 4.0), 0.0
    for _ in range(N_HALVINGS):  # of the logarithm of the gain that every response given must bring
        middle = 0.5 * (low + high)
        too_many = _gaining(shares, np.exp(middle), most).sum() > total
        low, high = (middle, high) if too_many else (low, middle)
    counts = _gaining(shares, np.exp(high), most)
    queue = [(-w / (k * (k + 1.0)), i) for i, (w, k) in enumerate(zip(shares, counts, strict=True)) if k < most]
    heapq.heapify(queue)
    for _ in range(total - int(counts.sum())):
        _, i = heapq.heappop(queue)
        counts[i] += 1
        if counts[i] < most:
            heapq.heappush(queue, (-shares[i] / (counts[i] * (counts[i] + 1.0)), i))
    return counts


def allocated_share(counts: NDArray[Any], response_correlation: float) -> FloatArray:
    """Return the variance of each input's mean response over that of one response; 0 where it is rounding."""
    share = (1.0 - response_correlation) / counts + response_correlation
    return np.asarray(np.where(share < ROUNDING * max(-response_correlation, 0.0), 0.0, share))


def relaxed_optimum(weights: FloatArray, asked: NDArray[np.bool_], total: FloatArray) -> FloatArray:
    r"""Return the least :math:`\sum_i w_i/k_i` over real :math:`k_i\ge1` with a given sum, for many sets of inputs.

    Parameters
    ----------
    weights : (B, n) ndarray
    asked : (B, n) ndarray of bool
        Inputs that are in the set.
    total : (B,) ndarray
        Sums; a set with more inputs than its sum has the value infinity.

    Returns
    -------
    (B,) ndarray
    """
    root = -np.sort(-np.where(asked, np.sqrt(np.maximum(weights, 0.0)), -1.0), axis=1)
    free, number = np.arange(1, root.shape[1] + 1), asked.sum(axis=1)[:, None]
    inside = free <= number
    root = np.where(inside, root, 0.0)
    sums, squares = np.cumsum(root, axis=1), np.cumsum(root**2, axis=1)
    spare = total[:, None] - (number - free)  # what the first `free` inputs share while all others get one
    with np.errstate(divide="ignore", invalid="ignore"):
        held = inside & ((spare * root >= sums) | (free == 1))
        value = np.where(spare > 0, sums**2 / spare, np.inf) + squares[:, -1:] - squares
    last = root.shape[1] - 1 - np.argmax(held[:, ::-1], axis=1)
    found = value[np.arange(len(root)), last]
    return np.asarray(np.where(number[:, 0] <= total, found, np.inf))


def _gaining(weights: FloatArray, gain: float, most: int) -> NDArray[np.int64]:
    """Return the largest k at each input whose last response gained at least ``gain``: w/(k(k-1)) >= gain."""
    k = np.floor(0.5 * (1.0 + np.sqrt(1.0 + 4.0 * weights / gain)))
    return np.clip(k, 1, most).astype(np.int64)
