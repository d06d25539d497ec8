"""Bring your own predictions: a table of what students said, in; variance components, out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.estimation import estimate_components
from kdstats.components.kurtosis import excess_kurtosis_within
from kdstats.components.result import VarianceComponents
from kdstats.components.unbalanced import estimate_unbalanced
from kdstats.components.unreplicated import estimate_unreplicated
from kdstats.errors import ApproximationWarning, DataError, EstimationError, invalid
from kdstats.observation.columns import key_codes, listed, output_values
from kdstats.observation.copies import refuse_copies
from kdstats.observation.layout import lay_out
from kdstats.observation.long_table import WITHOUT, with_keys
from kdstats.problem.validation import as_choice, as_flag

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["decompose"]

FloatArray = NDArray[np.float64]

DIMS = ("student", "replicate", "point", "output")
#: Key of tables without replicates.
ONE_OUTPUT = "(one output)"
#: Level of the test of equally noisy students that gives a warning.
NOISE_LEVEL = 0.01


@dataclass(frozen=True, eq=False, kw_only=True)
class _Rows:
    """An unbalanced table: outputs (N, q) and the positions of each row's labels."""

    values: FloatArray
    student: NDArray[np.int64]
    point: NDArray[np.int64]
    students: list[Any]
    points: list[Any]
    outputs: list[Any]


def decompose(
    table: Any,
    *,
    value: str | Sequence[str] | None = None,
    student: str = "student",
    replicate: str | None = "replicate",
    point: str | None = "point",
    allow_duplicates: bool = False,
    nan_policy: str = "raise",
    variances: float | None = None,
) -> VarianceComponents:
    """Estimate variance components from predictions made elsewhere.

    Parameters
    ----------
    table : pandas.DataFrame or xarray.DataArray
        Long form: one row per student, replicate and point, one numeric column per output. Or an
        array whose dims have the names below (and ``output``). Every student must have the same
        number of replicates at every point, unless ``nan_policy="omit"``.
    value : str or sequence of str, optional
        The columns of outputs; several become the dim ``output``. A name with ``*`` stands for all columns
        that fit it, in the table's order (``"embedding_*"``); a column whose cells are lists of one length
        is one output per entry. Default: the column ``value``, or those whose names begin with ``value``, or the only
        one that is not a key.
    student, replicate : str
        Key columns (or index levels, or dims). Replicates may be numbered afresh for each
        student or through all students. ``replicate=None``: every student gave one output at a point.
    point : str or None, default "point"
        None: there is one point.
    allow_duplicates : bool, default False
        Accept students whose outputs are all equal to those of another, and replicates that equal another of the
        same student at every point, beyond what the grid of rounded numbers explains. Integers (codes of
        classes, counts) and constant tables are never refused. A table with missing cells is not
        searched for copies.
    nan_policy : {"raise", "omit"}, default "raise"
        ``"omit"`` uses the outputs there are: a row with a NaN in any output is left out, and students
        may have unequal numbers of replicates, or none at some points. Infinite values are refused.
    variances : float, optional
        With one replicate: the variance of each student's outputs, where it is known. 0 says that values
        are student means without output noise. Without it, one replicate identifies the total alone.

    Returns
    -------
    VarianceComponents
        As :func:`kdstats.components.estimation.estimate_components` estimates them; where cells are missing or
        replicates unequal, as :func:`kdstats.components.unbalanced.estimate_unbalanced` does. From one replicate
        of each student, ``total`` with its interval, as
        :func:`kdstats.components.unreplicated.estimate_unreplicated` does; the other two are NaN.

    Raises
    ------
    DataError
        If columns are missing, several columns could be the outputs and ``value`` does not say which,
        values are not numbers or not finite, a key is missing or occurs
        twice, or the table is unbalanced and ``nan_policy`` is "raise" (the first missing cell is named;
        nothing is ever filled in).
    EstimationError
        With fewer than two students, ``variances`` beside several replicates, or (unbalanced) a point where
        no student has two outputs though others have.
    DuplicateStudentsError
        If students copy each other, or replicates of a student do.

    Warns
    -----
    NotIdentifiedWarning
        One output of each student at each point, without ``variances``.
    ApproximationWarning
        Some students are noisier than others (or outputs have heavy tails), tested at the 1% level from 5
        students on, so that default intervals are too narrow; or, in an unbalanced table, their noise goes with
        their numbers of outputs.
    IgnoredColumnsWarning
        Columns that are neither keys nor outputs (named), where ``value`` was left to its default.

    Examples
    --------
    >>> import pandas as pd
    >>> import kdstats as kd
    >>> table = pd.DataFrame({"student": [1, 1, 2, 2], "replicate": [1, 2, 1, 2], "value": [1.0, 3.0, 5.0, 7.0]})
    >>> answer = kd.decompose(table, point=None)
    >>> float(answer.inter_student.squeeze()), float(answer.intra_student.squeeze())
    (7.0, 2.0)
    """
    as_flag("allow_duplicates", allow_duplicates)
    omit = as_choice("nan_policy", nan_policy, ("raise", "omit")) == "omit"
    if replicate is None:
        table, replicate = _with_one_output(table), ONE_OUTPUT
    keys = (student, replicate) if point is None else (student, replicate, point)
    for name, key in zip(DIMS, keys, strict=False):
        if not isinstance(key, str):
            raise invalid(name, "be the name of a column or dim", key, DataError)
    if len(set(keys)) < len(keys):
        raise invalid("student, replicate and point", "be different columns", ", ".join(keys), DataError)
    if isinstance(table, xr.DataArray):
        array = _from_array(table, keys, value, omit=omit)
    elif hasattr(table, "columns") and hasattr(table, "index"):
        array = _from_frame(table, keys, value, omit=omit)
    else:
        raise invalid("table", "be a pandas DataFrame or an xarray DataArray", f"a {type(table).__name__}", DataError)
    if isinstance(array, _Rows):
        cells = np.bincount(array.student * len(array.points) + array.point)
        if cells.max() == 1 and variances is None:
            full = np.full((len(array.students), len(array.points), len(array.outputs)), np.nan)
            full[array.student, array.point] = array.values
            return _estimate_single(full, array.students, array.points, array.outputs)
        if variances is not None:
            raise invalid("variances", "go with a complete table", variances, DataError)
        return estimate_unbalanced(
            array.values,
            student=array.student,
            point=array.point,
            students=array.students,
            points=array.points,
            outputs=array.outputs,
        )
    if not allow_duplicates:
        refuse_copies(array)
    if array.sizes["replicate"] > 1 or variances is not None:
        components = estimate_components(array, variances=variances, engine="table")
        _warn_if_unequally_noisy(components)
        return components
    whole = array.expand_dims([dim for dim in DIMS if dim not in array.dims]).transpose(*DIMS)
    labels = ([_label(whole, dim, i) for i in range(whole.sizes[dim])] for dim in ("student", "point", "output"))
    return _estimate_single(whole.values[:, 0].astype(np.float64), *labels)


def _warn_if_unequally_noisy(components: VarianceComponents) -> None:
    """Warn if the default intervals take students that differ in their own variance for equal ones."""
    if components.mean_squares is None or components.n_students is None:
        return
    noise = excess_kurtosis_within(components.mean_squares, components.n_students)
    if noise is not None and noise.pvalue < NOISE_LEVEL:
        warnings.warn(
            "the students' own variances spread more than those of equally noisy Gaussian students (p = "
            f"{noise.pvalue:.2g} if they are): default intervals of intra_student and total are too narrow; "
            'interval(students="any") allows for it',
            ApproximationWarning,
            stacklevel=3,
        )


def _with_one_output(table: Any) -> Any:
    """Return a table with the key that numbers one output of each student at each point."""
    if isinstance(table, xr.DataArray):
        return table.expand_dims(ONE_OUTPUT)
    return table.assign(**{ONE_OUTPUT: 0}) if hasattr(table, "assign") else table


def _estimate_single(
    values: FloatArray, students: list[Any], points: list[Any], outputs: list[Any]
) -> VarianceComponents:
    if len(students) < 2:
        raise invalid(
            "n_students", "be at least 2 to estimate a variance over students", len(students), EstimationError
        )
    return estimate_unreplicated(values, students=students, points=points, outputs=outputs)


def _from_array(table: xr.DataArray, keys: tuple[str, ...], value: object, *, omit: bool) -> xr.DataArray | _Rows:
    if value is not None:
        raise invalid("value", "be left out for a DataArray, whose outputs are the dim 'output'", value, DataError)
    missing = [key for key in keys if key not in table.dims]
    if missing:
        raise DataError(
            f"`table` must have the dims {', '.join(keys)}; got {listed(table.dims)} without {missing[0]!r}"
        )
    strange = [str(dim) for dim in table.dims if dim not in (*keys, "output")]
    if strange:
        raise DataError(f"`table` must have no dims but {', '.join(keys)} and output; got {strange[0]!r} too")
    if table.dtype.kind not in "iuf":
        raise invalid("table", "hold real numbers", f"dtype {table.dtype}", DataError)
    renamed = table.rename({key: name for name, key in zip(DIMS, keys, strict=False) if key != name})
    bad = ~np.isfinite(renamed.values)
    if omit and np.isnan(renamed.values).any() and not np.isinf(renamed.values).any():
        return _rows_of_array(renamed)
    if bad.any():
        first = dict(zip(renamed.dims, (int(i) for i in np.argwhere(bad)[0]), strict=True))
        places = ", ".join(f"{dim} {_label(renamed, str(dim), index)!r}" for dim, index in first.items())
        raise invalid(
            "table", "be finite everywhere", f"{int(bad.sum())} NaN or infinite, the first at {places}", DataError
        )
    return renamed


def _rows_of_array(array: xr.DataArray) -> _Rows:
    full = array.expand_dims([dim for dim in DIMS if dim not in array.dims]).transpose(*DIMS)
    values = full.values.astype(np.float64)
    student, replicate, point = np.nonzero(~np.isnan(values).any(axis=-1))
    labels = {dim: [_label(full, dim, i) for i in range(full.sizes[dim])] for dim in ("student", "point", "output")}
    return _seen(values[student, replicate, point], student, point, labels)


def _seen(
    values: FloatArray, student: NDArray[np.int64], point: NDArray[np.int64], labels: dict[str, list[Any]]
) -> _Rows:
    """Leave out students without an output."""
    if not len(values):
        raise invalid("table", "hold a number in some row", "NaN in all rows", DataError)
    present = np.bincount(student, minlength=len(labels["student"])) > 0
    seen = np.flatnonzero(present)
    return _Rows(
        values=values,
        student=(np.cumsum(present) - 1)[student],
        point=point,
        students=[labels["student"][i] for i in seen],
        points=labels["point"],
        outputs=labels["output"],
    )


def _label(array: xr.DataArray, dim: str, index: int) -> Any:
    label = array.coords[dim].values[index] if dim in array.coords else index
    return label.item() if isinstance(label, np.generic) else label


def _from_frame(
    table: pd.DataFrame, keys: tuple[str, ...], value: str | Sequence[str] | None, *, omit: bool
) -> xr.DataArray | _Rows:
    """Return a balanced long-form table as (student, replicate, point, output), another as rows if that is allowed."""
    hints = dict(zip(keys, ("student=... names it", WITHOUT["replicate"], WITHOUT["point"]), strict=False))
    frame = with_keys(table, keys, hints=hints)
    values, columns = output_values(frame, keys, value, omit=omit)
    codes, labels = zip(*(key_codes(frame, key) for key in keys), strict=True)
    point = codes[2] if len(keys) == 3 else np.zeros(len(frame), dtype=np.int64)
    points = labels[2] if len(keys) == 3 else [0]
    layout = lay_out(codes[0], codes[1], point, names=keys, labels=labels, explain=not omit)
    absent = omit and bool(np.isnan(values).any())
    if omit and (absent or not layout.is_complete):
        kept = ~np.isnan(values).any(axis=1) if absent else slice(None)
        names = {"student": labels[0], "point": points, "output": columns}
        return _seen(values[kept], codes[0][kept], point[kept], names)
    if not layout.is_complete:
        raise DataError(f"`table` must be balanced; got {layout.complaint}; nan_policy='omit' uses what there is")
    filled = np.empty((*layout.shape, len(columns)))
    filled[codes[0], layout.replicate, point] = values
    coords = {"student": labels[0], "point": points, "output": columns}
    return xr.DataArray(filled, dims=DIMS, coords=coords)
