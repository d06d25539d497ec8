"""Bring your own predictions: a table of what students said, in; variance components, out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.estimation import estimate_components
from kdstats.components.result import VarianceComponents
from kdstats.components.unbalanced import estimate_unbalanced
from kdstats.components.unreplicated import estimate_unreplicated
from kdstats.errors import DataError, EstimationError, IgnoredColumnsWarning, invalid
from kdstats.observation.duplicates import agreeing_students, duplicate_error
from kdstats.problem.validation import as_choice, as_flag

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["decompose"]

FloatArray = NDArray[np.float64]

DIMS = ("student", "replicate", "point", "output")
#: Column of outputs where the caller names none.
DEFAULT_VALUE = "value"
#: Names of columns that a message lists.
LISTED = 8


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
    replicate: str = "replicate",
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
        is one output per entry. Default: the column ``value``, or the only one that is not a key.
    student, replicate : str
        Key columns (or index levels, or dims). Replicates may be numbered afresh for each
        student or through all students.
    point : str or None, default "point"
        None: there is one point.
    allow_duplicates : bool, default False
        Accept students whose outputs are all equal to those of another. Integers (codes of
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
        If students copy each other.

    Warns
    -----
    NotIdentifiedWarning
        One output of each student at each point, without ``variances``.
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
        once = len(np.unique(array.student * len(array.points) + array.point)) == len(array.values)
        if once and variances is None:
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
        _refuse_copies(array)
    if array.sizes["replicate"] > 1 or variances is not None:
        return estimate_components(array, variances=variances, engine="table")
    whole = array.expand_dims([dim for dim in DIMS if dim not in array.dims]).transpose(*DIMS)
    labels = ([_label(whole, dim, i) for i in range(whole.sizes[dim])] for dim in ("student", "point", "output"))
    return _estimate_single(whole.values[:, 0].astype(np.float64), *labels)


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
            f"`table` must have the dims {', '.join(keys)}; got {_listed(table.dims)} without {missing[0]!r}"
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
    seen, renumbered = np.unique(student, return_inverse=True)
    return _Rows(
        values=values,
        student=renumbered.ravel(),
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
    levels = [name for name in table.index.names if name in keys and name not in table.columns]
    frame = table.reset_index(level=levels) if levels else table
    if not len(frame):
        raise invalid("table", "not be empty", "0 rows", DataError)
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise invalid("table", "have each column once", f"{twice[0]!r} more than once", DataError)
    missing = [key for key in keys if key not in frame.columns]
    if missing:
        hint = " (point=None if there is one point)" if len(keys) == 3 and missing == [keys[2]] else ""
        raise DataError(f"`table` must have a column {missing[0]!r}; got {_listed(frame.columns)}{hint}")
    frame, columns = _spread_lists(frame, _value_columns(frame, keys, value))
    values = np.column_stack([_numbers(frame, column, omit=omit) for column in columns])
    codes, labels = zip(*(_key_codes(frame, key) for key in keys), strict=True)
    point = codes[2] if len(keys) == 3 else np.zeros(len(frame), dtype=np.int64)
    points = labels[2] if len(keys) == 3 else [0]
    if omit and not _is_complete(values, codes[0], codes[1], point, keys, labels, codes):
        kept = ~np.isnan(values).any(axis=1)
        names = {"student": labels[0], "point": points, "output": columns}
        return _seen(values[kept], codes[0][kept], point[kept], names)
    replicate = _replicate_within_student(codes[0], codes[1], labels[0])
    shape = (len(labels[0]), int(replicate.max()) + 1, len(points))
    flat = np.ravel_multi_index((codes[0], replicate, point), shape)
    _require_each_cell_once(flat, shape, keys, labels, codes)
    filled = np.empty((int(np.prod(shape)), len(columns)))
    filled[flat] = values
    coords = {"student": labels[0], "point": points, "output": columns}
    return xr.DataArray(filled.reshape(*shape, len(columns)), dims=DIMS, coords=coords)


def _is_complete(
    values: FloatArray,
    student: NDArray[np.int64],
    replicate: NDArray[np.int64],
    point: NDArray[np.int64],
    keys: tuple[str, ...],
    labels: tuple[list[Any], ...],
    codes: tuple[NDArray[np.int64], ...],
) -> bool:
    """Whether every student has the same replicates at every point; a key that occurs twice is refused."""
    n_students, n_replicates, n_points = (int(code.max()) + 1 for code in (student, replicate, point))
    key = (student * n_replicates + replicate) * n_points + point
    order = np.argsort(key, kind="stable")
    again = np.flatnonzero(np.diff(key[order]) == 0)
    if again.size:
        row = int(order[again + 1].min())
        named = ", ".join(f"{name} {label[code[row]]!r}" for name, label, code in zip(keys, labels, codes, strict=True))
        raise DataError(
            f"`table` must have one row for each {', '.join(keys)}; got {again.size} repeated rows, first of {named}"
        )
    pairs = np.unique(student * n_replicates + replicate)
    per_student = np.bincount(pairs // n_replicates, minlength=n_students)
    full = bool((per_student == per_student[0]).all()) and len(key) == len(pairs) * n_points
    return full and not np.isnan(values).any()


def _value_columns(frame: pd.DataFrame, keys: tuple[str, ...], value: str | Sequence[str] | None) -> list[Any]:
    if value is None:
        columns = [column for column in frame.columns if column not in keys]
        if not columns:
            raise DataError(f"`table` must have a column of outputs; got only the keys {', '.join(keys)}")
        others = [column for column in columns if column != DEFAULT_VALUE]
        if len(columns) > 1 and len(others) == len(columns):
            raise invalid("value", "name the columns of outputs where several are no keys", _listed(columns), DataError)
        if len(columns) > 1:
            warnings.warn(
                f"columns that are neither keys nor {DEFAULT_VALUE!r} are left out: {_listed(others)} "
                "(`value` names the columns of outputs)",
                IgnoredColumnsWarning,
                stacklevel=4,
            )
        return columns if len(columns) == 1 else [DEFAULT_VALUE]
    columns = _matched(frame, keys, [value] if isinstance(value, str) else list(value))
    if not columns:
        raise invalid("value", "name at least one column", "none", DataError)
    for column in columns:
        if column in keys:
            raise invalid("value", "not be a key column", column, DataError)
        if column not in frame.columns:
            raise invalid("value", f"be one of the columns ({_listed(frame.columns)})", column, DataError)
    if len(set(columns)) < len(columns):
        raise invalid("value", "name each column once", columns, DataError)
    return columns


def _matched(frame: pd.DataFrame, keys: tuple[str, ...], names: list[Any]) -> list[Any]:
    """Put in the place of each name with a * the columns it fits."""
    columns: list[Any] = []
    for name in names:
        if not isinstance(name, str) or "*" not in name or name in frame.columns:
            columns.append(name)
            continue
        found = [c for c in frame.columns if c not in keys and isinstance(c, str) and fnmatchcase(c, name)]
        if not found:
            raise invalid("value", f"fit some of the columns ({_listed(frame.columns)})", name, DataError)
        columns += found
    return columns


def _spread_lists(frame: pd.DataFrame, columns: list[Any]) -> tuple[pd.DataFrame, list[Any]]:
    """Give a column of lists, all of one length, one column for each entry."""
    import pandas as pd

    spread: list[Any] = []
    parts: dict[Any, FloatArray] = {}
    for column in columns:
        series = frame[column]
        if series.dtype != object or not isinstance(series.iloc[0], list | tuple | np.ndarray):
            spread.append(column)
            continue
        width = len(series.iloc[0])
        odd = [not isinstance(cell, list | tuple | np.ndarray) or len(cell) != width for cell in series]
        if any(odd) or not width:
            row = odd.index(True) if any(odd) else 0
            rule = f"hold lists of one length ({width} in row 0, at least 1)"
            raise invalid(f"table[{column!r}]", rule, f"{series.iloc[row]!r} in row {row}", DataError)
        try:
            block = np.array(series.tolist(), dtype=np.float64)
        except (TypeError, ValueError):
            raise invalid(f"table[{column!r}]", "hold lists of numbers", repr(series.iloc[0]), DataError) from None
        if block.ndim != 2:
            raise invalid(f"table[{column!r}]", "hold lists of numbers", repr(series.iloc[0]), DataError)
        names = [f"{column}[{i}]" for i in range(width)]
        parts |= dict(zip(names, block.T, strict=True))
        spread += names
    if not parts:
        return frame, columns
    kept = frame.drop(columns=[column for column in columns if column not in spread])
    return pd.concat([kept, pd.DataFrame(parts, index=frame.index)], axis=1), spread


def _numbers(frame: pd.DataFrame, column: Any, *, omit: bool) -> FloatArray:
    """Return a column as finite floats (or NaN, where they are to be left out), or say which row is not one."""
    import pandas as pd

    series = frame[column]
    if series.dtype.kind in "bcmM":
        raise invalid(f"table[{column!r}]", "hold real numbers", f"dtype {series.dtype}", DataError)
    if series.dtype.kind in "iuf":
        numbers = series.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        numbers = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        odd = np.isnan(numbers) & series.notna().to_numpy()
        if odd.any():
            shown = (
                f"{series.iloc[int(odd.argmax())]!r} in row {int(odd.argmax())} ({int(odd.sum())} of {odd.size} rows)"
            )
            raise invalid(f"table[{column!r}]", "hold real numbers", shown, DataError)
    bad = np.isinf(numbers) if omit else ~np.isfinite(numbers)
    if bad.any():
        shown = f"{int(bad.sum())} NaN or infinite values, the first in row {int(bad.argmax())}"
        raise invalid(f"table[{column!r}]", "be finite everywhere", shown, DataError)
    return np.asarray(numbers, dtype=np.float64)


def _key_codes(frame: pd.DataFrame, key: str) -> tuple[NDArray[np.int64], list[Any]]:
    """Return the number of each row's label, in order of appearance, and the labels."""
    import pandas as pd

    codes, labels = pd.factorize(frame[key], use_na_sentinel=True)
    absent = codes < 0
    if absent.any():
        shown = f"{int(absent.sum())} missing, the first in row {int(absent.argmax())}"
        raise invalid(f"table[{key!r}]", "name every row", shown, DataError)
    texts = [isinstance(label, str) for label in labels]
    if any(texts) and not all(texts):
        row = int(np.argmax(codes == texts.index(not texts[0])))
        shown = f"{labels[0]!r} in row 0 and {labels[codes[row]]!r} in row {row}"
        raise invalid(f"table[{key!r}]", "not mix text with other labels", shown, DataError)
    return codes.astype(np.int64), list(labels)


def _replicate_within_student(
    student: NDArray[np.int64], replicate: NDArray[np.int64], students: list[Any]
) -> NDArray[np.int64]:
    """Number the replicates of each student from 0, whatever they are called."""
    pairs, inverse = np.unique(student * (int(replicate.max()) + 1) + replicate, return_inverse=True)
    owner = pairs // (int(replicate.max()) + 1)
    counts = np.bincount(owner, minlength=len(students))
    if (counts != counts[0]).any():
        other, n_other = int(np.argmax(counts != counts[0])), int((counts != counts[0]).sum())
        raise DataError(
            f"`table` must be balanced; got {counts[other]} replicates of student {students[other]!r} and {counts[0]} "
            f"of student {students[0]!r} ({n_other} of {len(counts)} students differ from the first); "
            "nan_policy='omit' uses what there is"
        )
    first = np.cumsum(counts) - counts
    return np.asarray((np.arange(len(pairs)) - first[owner])[inverse.ravel()])


def _require_each_cell_once(
    flat: NDArray[np.int64],
    shape: tuple[int, ...],
    keys: tuple[str, ...],
    labels: tuple[list[Any], ...],
    codes: tuple[NDArray[np.int64], ...],
) -> None:
    counts = np.bincount(flat, minlength=int(np.prod(shape)))
    if counts.max() > 1:
        row = int(np.argmax(counts[flat] > 1))
        named = ", ".join(f"{key} {label[code[row]]!r}" for key, label, code in zip(keys, labels, codes, strict=True))
        extra = int((counts - 1).clip(0).sum())
        raise DataError(
            f"`table` must have one row for each {', '.join(keys)}; got {extra} repeated rows, first of {named}"
        )
    if counts.min() == 0:
        student, replicate, point = np.unravel_index(int(counts.argmin()), shape)
        called = np.unique(codes[1][codes[0] == student])[replicate]
        named = f"{keys[0]} {labels[0][student]!r}, {keys[1]} {labels[1][called]!r}, {keys[-1]} {labels[-1][point]!r}"
        raise DataError(
            f"`table` must be balanced; got {int((counts == 0).sum())} of {counts.size} cells missing, first {named}; "
            "nan_policy='omit' uses what there is"
        )


def _refuse_copies(array: xr.DataArray) -> None:
    """Refuse students that equal another in every cell, unless numbers are codes or nothing varies."""
    rows = array.transpose("student", ...).values
    rows = rows.reshape(rows.shape[0], -1).astype(np.float64)
    if np.array_equal(rows, np.rint(rows)) or not np.ptp(rows, axis=None):
        return
    groups = agreeing_students(rows, np.zeros(rows.shape[1]))
    if groups:
        students = array.coords["student"].values if "student" in array.coords else np.arange(rows.shape[0])
        raise duplicate_error(groups, np.asarray(students))


def _listed(names: Any) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:LISTED]) + (f" and {len(shown) - LISTED} more" if len(shown) > LISTED else "")
