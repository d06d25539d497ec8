r"""Are ranks uniform: the exact simultaneous test of their empirical distribution.

Of S uniform ranks 0 to L, the number below i is binomial, :math:`B_i \sim \mathrm{Bin}(S, i/(L+1))`. The test looks at
the smallest pointwise tail, :math:`T = \min_i \min\{P(B_i \le b_i), P(B_i \ge b_i)\}`, as the simultaneous bands of
Säilynoja et al. [1]_ do, and takes its exact distribution: given their sum, the counts of the L + 1 ranks are
independent Poisson counts, so the chance that the running sum stays within bounds is a chain of convolutions.

References
----------
.. [1] Säilynoja, T., Bürkner, P.-C. & Vehtari, A. (2022), Statist. Comput. 32, 32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc, gammaln

__all__ = ["running_counts", "uniform_band", "uniform_pvalue"]

FloatArray = NDArray[np.float64]
Counts = NDArray[np.int64]

#: Tails are equal (those of mirrored counts are) up to this factor.
TIE = 1.0 + 1e-9


def running_counts(ranks: Counts, *, n_ranks: int) -> Counts:
    """Return how many of the ranks (S,) lie below 1, ..., n_ranks - 1."""
    return np.cumsum(np.bincount(ranks, minlength=n_ranks))[:-1]


def uniform_pvalue(ranks: Counts, *, n_ranks: int) -> float:
    """Return the exact p-value of ranks (S,), whole numbers from 0 to ``n_ranks - 1``, under uniformity.

    Differences below 1e-13 are lost in the subtraction from 1.
    """
    tails = _tails(len(ranks), n_ranks)
    seen = running_counts(ranks, n_ranks=n_ranks)
    smallest = tails[np.arange(n_ranks - 1), seen].min()
    return max(0.0, 1.0 - _chance_inside(tails > smallest * TIE))


def uniform_band(n_simulations: int, *, n_ranks: int, level: float) -> FloatArray:
    """Return bounds (2, n_ranks - 1) of the shares of ranks below 1, 2, ..., left at most with chance ``level``."""
    tails = _tails(n_simulations, n_ranks)
    steps = np.unique(tails[tails < level])
    first, last = 0, len(steps)  # steps[:first] are narrow enough to be left at most with chance `level`
    while last - first > 1:
        middle = (first + last) // 2
        if 1.0 - _chance_inside(tails > steps[middle] * TIE) <= level:
            first = middle
        else:
            last = middle
    inside = tails > steps[first] * TIE
    lower = inside.argmax(axis=1)
    upper = n_simulations - inside[:, ::-1].argmax(axis=1)
    return np.stack([lower, upper]) / n_simulations


def _tails(n_simulations: int, n_ranks: int) -> FloatArray:
    """Return the smaller tail of each count 0 to S (columns) of ranks below 1, ..., n_ranks - 1 (rows)."""
    share = np.arange(1, n_ranks)[:, None] / n_ranks
    counts = np.arange(n_simulations + 1)
    from_above = np.ones((n_ranks - 1, n_simulations + 1))
    from_above[:, 1:] = bdtrc(counts[:-1], n_simulations, share)
    return np.asarray(np.minimum(bdtr(counts, n_simulations, share), from_above))


def _chance_inside(inside: NDArray[np.bool_]) -> float:
    """Return the chance that uniform ranks have running counts (columns) inside at every rank (rows)."""
    n_simulations, rate = inside.shape[1] - 1, inside.shape[1] - 1.0
    counts = np.arange(n_simulations + 1)
    mean = rate / (len(inside) + 1)
    step = np.exp(counts * np.log(mean) - mean - gammaln(counts + 1.0))
    chance = np.zeros(n_simulations + 1)
    chance[0] = 1.0
    for allowed in inside:
        chance = np.convolve(chance, step)[: n_simulations + 1] * allowed
    total = rate * np.log(rate) - rate - gammaln(rate + 1.0)
    return float(chance @ step[::-1] / np.exp(total))
