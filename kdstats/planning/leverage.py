r"""How the average leverage of the query points falls with the number of inputs.

Inputs are exchangeable. For n Gaussian inputs with p features and an intercept, a query point at squared
Mahalanobis distance d² from their mean has expected leverage

.. math:: \frac1n + \frac{d^2 + p/n}{n - p - 2},

and :math:`d^2/(n-p-1)` without intercept (the mean of an inverse Wishart matrix; result T9 averages d² over new
points). d² is estimated without bias from the problem's own leverage, so that the relation passes through it: the
Gaussian law carries the leverage from the inputs at hand to other numbers of them. Students asked at their
own n inputs have average leverage P/n exactly.

Ridge students have no such relation; :mod:`kdstats.planning.shrinkage` draws inputs for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import invalid
from kdstats.linear.smoother import augment, smoother
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent

__all__ = ["Factors", "InputLaw", "LeastSquaresLaw", "least_squares_law"]

FloatArray = NDArray[np.float64]

#: Relative distance of the constant from the column space below which it counts as inside.
CONSTANT_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False, kw_only=True)
class Factors:
    """What noise and shrinkage do to students, on average over query points and inputs.

    Attributes
    ----------
    noise : ndarray
        Inter-student variance for independent labels of variance 1 (the average of the squared weights of all labels).
    bias : ndarray
        Average squared bias that a penalty leaves.
    """

    noise: FloatArray
    bias: FloatArray


class InputLaw(Protocol):
    """How students depend on the number of inputs."""

    @property
    def n_available(self) -> int:
        """Inputs at hand."""

    @property
    def n_coefficients(self) -> int:
        """Number of coefficients, P."""

    @property
    def n_least(self) -> int:
        """Fewest inputs that a student can be fitted to."""

    @property
    def falls(self) -> bool:
        """Whether every further input lowers variance and error."""

    @property
    def at_inputs(self) -> bool:
        """Whether students are asked at their own inputs."""

    def factors(self, n_inputs: Any, n_responses: Any) -> Factors:
        """Return the factors at n inputs (at least ``n_least``) with k responses each."""


@dataclass(frozen=True, kw_only=True)
class LeastSquaresLaw:
    """Average leverage of the query points as a function of the number of inputs.

    Attributes
    ----------
    n_available : int
        Inputs at hand.
    n_features : int
        p, a constant not counted.
    has_constant : bool
        Whether the columns span the constant.
    distance : float
        Average squared Mahalanobis distance of the query points (unbiased, so it may be below 0).
    at_inputs : bool
        Whether students are asked at their own inputs.
    """

    n_available: int
    n_features: int
    has_constant: bool
    distance: float
    at_inputs: bool

    @property
    def falls(self) -> bool:
        """Whether every further input lowers variance and error."""
        return True

    @property
    def n_coefficients(self) -> int:
        """Number of coefficients, P."""
        return self.n_features + self.has_constant

    @property
    def n_least(self) -> int:
        """Fewest inputs with a finite expected leverage and a residual."""
        return self.n_coefficients + (1 if self.at_inputs else 2)

    def factors(self, n_inputs: Any, n_responses: Any) -> Factors:
        """Return the expected leverage at n inputs, whatever the responses, and no bias."""
        n, p = np.asarray(n_inputs, dtype=np.float64), self.n_features
        if self.at_inputs:
            leverage = self.n_coefficients / n
        elif self.has_constant:
            leverage = 1.0 / n + (self.distance + p / n) / (n - p - 2)
        else:
            leverage = self.distance / (n - p - 1)
        noise = np.broadcast_to(leverage, np.broadcast_shapes(n.shape, np.shape(n_responses)))
        return Factors(noise=np.asarray(noise), bias=np.zeros(noise.shape))


def least_squares_law(problem: DistillationProblem, *, at_new_inputs: bool = False) -> LeastSquaresLaw:
    """Return the law of a least-squares problem, from its own inputs and query points.

    Parameters
    ----------
    problem : DistillationProblem
    at_new_inputs : bool, default False
        Ask students of a design without query points at new inputs of the same kind.

    Raises
    ------
    RankDeficientError
        If the inputs do not determine the coefficients.
    ProblemError
        If there are fewer than P + 2 inputs to learn the law from.
    """
    student = problem.student
    assert isinstance(student, LinearStudent)
    n = problem.teacher.n_inputs
    width = problem.teacher.n_features + student.fit_intercept
    if n < width + 2:
        raise invalid("X", f"have at least {width + 2} rows to plan from ({width} coefficients + 2)", f"{n}")
    fit = smoother(problem)
    inside = float(np.sum((fit.basis.T @ np.ones(n)) ** 2)) / n
    constant = bool(abs(1.0 - inside) < CONSTANT_TOLERANCE)
    p = width - constant
    asked = problem.design.X_query is not None
    if asked:
        own = float(np.mean(np.sum((augment(problem.X_query, student) @ fit.root) ** 2, axis=1)))
        distance = (n - p - 2) * (own - 1.0 / n) - p / n if constant else (n - p - 1) * own
    else:
        distance = float(p)
    return LeastSquaresLaw(
        n_available=n,
        n_features=p,
        has_constant=constant,
        distance=distance,
        at_inputs=not asked and not at_new_inputs,
    )
