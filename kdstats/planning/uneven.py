r"""Teachers whose noise differs between inputs: which inputs to ask, and how often each.

Variances are known at the inputs at hand only, so the design is a set of them. With the map :math:`M = (X'X+\lambda
D)^{-1}` of a set and the second moments G of the query points, input i counts :math:`a_i = x_i'MGMx_i`; adding or
dropping one input is a rank-one change of M. Sets of several sizes start at random and are changed by one input
(added, dropped or exchanged) as long as that helps, with the responses spread as well as real numbers allow; the best
sets get their integers exactly. Everything compared is known in advance, so choosing the best is no bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import RankDeficientError
from kdstats.linear.smoother import augment, smoother
from kdstats.planning.allocation import allocate, allocated_share, relaxed_optimum
from kdstats.planning.search import Market
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent

__all__ = [
    "InputPool",
    "Subset",
    "UnevenChoice",
    "best_allocation",
    "best_allocation_for_target",
    "input_pool",
    "well_chosen",
]

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Sizes of sets tried, random sets of each, and how many of the best are changed input by input, how often.
N_SIZES, N_RANDOM, N_CHANGED, MOST_CHANGES = 10, 6, 3, 60
#: Sets up to whose number of inputs every exchange of two is tried (else the best input to add, then the best to drop).
EVERY_EXCHANGE = 40
#: Rounds of "same money, better set; same target, less money"; relative gain that counts; least share an input leaves.
MOST_ROUNDS, GAIN, LEFT = 6, 1e-9, 1e-6
#: Fourfold budgets tried for a target that no random set reaches; bisections between budgets, and how close is enough.
MOST_DOUBLINGS, MOST_BISECTIONS, CLOSE = 14, 12, 0.005
#: Inputs dropped times inputs at hand, up to which a set is chosen for a note.
MOST_PASSES = 4_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class Subset:
    """Inputs that may be asked.

    Attributes
    ----------
    inputs : (n,) ndarray of int
    influence : (n,) ndarray
        a, average over query points of the squared coefficients of each label.
    variances : (n,) ndarray
        Variance of one response.
    bias : float
        Average squared bias that a penalty leaves.
    """

    inputs: NDArray[np.int64]
    influence: FloatArray
    variances: FloatArray
    bias: float

    @property
    def weights(self) -> FloatArray:
        """Variance that each input passes on to the students' predictions."""
        return np.asarray(self.influence * self.variances)

    def value(self, market: Market, inter: float) -> float:
        """What is minimised, given the average inter-student variance."""
        if market.misfit is None:
            return inter
        return inter + self.bias + market.misfit * (1.0 + float(self.influence.sum()))


@dataclass(frozen=True, eq=False, kw_only=True)
class UnevenChoice:
    """One subset with an allocation; ``even`` is the inter-student variance of an even spread of the same responses."""

    subset: Subset
    counts: NDArray[np.int64]
    cost: float
    inter: float
    even: float
    value: float


@dataclass(frozen=True, eq=False, kw_only=True)
class InputPool:
    """The inputs at hand, with what every set of them is judged by.

    Attributes
    ----------
    problem : DistillationProblem
    inputs : (n, P) ndarray
        With the constant.
    query : (P, P) ndarray
        G, second moments of the query points.
    variances : (n,) ndarray
    penalty : (P,) ndarray
        Penalty on each coefficient.
    shrunk : (P, q) ndarray
        Penalty times coefficients, which the bias comes from.
    starts : list of (n,) ndarray of bool
        Random sets to start from.
    """

    problem: DistillationProblem
    inputs: FloatArray
    query: FloatArray
    variances: FloatArray
    penalty: FloatArray
    shrunk: FloatArray
    starts: list[Mask]

    def mask(self, inputs: NDArray[np.int64]) -> Mask:
        """Return a set of inputs as a mask."""
        asked = np.zeros(len(self.inputs), dtype=bool)
        asked[inputs] = True
        return asked

    def maps(self, sets: list[Mask]) -> FloatArray:
        """Return M of some sets."""
        grams = np.stack([self.inputs[one].T @ self.inputs[one] for one in sets])
        return np.asarray(np.linalg.pinv(grams + np.diag(self.penalty), hermitian=True))

    def values(self, market: Market, maps: FloatArray, sets: Mask, money: float) -> FloatArray:
        """Return what sets of inputs, (B, n), would be worth if responses could be split."""
        spread = maps @ self.query @ maps
        influence = np.einsum("bnp,np->bn", self.inputs @ spread, self.inputs)
        weights = np.where(sets, influence * self.variances, 0.0)
        number = sets.sum(axis=1)
        rest = money - number * market.prompt_cost
        free = market.response_cost == 0.0
        total = np.full(number.size, np.inf) if free else rest * (1 + 1e-12) / market.response_cost
        total = np.where(rest < 0, 0.0, np.minimum(np.floor(total), number * market.most_responses))
        rho = market.response_correlation
        value = (1.0 - rho) * relaxed_optimum(weights, sets, total) + rho * weights.sum(axis=1)
        if market.misfit is not None:
            value = value + market.misfit * np.where(sets, influence, 0.0).sum(axis=1)
            value = value + np.einsum("po,bpr,ro->b", self.shrunk, spread, self.shrunk) / self.shrunk.shape[1]
        return np.asarray(value)


def input_pool(problem: DistillationProblem, market: Market, generator: np.random.Generator) -> InputPool:
    """Return the inputs at hand with random sets of several sizes and full rank, the whole among them."""
    student, teacher = problem.student, problem.gaussian_teacher
    assert isinstance(student, LinearStudent)
    n, inputs, query = teacher.n_inputs, augment(teacher.X, student), augment(problem.X_query, student)
    penalty = np.full(inputs.shape[1], student.penalty)
    penalty[: int(student.fit_intercept)] = 0.0
    slopes = np.linalg.lstsq(inputs, teacher.mean_by_output, rcond=None)[0]
    most = n if market.max_inputs is None else min(n, market.max_inputs)
    least = min(most, inputs.shape[1] if student.penalty == 0.0 else 1)
    starts = []
    for size in np.unique(np.geomspace(least, most, N_SIZES).round().astype(int)):
        for _ in range(N_RANDOM if size < n else 1):
            asked = np.zeros(n, dtype=bool)
            asked[generator.permutation(n)[:size]] = True
            if student.penalty > 0.0 or np.linalg.matrix_rank(inputs[asked]) == inputs.shape[1]:
                starts.append(asked)
    return InputPool(
        problem=problem,
        inputs=inputs,
        query=query.T @ query / len(query),
        variances=np.asarray(teacher.variances),
        penalty=penalty,
        shrunk=penalty[:, None] * slopes,
        starts=starts,
    )


def best_allocation(
    market: Market, pool: InputPool, money: float, *, n_changed: int = N_CHANGED, also: Mask | None = None
) -> UnevenChoice | None:
    """Return the best set and allocation within a budget; None if it cannot pay for any.

    Parameters
    ----------
    market, pool, money
        What is bought, of which inputs, for how much.
    n_changed : int
        How many of the random sets are changed input by input, best first.
    also : (n,) ndarray of bool, optional
        A further set to start from.
    """
    starts = [*pool.starts] if also is None else [*pool.starts, also]
    if not starts:
        return None
    worth = pool.values(market, pool.maps(starts), np.stack(starts), money)
    order = [int(i) for i in np.argsort(worth, kind="stable") if np.isfinite(worth[i])]
    sets = {starts[i].tobytes(): None for i in order[:N_CHANGED]}
    sets |= {_changed(market, pool, starts[i], money).tobytes(): None for i in order[:n_changed]}
    choices = [_spent(market, pool, np.frombuffer(one, dtype=bool), money) for one in sets]
    found = [choice for choice in choices if choice is not None]
    return min(found, key=lambda choice: (choice.value, choice.cost), default=None)


def well_chosen(pool: InputPool, size: int) -> Mask | None:
    """Return a set of a given size that leaves noise little influence: inputs dropped one by one, where it costs least.

    None where dropping inputs, each with a pass over all, would take long.
    """
    asked = np.ones(len(pool.inputs), dtype=bool)
    if (asked.size - size) * asked.size > MOST_PASSES:
        return None
    M = pool.maps([asked])[0]
    while asked.sum() > size:
        directions = pool.inputs @ M
        left = 1.0 - np.einsum("np,np->n", directions, pool.inputs)
        with np.errstate(divide="ignore", invalid="ignore"):
            loss = np.sum((directions @ pool.query) * directions, axis=1) / left
        loss[~asked | (left < LEFT)] = np.inf
        worst = int(np.argmin(loss))
        if not np.isfinite(loss[worst]):
            return None
        M = M + np.outer(directions[worst], directions[worst]) / left[worst]
        asked[worst] = False
    return asked


def best_allocation_for_target(market: Market, pool: InputPool, target: float) -> UnevenChoice | None:
    """Return the cheapest set and allocation that reaches a target; None if none is found.

    Random sets that reach it give a first price. Then the sets that are best for a budget are tried, for budgets
    between one that is enough and one that is not, until these are close; each set that reaches the target is
    bought no more responses than it needs.
    """
    best: UnevenChoice | None = None
    for asked in reversed(pool.starts):
        best = _cheaper(market, pool, asked, target, best)
    best = _between_budgets(market, pool, target, best)
    for _ in range(MOST_ROUNDS):
        if best is None:
            break
        other = best_allocation(market, pool, best.cost, also=pool.mask(best.subset.inputs))
        if other is None or other.value >= best.value * (1 - GAIN):
            break
        before, best = best, _cheaper(market, pool, pool.mask(other.subset.inputs), target, best)
        if best is not None and best.cost >= before.cost:
            break
    return best


def _between_budgets(market: Market, pool: InputPool, target: float, best: UnevenChoice | None) -> UnevenChoice | None:
    """Search sets that are best for budgets, by bisection between a budget that is too small and one that is enough."""
    if not pool.starts:
        return best
    low = min(int(one.sum()) for one in pool.starts) * float(market.price(1)) * (1 - GAIN)
    money = 2.0 * float(market.price(1)) * len(pool.inputs)
    if best is None:
        for _ in range(MOST_DOUBLINGS):
            found = best_allocation(market, pool, money)
            if found is not None and found.value <= target:
                best = _cheaper(market, pool, pool.mask(found.subset.inputs), target, None)
                break
            low, money = money, 4.0 * money
    for _ in range(MOST_BISECTIONS):
        if best is None or best.cost <= low * (1 + CLOSE):
            break
        middle = float(np.sqrt(low * best.cost))
        found = best_allocation(market, pool, middle, also=pool.mask(best.subset.inputs))
        if found is None or found.value > target:
            low = middle
        else:
            best = _cheaper(market, pool, pool.mask(found.subset.inputs), target, best)
    return best


def _cheaper(
    market: Market, pool: InputPool, asked: Mask, target: float, best: UnevenChoice | None
) -> UnevenChoice | None:
    """Return the fewest responses to a set that reach the target, if they are cheaper than the best so far."""
    n = int(asked.sum())
    cap = n * market.most_responses
    if best is not None and market.response_cost > 0:
        cap = min(cap, (best.cost - n * market.prompt_cost) / market.response_cost)
    if cap < n:
        return best
    subset = _subset(pool, asked)
    if subset is None:
        return best
    choice = _fewest(partial(_allocated, market, subset), n, cap if np.isinf(cap) else np.floor(cap), target)
    return choice if choice is not None and (best is None or choice.cost < best.cost) else best


def _fewest(allocated: partial[UnevenChoice], n: int, cap: float, target: float) -> UnevenChoice | None:
    """Return the allocation of the fewest responses that reaches a target, by bisection from n up to ``cap``."""
    low, high = n - 1, n
    while allocated(high).value > target:
        if high >= cap or high > 10**9:
            return None
        low, high = high, int(min(4 * high, cap))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if allocated(middle).value <= target else (middle, high)
    return allocated(high)


def _changed(market: Market, pool: InputPool, asked: Mask, money: float) -> Mask:
    """Add, drop and exchange single inputs as long as that helps."""
    most = asked.size if market.max_inputs is None else market.max_inputs
    for _ in range(MOST_CHANGES):
        M = pool.maps([asked])[0]
        now = float(pool.values(market, M[None], asked[None], money)[0])
        grow = asked.sum() < most
        trials = _joined(_dropped(pool, M, asked), *([_added(pool, M, asked)] if grow else []))
        worth = pool.values(market, trials.maps, trials.sets, money)
        if asked.size <= EVERY_EXCHANGE or not (worth < now * (1 - GAIN)).any():
            first = np.argsort(worth, kind="stable")[: worth.size if asked.size <= EVERY_EXCHANGE else N_CHANGED]
            pairs = [_exchanged(pool, trials.maps[i], trials.sets[i], asked) for i in first]
            if not pairs:
                return asked
            trials = _joined(trials, *pairs)
            worth = pool.values(market, trials.maps, trials.sets, money)
        if not worth.size or not worth.min() < now * (1 - GAIN):
            return asked
        asked = trials.sets[int(np.argmin(worth))].copy()
    return asked


@dataclass(frozen=True, eq=False, kw_only=True)
class _Trials:
    """Sets to try, (B, n), with their M, (B, P, P)."""

    maps: FloatArray
    sets: Mask


def _joined(*trials: _Trials) -> _Trials:
    return _Trials(maps=np.concatenate([one.maps for one in trials]), sets=np.concatenate([one.sets for one in trials]))


def _exchanged(pool: InputPool, M: FloatArray, changed: Mask, asked: Mask) -> _Trials:
    """Return the sets that complete an exchange: one input added has another dropped, one dropped another added."""
    return _dropped(pool, M, changed) if changed.sum() > asked.sum() else _added(pool, M, changed)


def _added(pool: InputPool, M: FloatArray, asked: Mask) -> _Trials:
    return _rank_one(pool, M, asked, np.flatnonzero(~asked), 1.0)


def _dropped(pool: InputPool, M: FloatArray, asked: Mask) -> _Trials:
    leverage = np.einsum("np,pq,nq->n", pool.inputs, M, pool.inputs)
    possible = asked & (1.0 - leverage > LEFT) & (asked.sum() > 1)
    return _rank_one(pool, M, asked, np.flatnonzero(possible), -1.0)


def _rank_one(pool: InputPool, M: FloatArray, asked: Mask, which: NDArray[np.intp], sign: float) -> _Trials:
    rows = pool.inputs[which]
    directions = rows @ M
    scale = sign / (1.0 + sign * np.einsum("bp,bp->b", rows, directions))
    sets = np.repeat(asked[None], which.size, axis=0)
    sets[np.arange(which.size), which] = sign > 0
    return _Trials(maps=M - scale[:, None, None] * directions[:, :, None] * directions[:, None, :], sets=sets)


def _spent(market: Market, pool: InputPool, asked: Mask, money: float) -> UnevenChoice | None:
    n = int(asked.sum())
    rest = money - n * market.prompt_cost
    affordable = np.inf if market.response_cost == 0 else np.floor(rest / market.response_cost * (1 + 1e-12))
    total = min(affordable, n * market.most_responses) if rest >= 0 else 0
    subset = _subset(pool, asked) if total >= n else None
    return None if subset is None else _allocated(market, subset, int(total))


def _allocated(market: Market, subset: Subset, total: int) -> UnevenChoice:
    limit, weights, rho = market.most_responses, subset.weights, market.response_correlation
    counts = allocate(weights, total, limit=int(limit) if np.isfinite(limit) else None)
    inter = float(weights @ allocated_share(counts, rho))
    per_input = counts.sum() / counts.size
    return UnevenChoice(
        subset=subset,
        counts=counts,
        cost=float(counts.size * market.prompt_cost + counts.sum() * market.response_cost),
        inter=inter,
        even=float(weights.sum() * ((1.0 - rho) / per_input + rho)),
        value=subset.value(market, inter),
    )


def _subset(pool: InputPool, asked: Mask) -> Subset | None:
    """Return a set with what its inputs count, from an orthogonal factorization; None if of deficient rank."""
    inputs, problem = np.flatnonzero(asked), pool.problem
    teacher, student = problem.gaussian_teacher, problem.student
    assert isinstance(student, LinearStudent)
    try:
        fit = smoother(
            problem.with_teacher(
                X=teacher.X[inputs], mean=teacher.mean[inputs], noise_variance=teacher.noise_variance[inputs]
            )
        )
    except RankDeficientError:
        return None
    query = augment(problem.X_query, student) @ fit.root
    gram = query.T @ query / query.shape[0]
    left = augment(problem.X_query, student) @ (fit.root @ (fit.root.T @ pool.shrunk))
    return Subset(
        inputs=inputs,
        influence=np.einsum("ij,jk,ik->i", fit.basis, gram, fit.basis),
        variances=np.asarray(teacher.variances[inputs]),
        bias=float(np.mean(left**2)),
    )
