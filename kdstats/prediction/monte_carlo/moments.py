r"""Streaming moments of students: sums per block, added in the order of the blocks.

Everything is counted from a reference close to the mean (of the first block), so that raw sums of
powers lose no digits and blocks add up plainly. Points are kept up to fourth powers. The average
over points needs the same of :math:`A_s = \sum_p d_{sp}^2/(mq)`, which in the coordinates
:math:`c = R\beta/\sqrt{mq}` of :math:`X^* = QR` is a squared norm: a P x P matrix and a vector more,
and no m x m matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from kdstats.prediction.monte_carlo.kernels import point_sums, row_squares
from kdstats.prediction.monte_carlo.students import Students

__all__ = ["Estimates", "Frame", "Sums", "control_coefficients", "estimates", "frame_of", "sums"]

FloatArray = NDArray[np.float64]

#: Fewest students whose own spread says how well the variance is known; Gaussian theory below.
N_DISTRIBUTION_FREE = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """What sums are counted from and weighted with.

    Attributes
    ----------
    query : (m, P) ndarray
        Query points.
    basis, triangle : (m, r) and (r, P) ndarray
        QR factors of the query points, the second over the root of m q.
    coefficients : (q, P) ndarray
        Reference of the coefficients.
    variances : (q,) ndarray
        Reference of the residual variances.
    weights : (q, m) ndarray or None
        Coefficients of the control; None without one.
    control_variance : (q, m) ndarray
        Exact variance of the control at each point.
    """

    query: FloatArray
    basis: FloatArray
    triangle: FloatArray
    coefficients: FloatArray
    variances: FloatArray
    weights: FloatArray | None
    control_variance: FloatArray


@dataclass(eq=False, kw_only=True)
class Sums:
    """Sums over students; addition is all that merging takes."""

    n: float
    points: FloatArray
    spread: FloatArray
    vector: FloatArray
    gram: FloatArray
    pooled: FloatArray
    crossed: FloatArray
    n_deficient: int

    def add(self, other: Sums) -> None:
        """Add the sums of more students."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    def copy(self) -> Sums:
        """Return sums that can be added to without changing these."""
        return Sums(**{item.name: getattr(self, item.name) for item in fields(self)})


@dataclass(frozen=True, eq=False, kw_only=True)
class Estimates:
    """Components with their standard errors, shape (m, q), and of their averages.

    Attributes
    ----------
    average_se : dict
        Standard errors of the averages over points and outputs.
    variance_reduction : float or None
        Variance of the average inter-student variance without the control over that with it.
    covariance : (q, m, m) ndarray or None
    """

    inter: FloatArray
    intra: FloatArray
    inter_se: FloatArray
    intra_se: FloatArray
    total_se: FloatArray
    average_se: dict[str, float]
    effective_rank: float
    variance_reduction: float | None
    covariance: FloatArray | None


def frame_of(query: FloatArray, pilot: Students, control_variance: FloatArray) -> Frame:
    """Take the reference from pilot students; the control starts without weights."""
    basis, triangle = np.linalg.qr(query)
    coefficients = pilot.coefficients.mean(axis=0)
    return Frame(
        query=query,
        basis=basis,
        triangle=triangle / np.sqrt(len(query) * len(coefficients)),
        coefficients=coefficients,
        variances=pilot.variances.mean(axis=0),
        weights=None,
        control_variance=control_variance,
    )


def control_coefficients(frame: Frame, pilot: Students) -> FloatArray:
    """Estimate the best coefficient of the control at each point, shape (q, m)."""
    assert pilot.control is not None
    squares = ((pilot.coefficients - frame.coefficients) @ frame.query.T) ** 2
    others = (pilot.control @ frame.query.T) ** 2
    others -= others.mean(axis=0)
    spread = (others**2).sum(axis=0)
    product = (squares * others).sum(axis=0)
    return np.asarray(np.divide(product, spread, out=np.zeros_like(spread), where=spread > 0.0))


def sums(students: Students, frame: Frame) -> Sums:
    """Sum over the students of one block."""
    deviations = students.coefficients - frame.coefficients
    spreads = students.variances - frame.variances
    n, q, _ = deviations.shape
    m = len(frame.query)
    predictions = (deviations.reshape(n * q, -1) @ frame.query.T).reshape(n, q, m)
    if frame.weights is None or students.control is None:
        control, weights = np.empty((0, q, m)), np.zeros((q, m))
    else:
        control, weights = (students.control.reshape(n * q, -1) @ frame.query.T).reshape(n, q, m), frame.weights
    points, b = point_sums(predictions, spreads, control, weights)
    c = np.ascontiguousarray((deviations.reshape(n * q, -1) @ frame.triangle.T).reshape(n, -1))
    a, w = row_squares(c), spreads.mean(axis=1)
    scalars = np.stack([a, b, w])
    return Sums(
        n=float(n),
        points=points,
        spread=np.stack([spreads.sum(axis=0), (spreads**2).sum(axis=0)]),
        vector=c.sum(axis=0),
        gram=c.T @ c,
        pooled=np.concatenate([scalars.sum(axis=1)[:, None], scalars @ scalars.T], axis=1),
        crossed=scalars @ c,
        n_deficient=students.n_deficient,
    )


def estimates(total: Sums, frame: Frame, *, covariance: bool = False) -> Estimates:
    r"""Turn sums into components.

    Notes
    -----
    With :math:`d` and :math:`w` the deviations and residual variances of S students, the standard
    error of :math:`\sum d^2/(S-1) - \beta(\sum l^2/S - C_l) + \bar w` is that of the mean of
    :math:`u\,d^2 - \beta l^2 + w`, with :math:`u^2 = S^2/((S-1)(S-2))`, which makes its square
    unbiased for Gaussian students and consistent for any kurtosis.
    """
    n = total.n
    r1, r2, r3, r4, rw, r2w, l2, l4, rl, r2l, lw = total.points
    shift, drift = r1 / n, (total.spread[0] / n)[:, None]
    m2 = r2 - n * shift**2
    m4 = r4 - 4 * shift * r3 + 6 * shift**2 * r2 - 3 * n * shift**4
    spread_square = (total.spread[1] - total.spread[0] ** 2 / n)[:, None]
    cross = r2w - 2 * shift * rw + shift**2 * n * drift - drift * m2
    between = m2 / (n - 1)
    intra = frame.variances[:, None] + drift + np.zeros_like(between)
    df = n - 1
    moments = {"dd": (m4 - m2**2 / n) / df, "dw": cross / df, "ww": spread_square / df}
    beta = np.zeros_like(between)
    if frame.weights is not None:
        beta = frame.weights
        moments["ll"] = (l4 - l2**2 / n) / df
        moments["dl"] = (r2l - 2 * shift * rl + shift**2 * l2 - m2 * l2 / n) / df
        moments["lw"] = (lw - drift * l2) / df
    inter = between - beta * (l2 / n - frame.control_variance)
    inter_se, intra_se, total_se, _ = _standard_errors(moments, between, beta, n)
    pooled = _pooled_moments(total, with_control=frame.weights is not None)
    average = _standard_errors(pooled, np.asarray(between.mean()), np.ones(()), n)
    centred = total.gram - np.outer(total.vector, total.vector) / n
    names = ("inter_student", "intra_student", "total", "between")
    return Estimates(
        inter=inter.T,
        intra=intra.T,
        inter_se=inter_se.T,
        intra_se=np.broadcast_to(intra_se, inter_se.shape).T,
        total_se=total_se.T,
        average_se={name: float(value) for name, value in zip(names, average, strict=True)},
        effective_rank=_effective_rank(centred, int(df)),
        variance_reduction=_ratio(average[3] ** 2, average[0] ** 2) if frame.weights is not None else None,
        covariance=_point_covariance(centred / df, frame) if covariance else None,
    )


def _pooled_moments(total: Sums, *, with_control: bool) -> dict[str, FloatArray]:
    """Variances and covariances over students of A (recentred), B and W."""
    n = total.n
    (s_a, s_aa, s_ab, s_aw), (s_b, _, s_bb, s_bw), (s_w, _, _, s_ww) = total.pooled
    c_a, c_b, c_w = total.crossed
    a = total.vector / n
    alpha = a @ a
    sum_a = s_a - n * alpha
    aa = s_aa + 4 * a @ total.gram @ a - 3 * n * alpha**2 - 4 * a @ c_a + 2 * alpha * s_a
    aw = s_aw - 2 * a @ c_w + alpha * s_w
    ab = s_ab - 2 * a @ c_b + alpha * s_b
    df = n - 1
    moments = {
        "dd": (aa - sum_a**2 / n) / df,
        "dw": (aw - sum_a * s_w / n) / df,
        "ww": (s_ww - s_w**2 / n) / df,
    }
    if with_control:
        moments["ll"] = (s_bb - s_b**2 / n) / df
        moments["dl"] = (ab - sum_a * s_b / n) / df
        moments["lw"] = (s_bw - s_b * s_w / n) / df
    return {name: np.asarray(value) for name, value in moments.items()}


def _standard_errors(
    moments: dict[str, FloatArray], between: FloatArray, beta: FloatArray, n: float
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Standard errors of inter, intra, total and of the inter-student variance without control."""
    if n < N_DISTRIBUTION_FREE:
        of_inter, of_intra = 2.0 * between**2 / (n + 1), moments["ww"] / n
        plain, both = of_inter, of_inter + of_intra
    else:
        u = n / np.sqrt((n - 1) * (n - 2))
        plain = u**2 * moments["dd"] / n
        of_intra = moments["ww"] / n
        of_inter, crossed = plain, u * moments["dw"] / n
        if "ll" in moments:
            of_inter = plain + (beta**2 * moments["ll"] - 2 * u * beta * moments["dl"]) / n
            crossed = crossed - beta * moments["lw"] / n
        both = of_inter + of_intra + 2 * crossed
    inter, intra, total, alone = (np.sqrt(np.maximum(v, 0.0)) for v in (of_inter, of_intra, both, plain))
    return inter, intra, total, alone


def _effective_rank(centred: FloatArray, df: int) -> float:
    """Estimate (tr C)^2 / tr C^2 from the centred Gram matrix, with unbiased estimates of both traces."""
    trace = float(np.trace(centred))
    if df < 2 or not 0.0 < trace < np.inf:
        return 1.0
    squared_trace = 1.0 / df**2
    trace_of_square = float(((centred / trace) ** 2).sum()) / df**2
    second = df**2 / ((df - 1) * (df + 2)) * (trace_of_square - squared_trace / df)
    first = squared_trace - 2.0 * second / df
    limit = float(len(centred))
    return limit if second * limit <= first else max(first / second, 1.0)


def _point_covariance(centred: FloatArray, frame: Frame) -> FloatArray:
    (q, _), (m, rank) = frame.coefficients.shape, frame.basis.shape
    blocks = centred.reshape(q, rank, q, rank)
    return np.stack([m * q * frame.basis @ blocks[o, :, o] @ frame.basis.T for o in range(q)])


def _ratio(numerator: FloatArray, denominator: FloatArray) -> float:
    return float(numerator / denominator) if denominator > 0.0 else 1.0
