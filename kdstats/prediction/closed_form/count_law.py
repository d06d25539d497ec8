r"""Law of how often each class is among k answers: multinomial, or Dirichlet-multinomial where answers correlate.

Each count alone is binomial, or beta-binomial with parameters :math:`\alpha_c = p_c(1/\rho - 1)` and
:math:`\sum_d\alpha_d-\alpha_c`. Expected values of sums over classes of any function of one count are sums over
:math:`j = 0 \dots k`, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlog1py, xlogy

__all__ = ["CountLaw", "count_weights", "log_count_masses", "some_unseen"]

FloatArray = NDArray[np.float64]

#: Floats held at once.
CHUNK = 4_000_000
#: Probability of a union below which the sum of its parts has as many digits as there are.
RARE = 1e-12
#: Weight, relative to the largest, that is left out of a product.
TINY = 1e-40


@dataclass(frozen=True, eq=False, kw_only=True)
class CountLaw:
    """Law of the class counts at every input.

    Parameters
    ----------
    probabilities : (n, C) ndarray
        Of one answer.
    n_responses : int
        Answers k to one input.
    correlation : float
        Between answers to one input, in [0, 1].
    is_sampled : bool
        False where counts are at their mean, k times the probabilities.
    """

    probabilities: FloatArray
    n_responses: int
    correlation: float
    is_sampled: bool

    def expected(self, function: Callable[[FloatArray], FloatArray]) -> FloatArray:
        """Return the expected value of a function of each count, shape (n, C).

        Parameters
        ----------
        function : callable
            Takes counts of shape (rows, C, j) and returns values of that shape; j broadcasts.
        """
        return self.expectations({"value": function})["value"]

    def expectations(self, functions: Mapping[str, Callable[[FloatArray], FloatArray]]) -> dict[str, FloatArray]:
        """Return the expected values of several functions, by name, for one pass over the law."""
        p, k = self.probabilities, self.n_responses
        if not self.is_sampled:
            return {name: function(k * p[..., None])[..., 0] for name, function in functions.items()}
        counts = np.broadcast_to(np.arange(k + 1.0), (1, p.shape[1], k + 1))
        values = {name: function(counts)[0] for name, function in functions.items()}
        found: dict[str, list[FloatArray]] = {name: [] for name in functions}
        for masses in self._masses():
            for name, value in values.items():
                found[name].append(np.einsum("ncj,cj->nc", masses, value))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def absent(self) -> FloatArray:
        """Return the probability that a class is not among the answers, shape (n, C)."""
        return self.expected(lambda counts: (counts == 0.0).astype(np.float64))

    def _masses(self) -> Iterator[FloatArray]:
        """Yield the probability of every count of every class, shape (rows, C, k + 1), a few inputs at a time."""
        n, n_classes = self.probabilities.shape
        rows = max(1, CHUNK // (n_classes * (self.n_responses + 1)))
        for start in range(0, n, rows):
            p = self.probabilities[start : start + rows]
            masses = np.exp(log_count_masses(p, n_responses=self.n_responses, correlation=self.correlation))
            yield masses / masses.sum(axis=-1, keepdims=True)


def log_count_masses(p: FloatArray, *, n_responses: int, correlation: float) -> FloatArray:
    """Return log-probabilities that a class of probability p is 0 ... k of the answers, shape (*p.shape, k + 1)."""
    p, k, j = p[..., None], n_responses, np.arange(n_responses + 1.0)
    choices = gammaln(k + 1.0) - gammaln(j + 1.0) - gammaln(k - j + 1.0)
    if correlation == 0.0:
        return np.asarray(choices + xlogy(j, p) + xlog1py(k - j, -p))
    with np.errstate(divide="ignore"):
        if correlation == 1.0:
            return np.where(j == k, np.log(p), np.where(j == 0, np.log1p(-p), -np.inf))
        total = 1.0 / correlation - 1.0
        hits, misses = (_log_rising(total * part, k) for part in (p, 1.0 - p))
    return np.asarray(choices + hits + misses[..., ::-1] - _log_rising(np.array([total]), k)[..., -1])


def count_weights(sizes: FloatArray, k: int, scale: float, *, is_correlated: bool) -> FloatArray:
    """Return weights whose products have the law of the counts, given their sum, shape (len(sizes), k + 1).

    They are (scale size)^i / i! for independent answers, of which sizes are the probabilities, and
    scale^i size (size + 1) ... (size + i - 1) / i! for correlated ones with Dirichlet parameters ``sizes``.
    """
    j = np.arange(float(k))
    steps = scale * (sizes[:, None] + (j if is_correlated else 0.0)) / (j + 1.0)
    return np.concatenate([np.ones((len(sizes), 1)), np.cumprod(steps, axis=1)], axis=1)


def some_unseen(p: FloatArray, needed: NDArray[np.bool_], *, n_responses: int, correlation: float) -> float:
    """Return the probability that some needed class is not among k answers.

    Parameters
    ----------
    p : (C,) ndarray
        Probability of each class in one answer.
    needed : (C,) ndarray of bool
    n_responses : int
        Answers k.
    correlation : float
        Between them, in [0, 1].
    """
    wanted = p[needed]
    if len(wanted) == 0:
        return 0.0
    if (wanted == 0.0).any() or len(wanted) > n_responses:
        return 1.0
    absent = np.exp(log_count_masses(wanted, n_responses=n_responses, correlation=correlation)[:, 0])
    if len(wanted) == 1 or absent.sum() < RARE:
        return float(absent.sum())
    if correlation == 1.0:
        return 1.0
    rest = max(1.0 - wanted.sum(), 0.0)
    product, logs = np.zeros(n_responses + 1), 0.0
    product[0] = 1.0
    table = _log_count_weights(np.append(wanted, rest), n_responses, correlation)
    table[:-1, 0] = -np.inf
    for log_weights in table:
        top = log_weights.max()
        weights = np.exp(log_weights - top)
        product = np.convolve(product, weights[: np.flatnonzero(weights > TINY)[-1] + 1])[: n_responses + 1]
        logs += top + np.log(product.max())
        product = product / product.max()
    with np.errstate(divide="ignore"):
        seen = np.exp(np.log(product[-1]) + logs - _log_count_weights(np.ones(1), n_responses, correlation)[0, -1])
    return float(np.clip(1.0 - seen, 0.0, 1.0))


def _log_count_weights(shares: FloatArray, k: int, correlation: float) -> FloatArray:
    """Return logarithms of :func:`count_weights`, scaled so that all counts add up to about k, (len(shares), k + 1)."""
    j, share = np.arange(float(k)), shares[:, None]
    with np.errstate(divide="ignore"):
        if correlation == 0.0:
            steps = np.log(k * share / (j + 1.0))
        else:
            total = 1.0 / correlation - 1.0
            steps = np.log(k / (total + k) * (total * share + j) / (j + 1.0))
        return np.concatenate([np.zeros((len(shares), 1)), np.cumsum(steps, axis=1)], axis=1)


def _log_rising(start: FloatArray, k: int) -> FloatArray:
    """Return log of start (start + 1) ... (start + j - 1) for j = 0 ... k along the last axis."""
    logs = np.log(start + np.arange(float(k)))
    return np.concatenate([np.zeros_like(start), np.cumsum(logs, axis=-1)], axis=-1)
