r"""One-way random effects where students have unequal numbers of outputs, or none at some points.

Every point is an analysis of its own: the students asked there, with the outputs they gave. Which
estimator and which interval:

* ``inter_student`` is the analysis-of-variance estimator, unbiased for any numbers of outputs [1]_,

  .. math:: \hat\sigma^2_{inter} = \frac{MSB - MSW}{n_0}, \qquad
            n_0 = \frac{1}{S-1}\Bigl(N - \frac{\sum_s n_s^2}{N}\Bigr);

* ``intra_student`` is MSW, on N - S degrees of freedom;
* intervals come from the *unweighted* variance of the student means, whose expectation is inter + intra/h
  with h the harmonic mean of the :math:`n_s` [2]_. It is close to a scaled chi-square, whose degrees of freedom are
  S - 1 for equal cells and fewer for unequal ones (Satterthwaite): with :math:`d_s` = inter + intra/:math:`n_s`,
  :math:`\nu = (\mathrm{tr}\,QD)^2/\mathrm{tr}\,(QD)^2`, D = diag(d) and Q the centring matrix. Inter is put in
  as its analysis-of-variance estimate, or 0 if that is negative: it weighs students by their outputs and knows
  a small inter better than the unweighted variance does.

References
----------
.. [1] Searle, S. R., Casella, G. & McCulloch, C. E. (1992), *Variance Components*, ch. 3.
.. [2] Thomas, J. D. & Hultquist, R. A. (1978), Ann. Statist. 6.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.equal_noise import own_noise
from kdstats.components.estimation import warn_if_negative
from kdstats.components.kernels import cell_moments
from kdstats.components.provenance import versions
from kdstats.components.result import VarianceComponents
from kdstats.errors import ApproximationWarning, EstimationError

__all__ = ["estimate_unbalanced"]

FloatArray = NDArray[np.float64]

ESTIMATOR = "one-way random effects, unbalanced: (MSB - MSW)/n0"
#: Fewest students at a point for a jackknife over students; Gaussian theory below.
N_JACKKNIFE = 4
#: Points from whose covariances the effective rank is estimated.
RANK_POINTS = 2000
#: Level of the test that own variances do not go with the numbers of outputs.
NOISE_LEVEL = 0.01


@dataclass(frozen=True, eq=False, kw_only=True)
class _Cells:
    """Counts, means and sums of squares of every student's outputs at every point, each (S, C)."""

    counts: FloatArray
    means: FloatArray
    squares: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class _Analysis:
    """Mean squares and components; each of the shape of the cells without the student axis."""

    inter: FloatArray
    within: FloatArray
    between: FloatArray
    replicates: FloatArray
    n_students: FloatArray
    df_between: FloatArray
    df_within: FloatArray


def estimate_unbalanced(
    values: FloatArray,
    *,
    student: NDArray[np.int64],
    point: NDArray[np.int64],
    students: Sequence[Any],
    points: Sequence[Any],
    outputs: Sequence[Any],
    engine: str = "table",
    attrs: Mapping[str, Any] | None = None,
) -> VarianceComponents:
    """Estimate variance components from rows, whatever the number of rows of each student at each point.

    Parameters
    ----------
    values : (N, q) ndarray
        One row for each output of a student at a point.
    student, point : (N,) ndarrays of int
        Position of each row's labels in ``students`` and ``points``.
    students, points, outputs : sequence
        Labels.
    engine : str, default "table"
    attrs : mapping, optional
        More provenance.

    Returns
    -------
    VarianceComponents
        ``mean_squares`` holds, for each point, ``between`` (variance of the student means, each counted once),
        ``within`` (MSW), their standard errors and degrees of freedom, and ``replicates`` (harmonic mean).
        ``student_predictions`` is NaN where a student has no output.

    Raises
    ------
    EstimationError
        If a point has fewer than two students, or no student with two outputs (named).

    Warns
    -----
    ApproximationWarning
        If the students' own variances go with their numbers of outputs (tested at the 1% level, see
        :func:`kdstats.components.equal_noise.own_noise`): all three components are then marked unreliable, and the
        warning gives them with each student counted once.

    Notes
    -----
    Homogeneous replicate errors are assumed: students with more outputs weigh more in MSW. Standard
    errors are a jackknife over students; with fewer than four students at a point, Gaussian formulas.
    Measured coverage of the intervals: docs/theory/tests-and-intervals.md.
    A negative inter keeps its sign, with a warning.
    """
    cells = _moments(values, student, point, shape=(len(students), len(points), values.shape[1]))
    _refuse_unidentified(cells, points, values.shape[1])
    full = _analyse(cells)
    warn_if_negative(full.inter, full.within)
    errors, pooled = _jackknife(cells, full)
    present = cells.counts > 0
    rank = _effective_rank(np.where(present, cells.means - _column_means(cells), 0.0), present)
    grid = (len(points), values.shape[1])
    facts: dict[str, Any] = {
        "engine": engine,
        "exactness": "observed",
        "estimator": ESTIMATOR,
        "ddof": 1,
        "n_students": len(students),
        "effective_rank": rank,
        "effective_rank_within": _rank_within(full, pooled["within"]),
        "average_standard_error": pooled,
        "boundary": bool((full.inter < 0).any()),
        "degenerate": tuple(n for n in ("between", "within") if not getattr(full, n).any()),
        "n_missing": int((~present).sum()) // grid[1],
        "versions": versions(),
        **_unequal_noise(cells, full),
    }
    components = VarianceComponents.from_arrays(
        inter_student=full.inter.reshape(grid),
        intra_student=full.within.reshape(grid),
        inter_student_se=errors["inter_student"].reshape(grid),
        intra_student_se=errors["intra_student"].reshape(grid),
        total_se=errors["total"].reshape(grid),
        point_labels=points,
        output_labels=outputs,
        attrs={**facts, **(attrs or {})},
        student_predictions=None,
    )
    labels = components.estimate.coords
    numbers = {
        "between": full.between,
        "within": full.within,
        "between_se": errors["between"],
        "within_se": errors["within"],
        "df_between": full.df_between,
        "df_within": full.df_within,
        "replicates": full.replicates,
    }
    mean_squares = xr.Dataset(
        {name: (("point", "output"), number.reshape(grid)) for name, number in numbers.items()},
        coords=labels,
        attrs={
            "df_between": float(full.df_between.mean()),
            "df_within": float(full.df_within.mean()),
            "n_replicates": float(_harmonic(full.replicates, axis=0)),
        },
    )
    means = np.where(present, cells.means, np.nan).reshape(len(students), *grid)
    dims = ("student", "point", "output")
    predictions = xr.DataArray(means, dims=dims, coords={"student": list(students), **labels})
    return VarianceComponents(
        estimate=components.estimate,
        standard_error=components.standard_error,
        attrs=components.attrs,
        mean_squares=mean_squares,
        student_predictions=predictions,
    )


def _moments(
    values: FloatArray, student: NDArray[np.int64], point: NDArray[np.int64], *, shape: tuple[int, int, int]
) -> _Cells:
    n_students, n_points, n_outputs = shape
    cell = student * n_points + point
    counts, means, squares = cell_moments(cell, np.ascontiguousarray(values, dtype=np.float64), n_students * n_points)
    flat = (n_students, n_points * n_outputs)
    wide = np.repeat(counts.astype(np.float64), n_outputs).reshape(flat)
    return _Cells(counts=wide, means=means.reshape(flat), squares=squares.reshape(flat))


def _refuse_unidentified(cells: _Cells, points: Sequence[Any], n_outputs: int) -> None:
    n_students = (cells.counts > 0).sum(axis=0)
    if (n_students < 2).any():
        place = int(np.argmax(n_students < 2))
        raise EstimationError(
            "every point must have outputs of at least 2 students to estimate inter-student variance; got "
            f"{n_students[place]} at point {points[place // n_outputs]!r}"
        )
    repeated = (cells.counts > 1).any(axis=0)
    if not repeated.all():
        place = int(np.argmin(repeated))
        raise EstimationError(
            "`n_replicates` must be at least 2 for some student at every point to identify intra-student variance; "
            f"got 1 or none for all at point {points[place // n_outputs]!r}"
        )


def _unequal_noise(cells: _Cells, full: _Analysis) -> dict[str, Any]:
    """Warn, and mark the components, if students with more outputs are not as noisy as the others."""
    noise = own_noise(cells.counts, cells.means, cells.squares)
    if noise.pvalue >= NOISE_LEVEL:
        return {}
    reason = (
        f"students' own variances go with their numbers of outputs (p = {noise.pvalue:.2g} if they do not): "
        f"weighted by outputs, intra_student averages {full.within.mean():.4g} and inter_student "
        f"{full.inter.mean():.4g}; with each student counted once, {noise.intra.mean():.4g} and "
        f"{noise.inter.mean():.4g}"
    )
    warnings.warn(f"{reason}; give all students equally many outputs", ApproximationWarning, stacklevel=4)
    return {"unreliable": ("inter_student", "intra_student", "total"), "unreliable_because": reason}


def _analyse(cells: _Cells) -> _Analysis:
    """Analysis of variance of each column; students without outputs count for nothing."""
    counts, total = cells.counts, cells.counts.sum(axis=0)
    present = counts > 0
    n = present.sum(axis=0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        df_within = total - n
        within = cells.squares.sum(axis=0) / df_within
        grand = (counts * cells.means).sum(axis=0) / total
        weighted = (counts * (cells.means - grand) ** 2).sum(axis=0) / (n - 1)
        n0 = (total - (counts**2).sum(axis=0) / total) / (n - 1)
        plain = np.where(present, cells.means - _column_means(cells), 0.0)
        between = (plain**2).sum(axis=0) / (n - 1)
        inter = (weighted - within) / n0
    if not np.isfinite(inter).all():
        raise EstimationError("`values` must be small enough to square in float64; got values whose squares overflow")
    return _Analysis(
        inter=inter,
        within=within,
        between=between,
        replicates=_harmonic(counts, axis=0),
        n_students=n,
        df_between=_satterthwaite(counts, np.maximum(inter, 0.0), within),
        df_within=df_within,
    )


def _satterthwaite(counts: FloatArray, inter: FloatArray, within: FloatArray) -> FloatArray:
    """Degrees of freedom of the unweighted variance of student means whose variances are unequal."""
    present = counts > 0
    n = present.sum(axis=0).astype(np.float64)
    scale = np.where(inter + within > 0, inter + within, 1.0)
    own = np.divide(within / scale, counts, out=np.zeros_like(counts), where=present)
    variance = np.where(present, inter / scale + own, 0.0)
    first, second = variance.sum(axis=0), (variance**2).sum(axis=0)
    square = second * (1 - 2 / n) + (first / n) ** 2
    df = np.divide(((1 - 1 / n) * first) ** 2, square, out=n - 1, where=square > 0)
    equal = np.where(present, counts, np.inf).min(axis=0) == counts.max(axis=0)
    return np.asarray(np.where(equal, n - 1, np.minimum(df, n - 1)))


def _column_means(cells: _Cells) -> FloatArray:
    present = cells.counts > 0
    mean: FloatArray = np.where(present, cells.means, 0.0).sum(axis=0) / present.sum(axis=0)
    return mean


def _harmonic(counts: FloatArray, *, axis: int) -> Any:
    present = counts > 0
    inverse = np.divide(1.0, counts, out=np.zeros_like(counts), where=present)
    return present.sum(axis=axis) / inverse.sum(axis=axis)


def _jackknife(cells: _Cells, full: _Analysis) -> tuple[dict[str, FloatArray], dict[str, float]]:
    """Leave one student out at a time: standard errors at each point, and of the average over points."""
    n_students, width = cells.counts.shape
    names = ("between", "within", "inter_student", "intra_student", "total")
    sums = {name: np.zeros(width) for name in names}
    squares = {name: np.zeros(width) for name in names}
    averages = {name: np.zeros(n_students) for name in names}
    base = _named(full)
    few = (full.n_students < N_JACKKNIFE) | (((cells.counts > 1).sum(axis=0)) < 2)
    sufficient = _sufficient(cells)
    for s in range(n_students):
        here = cells.counts[s] > 0
        without = _without(sufficient, cells.counts[s], cells.means[s], cells.squares[s])
        for name in names:
            change = np.where(here & ~few, without[name] - base[name], 0.0)
            sums[name] += change
            squares[name] += change**2
            averages[name][s] = change.mean()
    n = full.n_students
    gaussian = _gaussian_errors(full)
    errors = {}
    for name in names:
        spread = np.maximum(squares[name] - sums[name] ** 2 / n, 0.0)
        errors[name] = np.where(few, gaussian[name], np.sqrt((n - 1) / n * spread))
    if few.any():
        return errors, {name: float(error.mean()) for name, error in errors.items()}
    factor = (n_students - 1) / n_students
    return errors, {name: float(np.sqrt(factor * ((a - a.mean()) ** 2).sum())) for name, a in averages.items()}


def _named(analysis: _Analysis) -> dict[str, FloatArray]:
    return {
        "between": analysis.between,
        "within": analysis.within,
        "inter_student": analysis.inter,
        "intra_student": analysis.within,
        "total": analysis.inter + analysis.within,
    }


def _sufficient(cells: _Cells) -> dict[str, FloatArray]:
    """Sums over students from which one student can be subtracted; means are taken about the column's."""
    c, present = cells.counts, cells.counts > 0
    centre = _column_means(cells)
    m = np.where(present, cells.means - centre, 0.0)
    return {
        "centre": centre,
        "n": present.sum(axis=0).astype(float),
        "N": c.sum(axis=0),
        "N2": (c**2).sum(axis=0),
        "ss": cells.squares.sum(axis=0),
        "m": m.sum(axis=0),
        "m2": (m**2).sum(axis=0),
        "cm": (c * m).sum(axis=0),
        "cm2": (c * m**2).sum(axis=0),
    }


def _without(
    total: dict[str, FloatArray], c: FloatArray, mean: FloatArray, squares: FloatArray
) -> dict[str, FloatArray]:
    m, one = np.where(c > 0, mean - total["centre"], 0.0), (c > 0).astype(float)
    n, size, size2 = total["n"] - one, total["N"] - c, total["N2"] - c**2
    with np.errstate(invalid="ignore", divide="ignore"):
        within = (total["ss"] - squares) / (size - n)
        weighted = (total["cm2"] - c * m**2 - (total["cm"] - c * m) ** 2 / size) / (n - 1)
        inter = (weighted - within) * (n - 1) / (size - size2 / size)
        between = (total["m2"] - m**2 - (total["m"] - m) ** 2 / n) / (n - 1)
    return {
        "between": between,
        "within": within,
        "inter_student": inter,
        "intra_student": within,
        "total": inter + within,
    }


def _gaussian_errors(full: _Analysis) -> dict[str, FloatArray]:
    of_between = 2 * full.between**2 / (full.n_students + 1)
    of_within = 2 * full.within**2 / (full.df_within + 2)
    share = 1 / full.replicates
    weights: dict[str, tuple[Any, Any]] = {
        "between": (1.0, 0.0),
        "within": (0.0, 1.0),
        "inter_student": (1.0, share),
        "intra_student": (0.0, 1.0),
        "total": (1.0, 1.0 - share),
    }
    return {name: np.sqrt(b**2 * of_between + w**2 * of_within) for name, (b, w) in weights.items()}


def _rank_within(full: _Analysis, error: float) -> float:
    """How many independent points the replicate errors amount to, from the standard error of their average MSW.

    Were the errors of all points one, it would be the mean of the points' own; independent points divide its square
    by their number. Errors with heavy tails count as fewer points. The square of the standard error is taken two of
    its own standard errors (from S students) up, which errs towards wide intervals.
    """
    if error <= 0.0:
        return 1.0
    of_one = float(np.sqrt(2.0 / full.df_within * full.within**2).mean())
    cautious = error**2 * (1.0 + 2.0 * np.sqrt(2.0 / max(float(full.n_students.max()) - 1.0, 1.0)))
    return float(np.clip(of_one**2 / cautious, 1.0, full.within.size))


def _effective_rank(deviations: FloatArray, present: NDArray[np.bool_]) -> float:
    """(tr C)^2 / tr C^2 of the student means, each covariance from the students that both points have.

    As :func:`kdstats.components.estimation.effective_rank`, pair by pair; of many points, an even selection.
    """
    width = deviations.shape[1]
    scale = float(np.abs(deviations).max(initial=0.0))
    if scale == 0.0 or width == 1:
        return 1.0
    chosen = np.unique(np.linspace(0, width - 1, min(width, RANK_POINTS)).astype(np.int64))
    rows, mask = deviations[:, chosen] / scale, present[:, chosen].astype(np.float64)
    df = mask.T @ mask - 1.0
    usable = df >= 2
    df = np.where(usable, df, 2.0)
    covariance = np.where(usable, rows.T @ rows / df, 0.0)
    variance = np.diag(covariance)
    product = np.outer(variance, variance)
    square = df**2 / ((df - 1) * (df + 2)) * (covariance**2 - product / df)
    both = np.where(usable, product - 2.0 * square / df, product)
    square = np.where(usable, square, product)

    def whole(matrix: FloatArray) -> float:
        """Sum over all pairs of points from those of the selection."""
        diagonal, size = float(np.trace(matrix)), len(chosen)
        off = (float(matrix.sum()) - diagonal) / max(size * (size - 1), 1)
        return float(width * diagonal / size + width * (width - 1) * off)

    first, second = whole(both), whole(square)
    return float(width) if second * width <= first else max(first / second, 1.0)
