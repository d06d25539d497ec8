"""From the predictions of many students to unbiased variance components.

One-way random effects: output = student + replicate error. Students are independent draws of one
population; the points they are asked at share the students and are correlated.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.kernels import frobenius_square, student_moments
from kdstats.components.provenance import versions
from kdstats.components.result import VarianceComponents
from kdstats.errors import EstimationError, KdstatsError, NegativeComponentWarning, invalid
from kdstats.problem.validation import as_array, as_labels

__all__ = ["effective_rank", "estimate_components", "warn_if_negative"]

FloatArray = NDArray[np.float64]

DIMS = ("student", "replicate", "point", "output")
SAMPLED = "one-way random effects, (MSB - MSW)/r"
KNOWN = "variance of student means, mean of student variances"
#: Fewest students whose own spread says how well the variance is known; Gaussian theory below.
N_DISTRIBUTION_FREE = 4
#: Most replicate errors from which their effective rank is estimated.
RANK_ROWS = 10_000


@dataclass(frozen=True, eq=False, kw_only=True)
class _Table:
    """Canonical predictions: values (S, r, m, q) with their labels."""

    values: NDArray[Any]
    students: tuple[Any, ...]
    points: tuple[Any, ...]
    outputs: tuple[Any, ...]
    dims: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape


def estimate_components(
    predictions: Any,
    *,
    variances: Any = None,
    point_labels: Sequence[Any] | None = None,
    engine: str = "table",
    attrs: Mapping[str, Any] | None = None,
) -> VarianceComponents:
    r"""Estimate variance components, without bias, from the predictions of many students.

    Parameters
    ----------
    predictions : xarray.DataArray or array_like
        A DataArray with dim ``student`` and any of ``replicate``, ``point``, ``output``, in any
        order. Other input is read as ``(student, replicate, point, output)``; trailing dims that
        are missing have size 1, so (S, r, m) has one output and (S, r) one point. At least two
        students. float32 is accumulated in float64.
    variances : scalar, array_like or xarray.DataArray, optional
        With one replicate, which is then each student's mean prediction: the predictive variance of
        each student, dims (student, point, output), squared output units. ``variances=0`` says that
        a student's output is not random; a positive number that all students have that variance.
    point_labels : sequence, optional
        Labels of the points. Default: the ``point`` coordinate, or 0, 1, ...
    engine : str, default "table"
        What made the predictions, for the record.
    attrs : mapping, optional
        More provenance (``seed``, ``wall_time``, ...).

    Returns
    -------
    VarianceComponents
        ``exactness`` "observed". ``mean_squares`` holds ``between`` (= MSB/r), ``within`` (= MSW)
        and their standard errors. ``attrs`` has ``effective_rank`` (of the covariance of the student
        means, see :func:`effective_rank`), ``effective_rank_within`` (of the replicate errors),
        ``average_standard_error``, ``boundary`` (an inter-student component came out negative)
        and ``degenerate`` (names of the mean squares that are 0 at every point).

    Raises
    ------
    EstimationError
        Fewer than two students, one replicate without ``variances`` (intra-student variance is not
        identified), values that are not finite (naming the student), or shapes that differ.

    Warns
    -----
    NegativeComponentWarning
        If ``inter_student`` is negative somewhere. Its sign is kept: clipping would bias averages.

    Notes
    -----
    With r replicates, student means :math:`\bar y_s` and within-student variances :math:`w_s`,

    .. math:: \hat\sigma^2_{inter} = \mathrm{var}(\bar y_s) - \bar w / r, \qquad \hat\sigma^2_{intra} = \bar w .

    Standard errors come from the spread over students of
    :math:`S(\bar y_s-\bar y)^2/\sqrt{(S-1)(S-2)}` combined with :math:`w_s`: jackknife pseudo-values,
    scaled so that the squared standard errors are unbiased for Gaussian students, and
    consistent for students of any kurtosis or with unequal variances. Fewer than four students get
    the Gaussian formulas :math:`2s^4/(\nu+2)`.

    Examples
    --------
    >>> from kdstats.components.estimation import estimate_components
    >>> answer = estimate_components([[1.0, 3.0], [5.0, 7.0]])  # two students, two outputs each
    >>> float(answer.inter_student.squeeze()), float(answer.intra_student.squeeze())
    (7.0, 2.0)
    """
    table = _as_table(predictions, point_labels)
    n_students, n_replicates = table.shape[:2]
    known = _known_variances(variances, table)
    flat = np.ascontiguousarray(table.values.reshape(n_students, n_replicates, -1))
    offset = flat[0, 0].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        means, within = student_moments(flat, offset)
        if known is not None:
            within = known
        deviations = means - means.mean(axis=0)
        deviations -= deviations.mean(axis=0)
        squares = deviations**2
        between, spread = squares.sum(axis=0) / (n_students - 1), within.mean(axis=0)
    if not (np.isfinite(between).all() and np.isfinite(spread).all()):
        raise _refused("predictions", "be small enough to square in float64", "values whose squares overflow")
    share = 0.0 if known is not None else 1.0 / n_replicates
    inter = between - share * spread
    se = _standard_errors(squares, within, share=share, n_replicates=n_replicates)
    pooled = _standard_errors(
        squares.mean(axis=1, keepdims=True), within.mean(axis=1, keepdims=True), share=share, n_replicates=n_replicates
    )
    facts: dict[str, Any] = {
        "engine": engine,
        "exactness": "observed",
        "estimator": SAMPLED if known is None else KNOWN,
        "ddof": 1,
        "n_students": n_students,
        "effective_rank": effective_rank(deviations, df=n_students - 1),
        "average_standard_error": {name: float(value[0]) for name, value in pooled.items()},
        "boundary": bool((inter < 0).any()),
        "degenerate": tuple(name for name, square in (("between", between), ("within", spread)) if not square.any()),
        "versions": versions(),
    }
    if known is None:
        facts["effective_rank_within"] = _rank_within(flat, means + offset)
    warn_if_negative(inter, spread)
    grid = table.shape[2:]
    coords = {"student": list(table.students)}
    components = VarianceComponents.from_arrays(
        inter_student=inter.reshape(grid),
        intra_student=spread.reshape(grid),
        inter_student_se=se["inter_student"].reshape(grid),
        intra_student_se=se["intra_student"].reshape(grid),
        total_se=se["total"].reshape(grid),
        point_labels=table.points,
        output_labels=table.outputs,
        attrs={**facts, **(attrs or {})},
    )
    labels = components.estimate.coords
    mean_squares = xr.Dataset(
        {
            name: (("point", "output"), value.reshape(grid))
            for name, value in (
                ("between", between),
                ("within", spread),
                ("between_se", se["between"]),
                ("within_se", se["within"]),
            )
        },
        coords=labels,
        attrs={
            "df_between": n_students - 1,
            "df_within": n_students * (n_replicates - 1) if known is None else n_students - 1,
            "n_replicates": n_replicates if known is None else 0,
        },
    )
    kept = table.values[:, 0].astype(np.float64) if n_replicates == 1 else (means + offset).reshape(n_students, *grid)
    student_predictions = xr.DataArray(kept, dims=("student", "point", "output"), coords={**coords, **labels})
    return replace(components, mean_squares=mean_squares, student_predictions=student_predictions)


def effective_rank(deviations: FloatArray, *, df: int) -> float:
    r"""Estimate :math:`(\mathrm{tr}\,C)^2/\mathrm{tr}\,C^2`, how many independent points correlated ones amount to.

    Parameters
    ----------
    deviations : (N, P) ndarray
        Rows centred on their means; ``deviations.T @ deviations / df`` is the sample covariance.
    df : int
        Degrees of freedom of the rows.

    Returns
    -------
    float
        Between 1 and P. 1 (the cautious value) if one degree of freedom or no variance leaves it unknown.

    Notes
    -----
    For a Wishart matrix :math:`\hat C` with :math:`\nu` degrees of freedom
    :math:`E\,\mathrm{tr}\hat C^2 = (1+1/\nu)\,\mathrm{tr}C^2 + (\mathrm{tr}C)^2/\nu` and
    :math:`E(\mathrm{tr}\hat C)^2 = (\mathrm{tr}C)^2 + 2\,\mathrm{tr}C^2/\nu`. Solved for the two
    traces these give unbiased estimates of both; their ratio is consistent, where the plain ratio
    cannot exceed :math:`\nu` however many points are independent.
    """
    scale = float(np.abs(deviations).max(initial=0.0))
    if df < 2 or scale == 0.0:
        return 1.0
    rows = deviations / scale
    trace_of_square = frobenius_square(rows) / df**2
    squared_trace = (float(np.einsum("ij,ij->", rows, rows)) / df) ** 2
    second = df**2 / ((df - 1) * (df + 2)) * (trace_of_square - squared_trace / df)
    first = squared_trace - 2.0 * second / df
    limit = float(deviations.shape[1])
    return limit if second * limit <= first else max(first / second, 1.0)


def _refused(parameter: str, rule: str, value: object) -> KdstatsError:
    return invalid(parameter, rule, value, EstimationError)


def _standard_errors(
    squares: FloatArray, within: FloatArray, *, share: float, n_replicates: int
) -> dict[str, FloatArray]:
    """Standard errors of between, within and the three components from (S, P) squared deviations and variances."""
    n = squares.shape[0]
    weights = {
        "between": (1.0, 0.0),
        "within": (0.0, 1.0),
        "inter_student": (1.0, -share),
        "intra_student": (0.0, 1.0),
        "total": (1.0, 1.0 - share),
    }
    if n < N_DISTRIBUTION_FREE:
        between, spread = squares.sum(axis=0) / (n - 1), within.mean(axis=0)
        of_within = 2 * spread**2 / (n * (n_replicates - 1) + 2) if share else within.var(axis=0, ddof=1) / n
        of_between = 2 * between**2 / (n + 1)
        return {name: np.sqrt(b**2 * of_between + w**2 * of_within) for name, (b, w) in weights.items()}
    pseudo = squares * (n / np.sqrt((n - 1.0) * (n - 2.0)))
    return {name: (b * pseudo + w * within).std(axis=0, ddof=1) / np.sqrt(n) for name, (b, w) in weights.items()}


def _rank_within(flat: NDArray[Any], means: FloatArray) -> float:
    n_replicates, n_points = flat.shape[1:]
    n_students = min(flat.shape[0], max(RANK_ROWS // n_replicates, 1))
    residuals = flat[:n_students].astype(np.float64)
    residuals -= means[:n_students, None]
    residuals -= residuals.mean(axis=1, keepdims=True)
    return effective_rank(residuals.reshape(-1, n_points), df=n_students * (n_replicates - 1))


def warn_if_negative(inter: FloatArray, spread: FloatArray) -> None:
    """Warn if an inter-student component is negative somewhere, naming the smallest beside its intra."""
    negative = int((inter < 0).sum())
    if negative:
        warnings.warn(
            f"inter_student is negative at {negative} of {inter.size} points (smallest {inter.min():.4g}, beside an "
            f"intra_student of {spread[int(inter.argmin())]:.4g}): the unbiased estimate keeps its sign; more students "
            "or replicates would settle it",
            NegativeComponentWarning,
            stacklevel=3,
        )


def _as_table(predictions: Any, point_labels: Sequence[Any] | None) -> _Table:
    """Put predictions into (student, replicate, point, output) order, complete and finite."""
    if isinstance(predictions, xr.Dataset):
        raise _refused("predictions", "be a DataArray or array", "a Dataset")
    labelled = isinstance(predictions, xr.DataArray)
    if labelled:
        dims = tuple(dim for dim in DIMS if dim in predictions.dims)
        strange = [str(dim) for dim in predictions.dims if dim not in DIMS]
        if strange or "student" not in dims:
            rule = "have the dim student and no dims but replicate, point, output"
            raise _refused("predictions", rule, f"dims {tuple(predictions.dims)}")
        raw = predictions.transpose(*dims).values
    else:
        raw = _as_float("predictions", predictions)
        if not 2 <= raw.ndim <= 4:
            raise _refused("predictions", f"have the dims {DIMS} or the first two or three", f"shape {raw.shape}")
        dims = DIMS[: raw.ndim]
    raw = _as_float("predictions", raw)
    values = raw.reshape([raw.shape[dims.index(dim)] if dim in dims else 1 for dim in DIMS])

    def labels(dim: str) -> tuple[Any, ...]:
        size = values.shape[DIMS.index(dim)]
        if labelled and dim in predictions.coords:
            return as_labels(dim, np.atleast_1d(predictions.coords[dim].values), size)
        return tuple(range(size))

    table = _Table(
        values=values,
        students=labels("student"),
        points=labels("point") if point_labels is None else as_labels("point_labels", point_labels, values.shape[2]),
        outputs=labels("output"),
        dims=dims,
    )
    if table.shape[0] < 2:
        raise _refused(
            "n_students", "be at least 2 to estimate inter-student variance", f"{table.shape[0]}" + _still_known(table)
        )
    _refuse_not_finite("predictions", values, table, DIMS)
    return table


def _still_known(table: _Table) -> str:
    known = f" ({table.shape[1]} replicates of one student identify its own variance only)"
    return known if table.shape[1] > 1 else ""


def _as_float(name: str, value: Any) -> NDArray[Any]:
    """Return float32 or float64 as they are, other real numbers as float64; nothing else passes."""
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray) or value.dtype.kind not in "fiu":
        if isinstance(value, np.ndarray | list | tuple):
            value = _rectangular(name, value)
        else:
            return as_array(name, value)
    if value.size == 0:
        raise _refused(name, "not be empty", f"shape {value.shape}")
    array: NDArray[Any] = value if value.dtype in (np.float32, np.float64) else value.astype(np.float64)
    return array


def _rectangular(name: str, value: Any) -> NDArray[Any]:
    """Convert lists and odd arrays; values that are not finite pass, to be reported with their student."""
    try:
        plain = np.asarray(value) if not isinstance(value, np.ma.MaskedArray) else None
    except ValueError:
        plain = None
    return plain if plain is not None and plain.dtype.kind in "fiu" else as_array(name, value)


def _refuse_not_finite(name: str, values: NDArray[Any], table: _Table, dims: tuple[str, ...]) -> None:
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    first = np.argwhere(bad)[0]
    place = {dim: int(index) for dim, index in zip(dims, first, strict=True)}
    students = bad.reshape(bad.shape[0], -1).any(axis=1)
    others = f"; {int(students.sum())} of {students.size} students affected" if students.sum() > 1 else ""
    named = [f"student {table.students[place['student']]!r}"]
    named += [f"replicate {place['replicate']}"] if place.get("replicate") else []
    named += [f"point {table.points[place['point']]!r}", f"output {table.outputs[place['output']]!r}"]
    raise _refused(name, "be finite everywhere", f"{values[tuple(first)]} for {', '.join(named)}{others}")


def _known_variances(variances: Any, table: _Table) -> FloatArray | None:
    """Return each student's own variances as (S, P), or None where replicates are to be used."""
    n_students, n_replicates = table.shape[:2]
    if variances is None:
        if n_replicates == 1:
            raise EstimationError(
                "`n_replicates` must be at least 2 to identify intra-student variance; got 1 (pass each student's own "
                "predictive `variances`, or `variances=0` if a student's output is not random)"
            )
        return None
    if n_replicates > 1:
        shape = f"{n_replicates} (predictions were read as {', '.join(table.dims)})"
        raise _refused("n_replicates", "be 1 where `variances` are given", shape)
    target = (n_students, *table.shape[2:])
    if isinstance(variances, xr.DataArray):
        raw = _aligned(variances, table)
    else:
        raw = _as_float("variances", variances)
        if raw.ndim == 0:
            raw = np.full(target, float(raw))
    given = [dim for dim in ("point", "output") if dim in table.dims]
    if raw.shape not in (target, (n_students, *(table.shape[DIMS.index(dim)] for dim in given))):
        raise _refused(
            "variances", f"have shape {target} (student, point, output) or be a number", f"shape {raw.shape}"
        )
    values = raw.reshape(target).astype(np.float64)
    _refuse_not_finite("variances", values, table, ("student", "point", "output"))
    if (values < 0).any():
        student = table.students[int(np.argwhere(values < 0)[0][0])]
        raise _refused("variances", "be at least 0", f"{values.min():.4g}, the first for student {student!r}")
    return values.reshape(n_students, -1)


def _aligned(variances: xr.DataArray, table: _Table) -> NDArray[Any]:
    wanted = tuple(dim for dim in ("student", "point", "output") if dim in table.dims)
    if set(variances.dims) != set(wanted):
        raise _refused("variances", f"have the dims {wanted}", f"dims {variances.dims}")
    for dim, labels in (("student", table.students), ("point", table.points), ("output", table.outputs)):
        if dim in variances.coords and tuple(np.atleast_1d(variances.coords[dim].values).tolist()) != labels:
            raise _refused("variances", f"have the {dim} labels of the predictions, in their order", "others")
    return _as_float("variances", variances.transpose(*wanted).values)
