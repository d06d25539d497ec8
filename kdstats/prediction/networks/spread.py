r"""From derivatives and sampled students to a spread: covariances propagated, moments with their errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from kdstats.linear.label_law import mean_response_covariance
from kdstats.problem.specification import DistillationProblem

__all__ = [
    "Curve",
    "Outputs",
    "Spread",
    "Start",
    "centred",
    "covariance_of_labels",
    "effective_rank",
    "error_of_mean",
    "fixed_start",
    "label_scale",
    "paired_spread",
    "plain_spread",
    "propagated",
    "residual_spread",
    "root_of_propagated",
    "sampled_start",
    "within_rows",
]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Outputs:
    """Outputs of S trained students: at the query points (S, m, q), and their residuals at the inputs (S, n, q).

    ``own`` (S, m, q) is the variance of their outputs over masks, for those with dropout.
    """

    predictions: FloatArray
    residuals: FloatArray
    own: FloatArray | None = None

    def own_variance(self) -> FloatArray:
        """Variance of each student's own outputs: over masks (S, m, q), or its mean squared residual (S, q)."""
        return np.asarray((self.residuals**2).mean(axis=1)) if self.own is None else self.own


@dataclass(frozen=True, eq=False, kw_only=True)
class Spread:
    """Variance between students and their mean squared residual.

    Attributes
    ----------
    inter, inter_se : (m, q) ndarray
        Variance at each point and its standard error.
    noise : (m, q) ndarray
        The part of it that comes from the labels.
    each : (S,) ndarray or None
        What each sampled student (or pair) adds to the average of ``inter``.
    pilot_se : float
        Standard error of that average that is not in the spread of ``each``.
    residual, residual_se : (q,) or (m, q) ndarray
        Mean squared residual at the inputs, or variance over masks at the points.
    rank : float
        Independent points that the points amount to.
    linear_share : float or None
        Squared correlation of the students' deviations with those of first order.
    """

    inter: FloatArray
    inter_se: FloatArray
    noise: FloatArray
    each: FloatArray | None
    residual: FloatArray
    residual_se: FloatArray
    rank: float
    pilot_se: float = 0.0
    linear_share: float | None = None

    @property
    def average_se(self) -> float:
        """Standard error of the average of ``inter``."""
        return float(np.hypot(0.0 if self.each is None else error_of_mean(self.each), self.pilot_se))

    @property
    def relative_error(self) -> float:
        """Standard error of the average of ``inter`` over that average; 0 where nothing varies."""
        average = float(self.inter.mean())
        if average <= 0.0:
            return float("inf") if self.average_se > 0.0 else 0.0
        return self.average_se / average


@dataclass(frozen=True, eq=False, kw_only=True)
class Start:
    """Variance (m, q) of noise-free students, its errors, and a root of their covariance over (point, output)."""

    inter: FloatArray
    inter_se: FloatArray
    each: FloatArray | None
    root: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class Curve:
    """Spreads at a few amplitudes; between them by monotone cubics in the logarithms."""

    amplitudes: FloatArray
    spreads: list[Spread]

    def at(self, amplitude: float) -> Spread:
        """Return the spread at an amplitude within the measured range."""
        return Spread(
            inter=np.exp(self._through("inter", amplitude, log=True)),
            inter_se=self._through("inter_se", amplitude),
            noise=self._through("noise", amplitude),
            each=None,
            pilot_se=float(self._through("average_se", amplitude)),
            residual=np.exp(self._through("residual", amplitude, log=True)),
            residual_se=self._through("residual_se", amplitude),
            rank=float(self._through("rank", amplitude)),
        )

    def _through(self, name: str, amplitude: float, *, log: bool = False) -> FloatArray:
        values = np.stack([np.asarray(getattr(spread, name), dtype=float) for spread in self.spreads])
        values = np.log(np.maximum(values, np.finfo(float).tiny)) if log else values
        if len(values) == 1:
            return np.asarray(values[0])
        return np.asarray(PchipInterpolator(np.log(self.amplitudes), values)(np.log(amplitude)))


def covariance_of_labels(problem: DistillationProblem) -> FloatArray:
    """Return the covariance of the mean label: scalar, per input or full."""
    return mean_response_covariance(problem, problem.design.n_responses)


def within_rows(problem: DistillationProblem) -> float:
    """Return what the k rows of an input add to a student's mean squared residual around their mean."""
    teacher, k = problem.gaussian_teacher, problem.design.n_responses
    if problem.design.strategy != "multi_response" or "teacher_output" not in problem.design.sources:
        return 0.0
    return float((k - 1) / k * (1.0 - teacher.response_correlation) * teacher.variances.mean())


def propagated(jacobian: FloatArray, covariance: FloatArray) -> FloatArray:
    """Return diag(J C J') for labels of covariance C in every output: (m, q) from (m, q, n, q)."""
    if covariance.ndim == 2:
        return np.asarray(np.einsum("mqnr,nl,mqlr->mq", jacobian, covariance, jacobian, optimize=True))
    weights = np.broadcast_to(covariance, (jacobian.shape[2],))
    return np.asarray(np.einsum("mqnr,n->mq", jacobian**2, weights))


def residual_spread(at_inputs: FloatArray, covariance: FloatArray) -> FloatArray:
    """Return the mean over inputs of the variance of label less fitted output, shape (q,)."""
    n, q = at_inputs.shape[:2]
    left = np.eye(n * q).reshape(n, q, n, q) - at_inputs
    return np.asarray(propagated(left, covariance).mean(axis=0))


def label_scale(problem: DistillationProblem) -> float:
    """Return the variance of the mean of k responses, for a scalar noise variance."""
    if "teacher_output" not in problem.design.sources:
        return 0.0
    k, rho = problem.design.n_responses, problem.gaussian_teacher.response_correlation
    return float(problem.gaussian_teacher.noise_variance) * max(0.0, 1.0 + (k - 1) * rho) / k


def centred(values: FloatArray) -> FloatArray:
    """Return deviations from the mean along the first axis."""
    return np.asarray(values - values.mean(axis=0))


def error_of_mean(values: FloatArray) -> FloatArray:
    """Return the standard error of the mean along the first axis; 0 of a single value."""
    if len(values) == 1:
        return np.zeros(values.shape[1:])
    return np.asarray(values.std(axis=0, ddof=1) / np.sqrt(len(values)))


def fixed_start(like: FloatArray) -> Start:
    """Return no variance, in the shape of ``like``: all students start alike."""
    return Start(inter=np.zeros_like(like), inter_se=np.zeros_like(like), each=None, root=np.zeros((like.size, 1)))


def sampled_start(predictions: FloatArray) -> Start:
    """Return the unbiased variance over students with its standard errors."""
    S = len(predictions)
    squares = S / (S - 1) * centred(predictions) ** 2
    return Start(
        inter=squares.mean(axis=0),
        inter_se=error_of_mean(squares),
        each=squares.mean(axis=(1, 2)),
        root=centred(predictions).reshape(S, -1).T / np.sqrt(S - 1),
    )


def paired_spread(trained: Outputs) -> Spread:
    """Return the spread of S pairs (first members, then second ones) that share a start: labels vary within pairs."""
    S = len(trained.predictions) // 2
    pairs = trained.predictions.reshape(2, S, *trained.predictions.shape[1:])
    within = 0.5 * (pairs[0] - pairs[1]) ** 2
    squares = S / (S - 1) * centred(pairs.mean(axis=0)) ** 2 + 0.5 * within
    return Spread(
        inter=squares.mean(axis=0),
        inter_se=error_of_mean(squares),
        noise=within.mean(axis=0),
        each=squares.mean(axis=(1, 2)),
        residual=trained.own_variance().mean(axis=0),
        residual_se=error_of_mean(trained.own_variance()),
        rank=effective_rank([centred(trained.predictions).reshape(2 * S, -1).T], count=2 * S - 2),
    )


def plain_spread(trained: Outputs) -> Spread:
    """Return the spread of S students that start alike."""
    start = sampled_start(trained.predictions)
    return Spread(
        inter=start.inter,
        inter_se=start.inter_se,
        noise=start.inter,
        each=start.each,
        residual=trained.own_variance().mean(axis=0),
        residual_se=error_of_mean(trained.own_variance()),
        rank=effective_rank([start.root], count=len(trained.predictions) - 1),
    )


def root_of_propagated(jacobian: FloatArray, covariance: FloatArray) -> FloatArray:
    """Return Z with ZZ' = J C J' over flattened (point, output)."""
    m, q, n, _ = jacobian.shape
    if covariance.ndim == 2:
        values, vectors = np.linalg.eigh(covariance)
        moved = np.einsum("mqnr,nl->mqlr", jacobian, vectors * np.sqrt(np.maximum(values, 0.0)), optimize=True)
    else:
        moved = jacobian * np.sqrt(np.broadcast_to(covariance, (n,)))[:, None]
    return np.asarray(moved.reshape(m * q, n * q))


def effective_rank(roots: list[FloatArray], *, count: int | None = None) -> float:
    """Return (tr C)^2 / tr C^2 for C the sum of ZZ'; from a sample of ``count`` degrees of freedom, consistently."""
    root = np.hstack(roots)
    small = root @ root.T if root.shape[0] <= root.shape[1] else root.T @ root
    trace, square = float(np.trace(small)), float((small**2).sum())
    if square <= 0.0:
        return 1.0
    plain = trace**2 / square
    return plain if count is None else float(max(1.0, 1.0 / max(1.0 / plain - 1.0 / count, 1.0 / root.shape[0])))
