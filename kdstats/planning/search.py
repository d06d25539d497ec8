"""The best design with the same number of responses to every input, by search over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import invalid
from kdstats.planning.allocation import ROUNDING, allocated_share
from kdstats.planning.leverage import InputLaw

__all__ = ["Choice", "Market", "best_for_budget", "best_for_target", "designs_at"]

FloatArray = NDArray[np.float64]

#: Numbers of responses up to this one are all tried, larger ones on a geometric grid of ratio below 1.0001.
ALL_TRIED = 100_000
#: Inputs beyond which a target counts as out of reach, and responses that count as endless.
MOST_INPUTS, ENDLESS = 10**12, 1e15
#: For students whose variance need not fall with the number of inputs: numbers of inputs that are all tried, and the
#: ratio beyond; numbers of responses kept as rows that are all tried, and the ratio beyond.
INPUTS_TRIED, INPUT_RATIO, ROWS_TRIED, ROW_RATIO = 2_000, 1.002, 40, 1.1
#: The same for numbers of inputs where numbers of rows are tried too.
FEW_INPUTS, FEW_RATIO = 200, 1.01


@dataclass(frozen=True, kw_only=True)
class Market:
    """What is bought and at which price.

    Attributes
    ----------
    law : InputLaw
    noise : float
        Variance of one response.
    response_correlation, input_correlation : float
    misfit : float or None
        Variance between inputs that the student cannot fit, where E[MSE] counts; else None.
    prompt_cost, response_cost : float
        Price of an input, and of each response to it for all students.
    max_inputs, max_responses : int or None
    as_rows : bool
        Whether the responses of one input are kept as rows.
    """

    law: InputLaw
    noise: float
    response_correlation: float
    input_correlation: float
    misfit: float | None
    prompt_cost: float
    response_cost: float
    max_inputs: int | None
    max_responses: int | None
    as_rows: bool = False

    def price(self, k: Any) -> FloatArray:
        """Price of one input with k responses."""
        return np.asarray(self.prompt_cost + self.response_cost * np.asarray(k, dtype=np.float64))

    def share(self, k: Any) -> FloatArray:
        """Variance of the mean of k responses over that of one (result T1)."""
        return allocated_share(np.asarray(k, dtype=np.float64), self.response_correlation)

    def inter(self, n: Any, k: Any) -> FloatArray:
        """Average inter-student variance (results T1, T2, T9)."""
        return self._inter(self.law.factors(n, k).noise, k)

    def value(self, n: Any, k: Any) -> FloatArray:
        """What is minimised: the inter-student variance, or with misfit the expected squared error at a query point."""
        factors = self.law.factors(n, k)
        inter = self._inter(factors.noise, k)
        return inter if self.misfit is None else np.asarray(inter + self.misfit * (1.0 + factors.noise) + factors.bias)

    def _inter(self, weight: FloatArray, k: Any) -> FloatArray:
        shared = self.input_correlation
        return np.asarray(self.noise * self.share(k) * ((1.0 - shared) * weight + shared))

    @property
    def most_responses(self) -> float:
        """Largest k allowed: asked for, or possible with a negative correlation."""
        rho = self.response_correlation
        possible = np.floor(1.0 - 1.0 / rho + 1e-9) if rho < 0 else np.inf
        return float(min(possible, np.inf if self.max_responses is None else self.max_responses))

    @property
    def floor(self) -> float:
        """Value that no budget goes below."""
        most = float(MOST_INPUTS if self.max_inputs is None else self.max_inputs)
        k = min(self.most_responses, ENDLESS)
        if self.law.falls:
            return float(self.value(most, k))
        n = np.append(_thinned(min(most, 1e7), INPUTS_TRIED, INPUT_RATIO), most)
        return float(
            min(self.value(n, responses).min() for responses in (self._some_responses(k) if self.as_rows else [k]))
        )

    def _some_responses(self, most: float) -> FloatArray:
        return np.append(_thinned(min(most, 1e4), ROWS_TRIED, 2.0), most)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One design with equal responses."""

    n_inputs: int
    n_responses: int
    cost: float
    value: float


def best_for_budget(market: Market, money: float) -> Choice | None:
    """Return the design of least value within a budget, of equals the cheapest; None if it cannot pay for one."""
    n, k = designs_at(market, money)
    if not n.size:
        return None
    value = market.value(n, k)
    least = float(value.min()) * (1 + ROUNDING)
    equal = value <= least
    n, k = n[equal], k[equal]
    if market.law.falls:  # where negative correlation or shared noise leaves nothing to more inputs, fewer will do
        n = np.minimum(n, _least_inputs(market, k, least))
    return _best(market, n, k, n * market.price(k))


def designs_at(market: Market, money: float) -> tuple[FloatArray, FloatArray]:
    """Return designs within a budget, n and k, among them the best.

    Where every input helps, for each k the largest n; otherwise for each n the largest k and, where responses kept
    as rows weaken the penalty, smaller ones too.
    """
    n, k = _largest_inputs(market, money)
    if market.law.falls or not n.size:
        return n, k
    if market.as_rows:
        k = np.intersect1d(k, _thinned(float(k.max()), ROWS_TRIED, ROW_RATIO))
        most = _most_inputs(market, money, k)
        pairs = [np.append(_thinned(top, FEW_INPUTS, FEW_RATIO), top) for top in most]
        return np.concatenate(pairs), np.repeat(k, [pair.size for pair in pairs])
    every = _thinned(float(n.max()), INPUTS_TRIED, INPUT_RATIO)
    every = every[every >= market.law.n_least]
    most_k = np.full(every.size, min(market.most_responses, ENDLESS))
    if market.response_cost > 0:
        paid = (money / every - market.prompt_cost) / market.response_cost
        most_k = np.minimum(most_k, np.floor(paid * (1 + 1e-12) + 1e-12))
    kept = most_k >= 1
    return np.concatenate([n, every[kept]]), np.concatenate([k, most_k[kept]])


def _largest_inputs(market: Market, money: float) -> tuple[FloatArray, FloatArray]:
    """Return, for every k that a budget can pay for, the largest n and k."""
    least = market.law.n_least
    most = market.most_responses
    if market.response_cost > 0:
        most = min(most, np.floor((money / least - market.prompt_cost) / market.response_cost * (1 + 1e-12) + 1e-12))
    k = _thinned(most, ALL_TRIED, 1.0001)
    n = _most_inputs(market, money, k)
    kept = n >= least
    return n[kept], k[kept]


def _most_inputs(market: Market, money: float, k: FloatArray) -> FloatArray:
    n = np.floor(money / market.price(k) * (1 + 1e-12))
    return n if market.max_inputs is None else np.minimum(n, market.max_inputs)


def best_for_target(market: Market, target: float) -> Choice:
    """Return the cheapest design whose value is at most a target.

    Raises
    ------
    ProblemError
        If no design goes that low; the message has the floor.
    """
    floor = market.floor
    if not target > floor * (1 + 1e-9):
        why = "correlated responses, shared noise, misfit or the limits on inputs and responses"
        raise invalid("target", f"be greater than the floor {floor:.4g} that {why} leave", target)
    best = _cheapest_falling(market, target) if market.law.falls else _cheapest(market, target)
    if best is None:
        raise invalid(
            "target", f"be farther above the floor {floor:.4g}: nothing that can be bought comes so low", target
        )
    return best


def _cheapest_falling(market: Market, target: float) -> Choice | None:
    most, best, least = 64.0, None, market.law.n_least
    while True:
        k = _thinned(min(most, market.most_responses), ALL_TRIED, 1.0001)
        n = _least_inputs(market, k, target)
        reached = np.isfinite(n)
        if reached.any():
            n, k = n[reached], k[reached]
            best = _best(market, n, k, n * market.price(k))
        if most >= min(market.most_responses, ENDLESS):
            return best
        if best is not None and least * float(market.price(most)) >= best.cost:
            return best
        most *= 4.0


def _cheapest(market: Market, target: float) -> Choice | None:
    """Return the cheapest design for students whose variance need not fall with the number of inputs."""
    n = _thinned(float(min(1e7, market.max_inputs or 1e7)), INPUTS_TRIED, INPUT_RATIO)
    most, rho = min(market.most_responses, ENDLESS), market.response_correlation
    if market.as_rows:
        few, sizes = _thinned(min(most, 1e4), ROWS_TRIED, ROW_RATIO), _thinned(n[-1], FEW_INPUTS, FEW_RATIO)
        n, k = (array.ravel() for array in np.meshgrid(sizes, few))
    else:
        endless, once = market.value(n, ENDLESS), market.value(n, 1.0)
        last = float(market.share(ENDLESS))
        with np.errstate(divide="ignore", invalid="ignore"):
            unit = (once - endless) / (1.0 - last)  # value = rest + unit share(k)
            spare = target - endless + last * unit
            k = np.where(once <= target, 1.0, np.ceil((1.0 - rho) / (spare / unit - rho) * (1 - 1e-12)))
        k = np.where((k >= 1) & np.isfinite(k), k, np.inf)
    kept = k <= most
    n, k = n[kept], k[kept]
    reached = market.value(n, k) <= target
    n, k = n[reached], k[reached]
    return _best(market, n, k, n * market.price(k)) if n.size else None


def _least_inputs(market: Market, k: FloatArray, target: float) -> FloatArray:
    """Return for each k the least n that reaches the target (infinite where none does), by bisection."""
    low = np.full(k.size, float(market.law.n_least))
    high = np.full(k.size, float(MOST_INPUTS if market.max_inputs is None else market.max_inputs))
    reached = market.value(high, k) <= target
    high = np.where(market.value(low, k) <= target, low, high)
    while (high - low > 1).any():
        middle = np.floor(0.5 * (low + high))
        enough = market.value(middle, k) <= target
        high, low = np.where(enough, middle, high), np.where(enough, low, middle)
    return np.where(reached, high, np.inf)


def _best(market: Market, n: FloatArray, k: FloatArray, wish: FloatArray) -> Choice:
    """Return the design with the least of what is wished for; of equals the cheapest, then that of least value."""
    value, cost = market.value(n, k), n * market.price(k)
    index = np.lexsort((value, cost, wish))[0]
    return Choice(n_inputs=int(n[index]), n_responses=int(k[index]), cost=float(cost[index]), value=float(value[index]))


def _thinned(most: float, every: int, ratio: float) -> FloatArray:
    """Return all whole numbers up to ``every``, then some at most that ratio apart, up to ``most``."""
    if most <= every:
        return np.arange(1.0, most + 1.0)
    beyond = np.geomspace(every, most, 1 + int(np.ceil(np.log(most / every) / np.log(ratio))))
    return np.concatenate([np.arange(1.0, every), np.unique(np.floor(beyond))])
