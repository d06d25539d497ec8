r"""How a ridge student depends on the number of inputs and, where all responses are kept as rows, on that of responses.

With d the eigenvalues and V the eigenvectors of the (centred) :math:`X'X`, a query point c away from the inputs' mean,
and slopes β, the weights of the labels and the bias are, averaged over query points with :math:`\Gamma = E[cc']`,

.. math:: \frac1n + \sum_j \frac{d_j\,(V'\Gamma V)_{jj}}{(d_j+\lambda)^2},\qquad
   u'(V'\Gamma V)u,\quad u_j = \frac{\lambda\,(V'\beta)_j}{d_j+\lambda}.

Their expectations over inputs have no closed form for finitely many inputs. Inputs are drawn instead from the Gaussian
law with the mean and covariance of those at hand, nested in n (:math:`X'X` grows by Wishart increments), so that
neighbouring n share their draws and differences between them are sharp. One draw serves every penalty: k responses kept
as rows make λ count as λ/k.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.interpolate
from numpy.typing import NDArray

from kdstats.errors import invalid
from kdstats.linear.least_squares import factorize
from kdstats.linear.smoother import augment
from kdstats.planning.leverage import Factors
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent

__all__ = ["RidgeLaw", "ridge_law"]

FloatArray = NDArray[np.float64]

#: Largest number of inputs, ratio of neighbouring numbers that are drawn, and up to which all are.
MOST, RATIO, ALL_DRAWN = 10**7, 1.12, 10
#: Draws of inputs: at most, at least, and numbers held at a time.
MOST_DRAWS, FEWEST_DRAWS, HELD = 400, 24, 4_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class RidgeLaw:
    """Drawn inputs of several numbers, reduced to what any penalty needs.

    Attributes
    ----------
    n_available, n_features : int
    fit_intercept, at_inputs : bool
    penalty : float
        λ.
    as_rows : bool
        Whether k responses are kept as rows, so that the penalty counts as λ/k.
    sizes : (G,) ndarray
        Numbers of inputs that were drawn.
    eigenvalues : (R, G, p) ndarray
    coupling : (R, G, p, p) ndarray
        V'ΓV.
    slopes : (R, G, p, q) ndarray
        V'β of q outputs.
    tables, curves : dict
        What was computed for a penalty, kept.
    """

    n_available: int
    n_features: int
    fit_intercept: bool
    at_inputs: bool
    penalty: float
    as_rows: bool
    sizes: FloatArray
    eigenvalues: FloatArray
    coupling: FloatArray
    slopes: FloatArray
    tables: dict[float, tuple[FloatArray, FloatArray]] = field(default_factory=dict)
    curves: dict[float, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def n_coefficients(self) -> int:
        """Number of coefficients, P."""
        return self.n_features + self.fit_intercept

    @property
    def n_least(self) -> int:
        """Fewest inputs that a student can be fitted to."""
        return 1

    @property
    def falls(self) -> bool:
        """Whether every further input lowers the variance: no, a student that is shrunk to nothing has none."""
        return False

    @property
    def has_constant(self) -> bool:
        """Whether the columns span the constant."""
        return self.fit_intercept

    def factors(self, n_inputs: Any, n_responses: Any) -> Factors:
        """Return the factors at n inputs with k responses each, interpolated between the drawn numbers of inputs."""
        n, k = np.broadcast_arrays(np.asarray(n_inputs, dtype=np.float64), np.asarray(n_responses, dtype=np.float64))
        noise, bias = np.empty(n.shape), np.empty(n.shape)
        for value in np.unique(k) if self.as_rows else [1.0]:
            chosen = k == value if self.as_rows else np.ones(n.shape, dtype=bool)
            log_weight, error = self._curves(self.penalty / value)
            where = np.log(np.minimum(n[chosen], MOST))
            noise[chosen] = np.exp(log_weight(where)) * np.minimum(1.0, MOST / n[chosen])
            bias[chosen] = error(where)
        return Factors(noise=noise, bias=bias)

    def standard_error(self, n: int, k: int, *, variance: float, with_bias: bool) -> float:
        """Return the standard error of ``variance * noise (+ bias)`` from the number of draws."""
        weight, error = self._table(self.penalty / k if self.as_rows else self.penalty)
        nearest = int(np.argmin(np.abs(np.log(self.sizes) - np.log(n))))
        drawn = variance * weight[:, nearest] + (error[:, nearest] if with_bias else 0.0)
        return float(np.std(drawn, ddof=1) / np.sqrt(drawn.size))

    def _curves(self, penalty: float) -> tuple[Any, Any]:
        """Return averages over the draws as curves over log n: of log label weights, and of the bias."""
        if penalty not in self.curves:
            weight, error = (table.mean(axis=0) for table in self._table(penalty))
            place, smooth = np.log(self.sizes), scipy.interpolate.PchipInterpolator
            self.curves[penalty] = smooth(place, np.log(weight)), smooth(place, error)
        return self.curves[penalty]

    def _table(self, penalty: float) -> tuple[FloatArray, FloatArray]:
        """Return label weights and bias, shape (R, G), for one penalty."""
        if penalty not in self.tables:
            d = self.eigenvalues
            if self.at_inputs:
                noise = np.sum((d / (d + penalty)) ** 2, axis=-1) / self.sizes
            else:
                gains = np.einsum("rgjj->rgj", self.coupling)
                noise = np.sum(gains * d / (d + penalty) ** 2, axis=-1)
            noise = noise + self.fit_intercept / self.sizes
            shrunk = self.slopes * (penalty / (d + penalty))[..., None]
            bias = np.einsum("rgjo,rgjl,rglo->rg", shrunk, self.coupling, shrunk) / self.slopes.shape[-1]
            self.tables[penalty] = (noise, bias)
        return self.tables[penalty]


def ridge_law(
    problem: DistillationProblem, *, at_new_inputs: bool, as_rows: bool, generator: np.random.Generator
) -> RidgeLaw:
    """Draw inputs like those at hand, of many numbers.

    Raises
    ------
    RankDeficientError
        If the inputs at hand do not determine the slopes, which the bias depends on.
    ProblemError
        If there are fewer than P + 2 inputs to learn the law from.
    """
    student, X = problem.student, problem.gaussian_teacher.X
    assert isinstance(student, LinearStudent)
    (n, p), intercept = X.shape, student.fit_intercept
    if n < p + intercept + 2:
        raise invalid("X", f"have at least {p + intercept + 2} rows to plan from ({p + intercept} coefficients + 2)", n)
    names = (("intercept",) if intercept else ()) + (problem.gaussian_teacher.feature_names or ())
    slopes = factorize(augment(X, student), names=names).solve(problem.gaussian_teacher.mean_by_output)[
        int(intercept) :
    ]
    centre, covariance = X.mean(axis=0), np.atleast_2d(np.cov(X, rowvar=False))
    query = problem.design.X_query
    middle = centre if query is None else query.mean(axis=0)
    scatter = covariance if query is None else (query - middle).T @ (query - middle) / len(query)
    sizes = _sizes()
    n_draws = int(np.clip(HELD / (sizes.size * p * p), FEWEST_DRAWS, MOST_DRAWS))
    root = np.linalg.cholesky(covariance)
    total, gram = np.zeros((n_draws, p)), np.zeros((n_draws, p, p))  # about the centre, in standard coordinates
    values, coupling, turned, before = [], [], [], 0
    for size in sizes.astype(int):
        step_sum, step_gram = _increment(generator, n_draws, size - before, p)
        total, gram, before = total + step_sum, gram + step_gram, size
        mean = total / size @ root.T
        squares = root @ gram @ root.T
        offset = -mean if intercept else np.broadcast_to(centre, mean.shape)
        if intercept:
            squares = squares - size * mean[:, :, None] * mean[:, None, :]
            gap = middle - centre + offset
        else:
            cross = size * mean[:, :, None] * centre
            squares = squares + cross + cross.transpose(0, 2, 1) + size * np.outer(centre, centre)
            gap = np.broadcast_to(middle, mean.shape)
        d, V = np.linalg.eigh(squares)
        values.append(np.maximum(d, 0.0))
        gamma = scatter + gap[:, :, None] * gap[:, None, :]
        coupling.append(V.transpose(0, 2, 1) @ gamma @ V)
        turned.append(V.transpose(0, 2, 1) @ slopes)
    return RidgeLaw(
        n_available=n,
        n_features=p,
        fit_intercept=intercept,
        at_inputs=query is None and not at_new_inputs,
        penalty=student.penalty,
        as_rows=as_rows,
        sizes=sizes,
        eigenvalues=np.stack(values, axis=1),
        coupling=np.stack(coupling, axis=1),
        slopes=np.stack(turned, axis=1),
    )


def _sizes() -> FloatArray:
    many = int(np.ceil(np.log(MOST / ALL_DRAWN) / np.log(RATIO)))
    return np.unique(np.concatenate([np.arange(1.0, ALL_DRAWN), np.geomspace(ALL_DRAWN, MOST, many + 1).round()]))


def _increment(generator: np.random.Generator, n_draws: int, n: int, p: int) -> tuple[FloatArray, FloatArray]:
    """Return sums and sums of squares of n further standard Gaussian rows, many of them by Bartlett's decomposition."""
    if n <= p + 8:
        rows = generator.standard_normal((n_draws, n, p))
        return rows.sum(axis=1), rows.transpose(0, 2, 1) @ rows
    total = np.sqrt(n) * generator.standard_normal((n_draws, p))
    lower = np.tril(generator.standard_normal((n_draws, p, p)), -1)
    lower[:, np.arange(p), np.arange(p)] = np.sqrt(generator.chisquare(n - 1.0 - np.arange(p), size=(n_draws, p)))
    return total, lower @ lower.transpose(0, 2, 1) + total[:, :, None] * total[:, None, :] / n
