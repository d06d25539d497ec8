r"""Maximum likelihood and restricted maximum likelihood for variance components.

The model is :math:`y = \mu 1 + \sum_i Z_iu_i + e` with independent Gaussian effects, variances
:math:`\sigma_i^2\ge0` and :math:`\sigma_e^2>0`. With :math:`\gamma_i=\sigma_i^2/\sigma_e^2` and
:math:`H=I+\sum_i\gamma_iZ_iZ_i'` the profiled criterion is

.. math:: \log|H| + \nu\log(y'Py) \;[\,+\log(1'H^{-1}1)\text{ for REML}],\qquad
          P=H^{-1}-H^{-1}11'H^{-1}/1'H^{-1}1,

:math:`\nu=N-1` (REML) or N (ML). It is minimised over :math:`\gamma\ge0` by Newton's method with exact
derivatives, so that a component on the boundary is exactly 0. Orthogonal designs need only their mean squares;
others go through the mixed-model equations, whose size is the number of levels, not of rows [1]_.

References
----------
.. [1] Searle, S. R., Casella, G. & McCulloch, C. E. (1992), *Variance Components*, ch. 6 and 7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import EstimationError

__all__ = ["LikelihoodFit", "fit_rows", "fit_strata"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Newton decrement (twice the log-likelihood still to be gained) below which steps are taken without a search.
CLOSE = 1e-9
N_ITERATIONS = 300
#: Ratios to start again from: a likelihood that touches the boundary may have a second maximum.
RESTARTS = (1e-3, 30.0)
#: Difference of criteria that is rounding.
SAME = 1e-10
#: Full Newton steps at the end, each of which doubles the digits.
N_POLISH = 4
#: Smallest eigenvalue of the information, scaled to unit diagonal, of components that data tell apart.
IDENTIFIED = 1e-9


class _NotReachedError(Exception):
    """No minimum from this start."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LikelihoodFit:
    """Components (terms, then residual), their information matrix, and the mean squares they amount to.

    ``coefficients @ mean_squares`` are the components without the bounds at 0.
    """

    components: FloatArray
    information: FloatArray
    coefficients: FloatArray
    mean_squares: FloatArray
    df: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class _Value:
    """Criterion at one point with its gradient, Hessian and expected Hessian."""

    criterion: float
    gradient: FloatArray
    hessian: FloatArray
    expected: FloatArray


def fit_strata(
    mean_squares: FloatArray, *, df: FloatArray, expectations: FloatArray, mean: FloatArray, restricted: bool
) -> LikelihoodFit:
    """Fit one orthogonal design from its mean squares.

    Parameters
    ----------
    mean_squares, df : (J,) ndarray
        One for each term, then the residual.
    expectations : (J, J) ndarray
        Expected mean squares: rows of multiples of the components; the last column, of the residual, is 1.
    mean : (J,) ndarray
        The same for the grand mean.
    restricted : bool
        REML, else ML.

    Returns
    -------
    LikelihoodFit
    """
    weights, observed, rows = df, mean_squares, expectations
    if not restricted:
        weights, observed, rows = np.append(df, 1.0), np.append(observed, 0.0), np.vstack([rows, mean])
    slopes, nu = rows[:, :-1], float(weights.sum())

    def evaluate(ratios: FloatArray) -> _Value:
        relative = slopes @ ratios + 1
        first = weights / relative
        part = first * observed / relative
        quadratic = float(first @ observed)
        pull = slopes.T @ part / quadratic
        push = slopes.T @ first
        curvature = (slopes.T * (first / relative)) @ slopes
        return _Value(
            criterion=float(weights @ np.log(relative)) + nu * np.log(quadratic),
            gradient=push - nu * pull,
            hessian=2 * nu * (slopes.T * (part / relative)) @ slopes / quadratic
            - curvature
            - nu * np.outer(pull, pull),
            expected=curvature - np.outer(push, push) / nu,
        )

    inverse = np.linalg.inv(expectations)
    moments = inverse @ mean_squares
    ratios = _lowest(evaluate, np.maximum(moments[:-1] / mean_squares[-1], 0.0))
    relative = slopes @ ratios + 1
    components = np.append(ratios, 1.0) * float((weights / relative) @ observed) / nu
    expected = rows @ components
    return LikelihoodFit(
        components=components,
        information=(rows.T * (weights / (2 * expected**2))) @ rows,
        coefficients=np.asarray(inverse, dtype=np.float64),
        mean_squares=mean_squares,
        df=df,
    )


def fit_rows(
    levels: Sequence[IntArray],
    *,
    names: Sequence[str],
    counts: FloatArray,
    means: FloatArray,
    squares: FloatArray,
    restricted: bool,
) -> list[LikelihoodFit]:
    """Fit any design from the number, mean and sum of squares of the rows of every cell.

    Parameters
    ----------
    levels : sequence of (S,) ndarrays of int
        Level of every cell under each term, from 0; coarse terms before finer ones.
    names : sequence of str
        Names of the terms, for messages.
    counts : (S,) ndarray
    means, squares : (S, P) ndarrays
        P data sets of this design.
    restricted : bool

    Returns
    -------
    list of LikelihoodFit
        One for each data set. The mean squares are uncorrelated combinations of the components (from the
        triangular factor of their information matrix) with effective degrees of freedom; where the design
        is orthogonal they are its mean squares.

    Raises
    ------
    EstimationError
        If the design does not tell the components apart.
    """
    equations = _Equations.of(levels, counts)
    _refuse_aliased(equations.traces(np.ones(len(levels)), restricted=True), names)
    return [
        equations.fit(means[:, p], float(squares[:, p].sum()), restricted=restricted) for p in range(means.shape[1])
    ]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Solved:
    """Everything that the criterion needs at one set of ratios; V_i is Z_i Z_i'."""

    log_determinant: float
    ones: float
    cross: FloatArray
    sums: FloatArray
    projected: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class _Equations:
    """Cross-products of the incidence of levels, each cell counted as often as it has rows."""

    incidence: FloatArray
    counts: FloatArray
    slices: tuple[slice, ...]

    @classmethod
    def of(cls, levels: Sequence[IntArray], counts: FloatArray) -> _Equations:
        sizes = [int(level.max()) + 1 for level in levels]
        ends = np.cumsum(sizes)
        incidence = np.zeros((counts.size, int(ends[-1])))
        for level, end, size in zip(levels, ends, sizes, strict=True):
            incidence[np.arange(counts.size), end - size + level] = 1.0
        slices = tuple(slice(int(end - size), int(end)) for end, size in zip(ends, sizes, strict=True))
        return cls(incidence=incidence, counts=counts, slices=slices)

    @property
    def n_rows(self) -> float:
        return float(self.counts.sum())

    def spread(self, ratios: FloatArray) -> FloatArray:
        return np.concatenate([np.full(s.stop - s.start, x) for s, x in zip(self.slices, ratios, strict=True)])

    def solve(self, ratios: FloatArray) -> _Solved:
        weighted = self.incidence.T * self.counts
        cross = weighted @ self.incidence
        totals = weighted.sum(axis=1)
        scale = self.spread(ratios)
        matrix = cross * scale
        matrix[np.diag_indices_from(matrix)] += 1
        found = np.linalg.solve(matrix, np.column_stack([cross, totals]))
        inner, sums = found[:, :-1], found[:, -1]
        rest = 1 - self.incidence @ (scale * sums)
        ones = float(self.counts @ rest**2 + (scale * sums) @ sums)
        symmetric = 0.5 * (inner + inner.T)
        return _Solved(
            log_determinant=float(np.linalg.slogdet(matrix)[1]),
            ones=ones,
            cross=symmetric,
            sums=sums,
            projected=symmetric - np.outer(sums, sums) / ones,
        )

    def blocks(self, matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return tr(P V_i) and tr(P V_i P V_j) from Z'PZ."""
        first = np.array([np.trace(matrix[s, s]) for s in self.slices])
        second = np.array([[float((matrix[s, t] ** 2).sum()) for t in self.slices] for s in self.slices])
        return first, second

    def traces(self, ratios: FloatArray, *, restricted: bool) -> FloatArray:
        """Return tr(P V_i P V_j) with the residual (V = I) as the last component."""
        solved = self.solve(ratios)
        first, second = self.blocks(solved.projected if restricted else solved.cross)
        with_residual = first - second @ ratios
        alone = self.n_rows - restricted - first @ ratios - with_residual @ ratios
        return np.block([[second, with_residual[:, None]], [with_residual[None, :], np.array([[alone]])]])

    def residual(self, ratios: FloatArray, solved: _Solved, y: FloatArray, square: float) -> tuple[FloatArray, float]:
        """Return Z'Py and y'Py."""
        scale = self.spread(ratios)
        totals = (self.incidence.T * self.counts) @ y
        # H^-1 y through Z'H^-1 y = Z'y - Z'H^-1Z D Z'y
        raw = totals - solved.cross @ (scale * totals)
        mean = float(self.counts @ y - (scale * totals) @ solved.sums) / solved.ones
        effects = raw - mean * solved.sums
        rest = y - mean - self.incidence @ (scale * effects)
        return effects, float(self.counts @ rest**2 + (scale * effects) @ effects + square)

    def fit(self, means: FloatArray, square: float, *, restricted: bool) -> LikelihoodFit:
        y = means - self.counts @ means / self.n_rows
        size = float(self.counts @ y**2 + square) / self.n_rows
        y, square, nu = y / np.sqrt(size), square / size, self.n_rows - restricted

        def evaluate(ratios: FloatArray) -> _Value:
            solved = self.solve(ratios)
            effects, quadratic = self.residual(ratios, solved, y, square)
            first, second = self.blocks(solved.projected if restricted else solved.cross)
            pull = np.array([effects[s] @ effects[s] for s in self.slices]) / quadratic
            bends = [
                [float(effects[s] @ solved.projected[s, t] @ effects[t]) for t in self.slices] for s in self.slices
            ]
            return _Value(
                criterion=solved.log_determinant + nu * np.log(quadratic) + restricted * np.log(solved.ones),
                gradient=first - nu * pull,
                hessian=2 * nu * np.array(bends) / quadratic - second - nu * np.outer(pull, pull),
                expected=second - np.outer(first, first) / nu,
            )

        ratios = _lowest(evaluate, np.full(len(self.slices), 0.5))
        _, quadratic = self.residual(ratios, self.solve(ratios), y, square)
        components = np.append(ratios, 1.0) * quadratic / nu
        return self._described(ratios, components, y, square, size=size, restricted=restricted)

    def _described(
        self, ratios: FloatArray, components: FloatArray, y: FloatArray, square: float, *, size: float, restricted: bool
    ) -> LikelihoodFit:
        traces = self.traces(ratios, restricted=True)
        effects, quadratic = self.residual(ratios, self.solve(ratios), y, square)
        pulls = np.array([effects[s] @ effects[s] for s in self.slices])
        unbounded = np.linalg.solve(traces, np.append(pulls, quadratic - pulls @ ratios))
        factor = np.linalg.cholesky(traces / (2 * components[-1] ** 2)).T
        triangle = factor / np.diag(factor)[:, None]
        fitted = triangle @ components
        observed = triangle @ unbounded
        information = self.traces(ratios, restricted=restricted) / (2 * components[-1] ** 2)
        return LikelihoodFit(
            components=components * size,
            information=information / size**2,
            coefficients=np.linalg.inv(triangle),
            mean_squares=np.where(observed > 0, observed, fitted) * size,
            df=2 * (fitted * np.diag(factor)) ** 2,
        )


def _refuse_aliased(traces: FloatArray, names: Sequence[str]) -> None:
    scale = np.sqrt(np.diag(traces))
    values, vectors = np.linalg.eigh(traces / np.outer(scale, scale))
    if values[0] < IDENTIFIED:
        parts = [*names, "residual"]
        involved = [parts[i] for i in np.flatnonzero(np.abs(vectors[:, 0]) > 1e-3)]
        raise EstimationError(
            f"`sources` must vary independently enough to be told apart; got {', '.join(involved)}, of which the table "
            "determines only combinations: leave one out, or ask for fewer interactions"
        )


def _lowest(evaluate: Callable[[FloatArray], _Value], start: FloatArray) -> FloatArray:
    """Return the lowest of the minima reached from several starts, where the first is on the boundary or none."""
    found: list[FloatArray] = []
    for first in (start, *(np.full_like(start, ratio) for ratio in RESTARTS)):
        with suppress(_NotReachedError):
            found.append(_minimised(evaluate, first))
            if (found[0] > 0).all():
                return found[0]
    if not found:
        raise EstimationError(
            f"the likelihood must have a maximum that can be reached; none found from {len(RESTARTS) + 1} starts: the "
            "residual variance may be too near 0"
        )
    criteria = [evaluate(x).criterion for x in found]
    lowest = min(criteria)
    return next(x for x, criterion in zip(found, criteria, strict=True) if criterion <= lowest + SAME)


def _minimised(evaluate: Callable[[FloatArray], _Value], start: FloatArray) -> FloatArray:
    """Minimise over ratios of at least 0: Newton steps on those not held at 0, with a search along the bent path."""
    x, value, polished = start, evaluate(start), 0
    for _ in range(N_ITERATIONS):
        free = ~((x <= 0) & (value.gradient > 0))
        step = _step(value, free)
        decrement = -float(value.gradient @ step)
        if not free.any() or decrement == 0 or polished == N_POLISH:
            return x
        if decrement < CLOSE:
            polished += 1
            x = np.maximum(x + step, 0.0)
            value = evaluate(x)
            continue
        x, value = _searched(evaluate, x, value, step, free)
    raise _NotReachedError


def _step(value: _Value, free: NDArray[np.bool_]) -> FloatArray:
    step = np.zeros_like(value.gradient)
    rows = np.ix_(free, free)
    for matrix in (value.hessian[rows], value.expected[rows]):
        try:
            np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            continue
        step[free] = -np.linalg.solve(matrix, value.gradient[free])
        return step
    step[free] = -value.gradient[free] / np.maximum(np.diag(value.expected)[free], np.finfo(float).tiny)
    return step


def _searched(
    evaluate: Callable[[FloatArray], _Value], x: FloatArray, value: _Value, step: FloatArray, free: NDArray[np.bool_]
) -> tuple[FloatArray, _Value]:
    """Halve the step until the criterion falls; where the bent path only climbs, go down each ratio's own slope."""
    own = np.zeros_like(step)
    own[free] = -value.gradient[free] / np.maximum(np.diag(value.expected)[free], np.finfo(float).tiny)
    for direction in (step, own):
        for halving in range(40):
            new = np.maximum(x + direction * 0.5**halving, 0.0)
            found = evaluate(new)
            if found.criterion < value.criterion + 1e-4 * min(float(value.gradient @ (new - x)), 0.0):
                return new, found
    raise _NotReachedError
