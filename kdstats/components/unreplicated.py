r"""One output of each student at each point: the total is identified, its two parts are not.

The variance over students of single outputs estimates inter + intra, the variance of one output of a
random student. No arithmetic divides it: that takes a second output of some students, or a variance of
outputs that is known from elsewhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.estimation import effective_rank
from kdstats.components.provenance import versions
from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.errors import EstimationError, NotIdentifiedWarning

__all__ = ["estimate_unreplicated"]

FloatArray = NDArray[np.float64]

ESTIMATOR = "variance over students of single outputs"
#: Fewest students whose own spread says how well the variance is known; Gaussian theory below.
N_DISTRIBUTION_FREE = 4


def estimate_unreplicated(
    values: FloatArray,
    *,
    students: Sequence[Any],
    points: Sequence[Any],
    outputs: Sequence[Any],
    engine: str = "table",
    attrs: Mapping[str, Any] | None = None,
) -> VarianceComponents:
    r"""Estimate the total variance at every point from one output of each student.

    Parameters
    ----------
    values : (S, m, q) ndarray
        The outputs; NaN where a student has none.
    students, points, outputs : sequence
        Labels.
    engine : str, default "table"
    attrs : mapping, optional
        More provenance.

    Returns
    -------
    VarianceComponents
        ``total`` is unbiased, with a chi-square interval on the number of students less one (Gaussian
        students; ``interval(students="any")`` replaces the degrees of freedom by those that the
        students' kurtosis leaves). ``inter_student`` and ``intra_student`` are NaN, and named in
        ``attrs["not_identified"]``; each is at most ``total``.

    Raises
    ------
    EstimationError
        If a point has outputs of fewer than two students (named), or squares overflow.

    Warns
    -----
    NotIdentifiedWarning
        Always.
    """
    grid = values.shape[1:]
    flat = values.reshape(len(values), -1)
    present = ~np.isnan(flat)
    n = present.sum(axis=0)
    if (n < 2).any():
        place = int(np.argmax(n < 2))
        raise EstimationError(
            f"`n_students` must be at least 2 to estimate a variance over students; got {n[place]} at point "
            f"{points[place // grid[1]]!r}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        offset = np.where(present, flat, -np.inf).max(axis=0)
        deviations = np.where(present, flat - offset, 0.0)
        deviations = np.where(present, deviations - deviations.sum(axis=0) / n, 0.0)
        deviations = np.where(present, deviations - deviations.sum(axis=0) / n, 0.0)
        squares = deviations**2
        total = squares.sum(axis=0) / (n - 1)
    if not np.isfinite(total).all():
        raise EstimationError("`values` must be small enough to square in float64; got values whose squares overflow")
    warnings.warn(
        "inter_student and intra_student are not identified by one output of each student at a point, and are NaN; "
        "total is (a second replicate of some students would part it; variances=0 says that values are student "
        "means without output noise)",
        NotIdentifiedWarning,
        stacklevel=3,
    )
    error = _error(squares, present)
    complete = bool(present.all())
    facts: dict[str, Any] = {
        "engine": engine,
        "exactness": "observed",
        "estimator": ESTIMATOR,
        "ddof": 1,
        "n_students": len(students),
        "effective_rank": effective_rank(deviations, df=len(students) - 1) if complete else 1.0,
        "boundary": False,
        "degenerate": () if total.any() else ("between",),
        "not_identified": COMPONENTS[:2],
        "n_missing": int((~present).sum()) // grid[1],
        "versions": versions(),
    }
    if complete:
        pooled = float(_error(squares.mean(axis=1, keepdims=True), present[:, :1])[0])
        facts["average_standard_error"] = {"total": pooled, "between": pooled}
    unknown = np.full(grid, np.nan)
    numbers = dict(zip(COMPONENTS, (unknown, unknown, total.reshape(grid)), strict=True))
    errors = dict(zip(COMPONENTS, (unknown, unknown, error.reshape(grid)), strict=True))
    dims = ("point", "output")
    coords = {"point": list(points), "output": list(outputs)}
    mean_squares = {
        "between": total.reshape(grid),
        "within": unknown,
        "between_se": error.reshape(grid),
        "within_se": unknown,
        "df_between": (n - 1.0).reshape(grid),
    }
    return VarianceComponents(
        estimate=xr.Dataset({name: (dims, number) for name, number in numbers.items()}, coords=coords),
        standard_error=xr.Dataset({name: (dims, number) for name, number in errors.items()}, coords=coords),
        attrs={**facts, **(attrs or {})},
        mean_squares=xr.Dataset(
            {name: (dims, number) for name, number in mean_squares.items()},
            coords=coords,
            attrs={"df_between": float(n.mean() - 1), "df_within": 0, "n_replicates": 1},
        ),
        student_predictions=xr.DataArray(values, dims=("student", *dims), coords={"student": list(students), **coords}),
    )


def _error(squares: FloatArray, present: NDArray[np.bool_]) -> FloatArray:
    """Standard error of a variance over students, as with replicates: jackknife pseudo-values, or 2 s^4/(S+1)."""
    n = present.sum(axis=0).astype(np.float64)
    few = n < N_DISTRIBUTION_FREE
    safe = np.where(few, N_DISTRIBUTION_FREE, n)
    pseudo = squares * safe / np.sqrt((safe - 1) * (safe - 2))
    deviation = np.where(present, pseudo - pseudo.sum(axis=0) / safe, 0.0)
    spread = np.sqrt((deviation**2).sum(axis=0) / ((safe - 1) * safe))
    gaussian = squares.sum(axis=0) / (n - 1) * np.sqrt(2 / (n + 1))
    return np.asarray(np.where(few, gaussian, spread))
