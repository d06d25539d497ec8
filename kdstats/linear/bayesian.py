r"""Bayesian linear students fitted exactly, many at once, along the principal axes of their inputs.

With the prior written as :math:`w = m_0 + C v`, :math:`v \sim N(0, \lambda^{-1} I)`, and
:math:`X_c C = U\,\mathrm{diag}(d)\,V'` (columns centred where there is a flat intercept), every posterior is
diagonal in the axes V: precision :math:`\lambda + \omega d_j^2`, with :math:`\omega` the weight of a row (rows
per input times the power of the likelihood, over the noise variance where it is known). Students that share
their rows share one decomposition; students with resampled rows have one each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from kdstats.errors import PredictionError, RankDeficientError
from kdstats.problem.bayesian import BayesianLinearStudent
from kdstats.problem.specification import DistillationProblem

__all__ = [
    "BayesianFit",
    "PrincipalScores",
    "fit_bayesian_students",
    "improper",
    "noise_degrees_of_freedom",
    "principal_scores",
    "prior_means",
    "rows_per_input",
]

FloatArray = NDArray[np.float64]

EPSILON = float(np.finfo(np.float64).eps)
#: Orders of magnitude around the scale of the labels within which the evidence is searched, and points of the grid.
EVIDENCE_DECADES, EVIDENCE_GRID, EVIDENCE_STEPS = 9.0, 73, 60


@dataclass(frozen=True, eq=False, kw_only=True)
class BayesianFit:
    """Posterior predictive distributions of S students at m points.

    Attributes
    ----------
    mean : (S, m, q) ndarray
        Posterior mean of the prediction.
    parameter_variance : (S, m, q) ndarray
        Posterior variance of the prediction.
    noise_variance : (S, q) ndarray
        Posterior mean of the noise variance.
    degrees_of_freedom : (S,) ndarray
        Of the predictive Student t distribution; infinity where the noise is known (Gaussian).
    prior_variance : (S, q) ndarray
        The prior variance each student used, in the units of ``BayesianLinearStudent.prior_variance`` (the
        factor on a full covariance: 1).
    """

    mean: FloatArray
    parameter_variance: FloatArray
    noise_variance: FloatArray
    degrees_of_freedom: FloatArray
    prior_variance: FloatArray

    @property
    def variance(self) -> FloatArray:
        """Variance of one output, shape (S, m, q)."""
        return np.asarray(self.parameter_variance + self.noise_variance[:, None, :])


@dataclass(frozen=True, eq=False, kw_only=True)
class PrincipalScores:
    """Sufficient statistics of students that share their rows.

    Attributes
    ----------
    lengths : (p,) ndarray
        Singular values of the (centred) inputs times the prior's root.
    right : (p, p) ndarray
        Their right singular vectors, in rows.
    centre : (p,) ndarray
        What is taken off the inputs: their mean with an intercept, else 0.
    scale : (p, p) ndarray
        Root of the prior covariance, up to the prior variance.
    prior_mean : (p, q) ndarray
    scores : (S, p, q) ndarray
        Labels along the left singular vectors.
    squares : (S, q) ndarray
        Squares off the axes, times the weight of a row.
    level : (S, q) ndarray
        Mean label (less the prior's prediction) with an intercept, else 0.
    """

    lengths: FloatArray
    right: FloatArray
    centre: FloatArray
    scale: FloatArray
    prior_mean: FloatArray
    scores: FloatArray
    squares: FloatArray
    level: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class _Scores:
    """Labels along the axes of their students."""

    axes: _Axes
    scale: FloatArray
    means: FloatArray
    scores: FloatArray
    squares: FloatArray
    level: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class _Axes:
    """Principal axes of the (centred, scaled) rows: leading dim 1 for students that share them, else S."""

    left: FloatArray
    lengths: FloatArray
    right: FloatArray
    root_counts: FloatArray
    centre: FloatArray


def fit_bayesian_students(
    problem: DistillationProblem,
    *,
    labels: FloatArray,
    within: FloatArray,
    counts: NDArray[np.int64] | None = None,
    query: FloatArray | None = None,
) -> BayesianFit:
    """Fit the Bayesian students of a problem to given labels, exactly.

    Parameters
    ----------
    problem : DistillationProblem
        With a :class:`~kdstats.BayesianLinearStudent`.
    labels : (S, n, q) ndarray
        For ``multi_response`` the means of the k rows of an input.
    within : (S, n, q) ndarray
        Sums of squares of the k rows around their means (``multi_response``; else not used).
    counts : (S, n) ndarray of int, optional
        How often each student sees each input. Default: once.
    query : (m, p) ndarray, optional
        Points of the predictions. Default: the problem's query points.

    Raises
    ------
    RankDeficientError
        If a flat prior leaves the posterior improper.
    PredictionError
        If too few rows leave the posterior noise variance without a mean.
    """
    student = problem.student
    assert isinstance(student, BayesianLinearStudent)
    points = problem.X_query if query is None else query
    seen = np.array([problem.gaussian_teacher.n_inputs]) if counts is None else counts.sum(axis=1)
    freedom = noise_degrees_of_freedom(problem, seen)
    found = _scores(problem, student, labels, within, counts)
    axes, scores, squares, scale, means = found.axes, found.scores, found.squares, found.scale, found.means
    level: FloatArray | float = found.level[:, None] if student.fit_intercept else 0.0
    known, power = student.noise_variance, student.likelihood_power * rows_per_input(problem)
    weight = power if known is None else power / known
    gain = weight * axes.lengths[..., None] ** 2
    if student.maximises_evidence:
        prior = _evidence_precision(student, gain, weight * scores**2, squares, freedom)
    else:
        fixed = student.prior_variance if isinstance(student.prior_variance, float) else 1.0
        prior = np.full(squares.shape, 1.0 / fixed)
    precision = prior[:, None, :] + gain
    moved = (points - axes.centre) @ scale @ axes.right.swapaxes(1, 2)
    mean = points @ means + level + moved @ (weight * axes.lengths[..., None] * scores / precision)
    parameter = moved**2 @ (1.0 / precision)
    if student.fit_intercept:
        parameter = parameter + (1.0 / (weight * seen))[:, None, None]
    if known is None:
        squares = squares + (power * scores**2 * prior[:, None, :] / precision).sum(axis=1)
        noise = (student.noise_scale + 0.5 * squares) / (0.5 * freedom - 1.0)[:, None]
        parameter = parameter * noise[:, None, :]
    else:
        noise, freedom = np.full(squares.shape, known), np.array([np.inf])
    with np.errstate(divide="ignore"):
        used = 1.0 / prior
    return BayesianFit(
        mean=np.asarray(mean),
        parameter_variance=np.broadcast_to(parameter, mean.shape),
        noise_variance=noise,
        degrees_of_freedom=np.broadcast_to(freedom, (len(labels),)),
        prior_variance=used,
    )


def principal_scores(problem: DistillationProblem, *, labels: FloatArray, within: FloatArray) -> PrincipalScores:
    """Return what labels amount to along the principal axes that all students share.

    Parameters
    ----------
    problem : DistillationProblem
    labels, within : (S, n, q) ndarray
        As in :func:`fit_bayesian_students`.
    """
    student = problem.student
    assert isinstance(student, BayesianLinearStudent)
    found = _scores(problem, student, labels, within, None)
    axes = found.axes
    return PrincipalScores(
        lengths=axes.lengths[0],
        right=axes.right[0],
        centre=axes.centre[0, 0],
        scale=found.scale,
        prior_mean=found.means,
        scores=found.scores,
        squares=found.squares,
        level=found.level,
    )


def rows_per_input(problem: DistillationProblem) -> int:
    """Return how many rows of the likelihood each input has: k for ``multi_response``, else 1."""
    return problem.design.n_responses if problem.design.strategy == "multi_response" else 1


def prior_means(problem: DistillationProblem) -> FloatArray:
    """Return the prior mean of the slopes, shape (p, q)."""
    student, teacher = problem.student, problem.gaussian_teacher
    assert isinstance(student, BayesianLinearStudent)
    p, q = teacher.n_features, teacher.n_outputs
    if student.prior_mean is None:
        return np.zeros((p, q))
    if isinstance(student.prior_mean, np.ndarray):
        return np.broadcast_to(student.prior_mean.reshape(p, -1), (p, q))
    shift = teacher.X.mean(axis=0) if student.fit_intercept else 0.0
    target = teacher.mean_by_output - (teacher.mean_by_output.mean(axis=0) if student.fit_intercept else 0.0)
    return np.asarray(scipy.linalg.lstsq(teacher.X - shift, target)[0])


def noise_degrees_of_freedom(problem: DistillationProblem, seen: NDArray[np.int64]) -> FloatArray:
    r"""Return :math:`2a_n` of the posterior of an unknown noise variance, for numbers of inputs seen.

    Raises
    ------
    PredictionError
        If it is not more than 2, where the posterior mean of the noise variance is infinite.
    """
    student = problem.student
    assert isinstance(student, BayesianLinearStudent)
    free = int(student.fit_intercept) + (problem.gaussian_teacher.n_features if student.is_flat else 0)
    freedom = (
        2.0 * student.noise_shape + student.likelihood_power * rows_per_input(problem) * np.asarray(seen, float) - free
    )
    if student.noise_variance is None and (freedom <= 2.0).any():
        raise PredictionError(
            "`X` must leave more than 2 posterior degrees of freedom for an unknown noise variance; got "
            f"{freedom.min():g} from {int(np.min(seen)) * rows_per_input(problem)} rows (add rows, raise "
            "`noise_shape`, give `noise_variance`, or a finite `prior_variance`)"
        )
    return np.asarray(freedom)


def improper(detail: str) -> RankDeficientError:
    """Return the error of a flat prior that the rows do not make proper."""
    return RankDeficientError(
        f"`prior_variance` must be finite where the inputs do not determine the coefficients: with a flat prior the "
        f"posterior is improper; got {detail}"
    )


def _prior_root(student: BayesianLinearStudent, p: int) -> FloatArray:
    """Return C of the prior, up to its scale: the identity, or a Cholesky factor of the prior covariance."""
    if isinstance(student.prior_variance, np.ndarray):
        return np.asarray(scipy.linalg.cholesky(student.prior_variance, lower=True))
    return np.eye(p)


def _axes(
    problem: DistillationProblem, student: BayesianLinearStudent, counts: NDArray[np.int64] | None, scale: FloatArray
) -> _Axes:
    X = problem.gaussian_teacher.X
    n, p = X.shape
    weights = np.ones((1, n)) if counts is None else counts.astype(np.float64)
    centre = np.zeros((1, 1, p))
    if student.fit_intercept:
        centre = ((weights / weights.sum(axis=1, keepdims=True)) @ X)[:, None, :]
    inputs = np.sqrt(weights)[..., None] * ((X - centre) @ scale)
    padded = np.concatenate([inputs, np.zeros((len(inputs), max(p - n, 0), p))], axis=1)
    left, lengths, right = np.linalg.svd(padded, full_matrices=False)
    if student.is_flat:
        widths = np.linalg.norm(inputs, axis=1, keepdims=True)
        scaled = np.linalg.svd(padded / np.where(widths > 0.0, widths, 1.0), compute_uv=False)
        ranks = (scaled > max(n, p) * EPSILON * scaled[:, :1]).sum(axis=1)
        ranks = np.where((widths > 0.0).any(axis=(1, 2)), ranks, 0)
        if (ranks < p).any():
            whose = "" if counts is None else f" for {int((ranks < p).sum())} of {len(ranks)} resampled students"
            raise improper(f"{int(ranks.min())} independent columns of {p} from {n} rows{whose}")
    return _Axes(
        left=np.ascontiguousarray(left[:, :n]),
        lengths=lengths,
        right=right,
        root_counts=np.sqrt(weights),
        centre=centre,
    )


def _scores(
    problem: DistillationProblem,
    student: BayesianLinearStudent,
    labels: FloatArray,
    within: FloatArray,
    counts: NDArray[np.int64] | None,
) -> _Scores:
    scale, means = _prior_root(student, problem.gaussian_teacher.n_features), prior_means(problem)
    axes = _axes(problem, student, counts, scale)
    rest, level = _centred(labels - problem.gaussian_teacher.X @ means, axes, student)
    scores = axes.left.swapaxes(1, 2) @ rest
    squares = student.likelihood_power * rows_per_input(problem) * ((rest - axes.left @ scores) ** 2).sum(axis=1)
    if problem.design.strategy == "multi_response":
        repeats = 1.0 if counts is None else counts[..., None]
        squares = squares + student.likelihood_power * (repeats * within).sum(axis=1)
    return _Scores(axes=axes, scale=scale, means=means, scores=scores, squares=squares, level=level)


def _centred(rest: FloatArray, axes: _Axes, student: BayesianLinearStudent) -> tuple[FloatArray, FloatArray]:
    """Return weighted labels (S, n, q) off their weighted mean, and that mean (S, q): 0 without an intercept."""
    level = np.zeros((rest.shape[0], rest.shape[2]))
    if student.fit_intercept:
        weights = axes.root_counts**2
        shares = np.broadcast_to(weights / weights.sum(axis=1, keepdims=True), rest.shape[:2])
        level = np.einsum("sn,snq->sq", shares, rest)
    return np.asarray(axes.root_counts[..., None] * (rest - level[:, None])), level


def _evidence_precision(
    student: BayesianLinearStudent,
    gain: FloatArray,
    energy: FloatArray,
    squares: FloatArray,
    freedom: FloatArray,
) -> FloatArray:
    """Return the prior precision that maximises the evidence, shape (S, q): a grid, then golden section.

    ``gain`` (., p, 1) and ``energy`` (S, p, q) are the likelihood's precision and square along each axis. The
    maximum lies at an end of the range where labels speak against any slope, or for slopes without bound.
    """
    known = student.noise_variance is not None

    def evidence(log_precision: FloatArray) -> FloatArray:
        growth = 1.0 + gain / np.exp(log_precision)[:, None, :]
        quadratic = (energy / growth).sum(axis=1)
        penalty = np.log(growth).sum(axis=1)
        if known:
            return np.asarray(-0.5 * (penalty + quadratic))
        whole = 2.0 * student.noise_scale + squares + quadratic
        with np.errstate(divide="ignore"):
            return np.asarray(-0.5 * (penalty + freedom[:, None] * np.log(whole)))

    middle = np.log(np.maximum(gain.mean(), np.finfo(np.float64).tiny))
    grid = middle + np.log(10.0) * np.linspace(-EVIDENCE_DECADES, EVIDENCE_DECADES, EVIDENCE_GRID)
    values = np.stack([evidence(np.full(squares.shape, point)) for point in grid])
    best = values.argmax(axis=0)
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, EVIDENCE_GRID - 1)]
    ratio = 0.5 * (np.sqrt(5.0) - 1.0)
    for _ in range(EVIDENCE_STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        lower_is_better = evidence(left) > evidence(right)
        low, high = np.where(lower_is_better, low, left), np.where(lower_is_better, right, high)
    return np.asarray(np.exp(0.5 * (low + high)))
