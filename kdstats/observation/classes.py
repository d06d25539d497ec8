"""Classes that students predict: a table of probabilities or sampled labels, in; disagreement and doubt, out."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.class_moments import Cells, cells_of_labels, cells_of_probabilities
from kdstats.components.classes import UNITS, ClassComponents, estimate_classes
from kdstats.errors import DataError, invalid
from kdstats.observation.columns import key_codes, listed, output_values
from kdstats.observation.duplicates import agreeing_students, duplicate_error
from kdstats.observation.long_table import combined, long_frame, refuse_repeated
from kdstats.problem.validation import as_choice, as_flag, as_number

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KINDS", "decompose_classes"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

KINDS = ("probabilities", "labels")
#: Chance at which equal sequences of labels are no longer put down to coincidence.
FALSE_ALARM = 1e-6


def decompose_classes(
    table: Any,
    kind: str = "probabilities",
    *,
    classes: str | Sequence[Any] | None = None,
    label: str = "label",
    student: str = "student",
    replicate: str | None = "replicate",
    point: str | None = "point",
    unit: str = "nats",
    sum_tolerance: float = 1e-6,
    allow_duplicates: bool = False,
    nan_policy: str = "raise",
) -> ClassComponents:
    r"""Split the Gini index and the entropy of predicted classes into parts between and within students.

    Parameters
    ----------
    table : pandas.DataFrame or xarray.DataArray
        Long form, or an array with the keys as dims (and, for probabilities, ``output``).
    kind : {"probabilities", "labels"}
        One column of probabilities per class (or a column of lists), or one column of sampled classes.
    classes : str or sequence, optional
        Of probabilities: the columns, as names or one pattern such as ``"p_*"``; default all that are not keys. Of
        labels: all classes there are; default those that occur.
    label : str, default "label"
        Column of sampled classes: text, integers or booleans.
    student : str
        Column of students, which must be independent.
    replicate : str or None, default "replicate"
        Column that numbers the outputs of one student at one point; they must be independent given the student.
        None: one row each, which is the student's own probabilities, known exactly, or its one label.
    point : str or None, default "point"
        None: there is one point.
    unit : {"nats", "bits"}
        Of entropy.
    sum_tolerance : float, default 1e-6
        How far a row of probabilities may be from a sum of 1; within it, rows are divided by their sum.
    allow_duplicates : bool, default False
        Accept students that copy another: probabilities that are equal everywhere (and not all 0 or 1), or sequences of
        labels that would not be equal by chance, were their frequencies the truth.
    nan_policy : {"raise", "omit"}, default "raise"
        ``"omit"`` leaves out rows with a NaN; students may then have unequal numbers of rows, or none at some points.

    Returns
    -------
    ClassComponents
        At each point, and averaged over points.

    Raises
    ------
    DataError
        Columns missing, probabilities that are negative or do not sum to 1, labels of mixed types or not among
        ``classes``, a missing or repeated key, NaN.
    EstimationError
        With fewer than two students at a point.
    DuplicateStudentsError
        If students copy each other.

    Warns
    -----
    NegativeComponentWarning
        If ``inter_student`` or ``mutual_information`` is negative somewhere. The sign is kept.
    ApproximationWarning
        If measured coverage falls short: few students, or entropies from few outputs; the components are named.

    Notes
    -----
    Let p be the probabilities of a random student. With outputs as vectors of zeros and a one, the law of total
    variance, summed over classes, is :math:`1-|Ep|^2 = \sum_c\mathrm{Var}\,p_c + E(1-|p|^2)`; the entropy splits as
    :math:`H(Ep) = I + E H(p)`, I the mutual information of class and student. Parts of the Gini index are estimated
    without bias; parts of the entropy cannot be, and are corrected by jackknives over students and over outputs. One
    label or replicate per student identifies the totals alone. See the theory page "Class predictions".

    Examples
    --------
    >>> import pandas as pd
    >>> import kdstats as kd
    >>> table = pd.DataFrame({"student": [1, 2], "cat": [0.9, 0.5], "dog": [0.1, 0.5]})
    >>> answer = kd.decompose_classes(table, replicate=None, point=None)
    >>> [round(float(part.item()), 3) for part in (answer.inter_student, answer.intra_student, answer.total)]
    [0.16, 0.34, 0.5]
    """
    as_choice("kind", kind, KINDS)
    as_choice("unit", unit, UNITS)
    as_flag("allow_duplicates", allow_duplicates)
    omit = as_choice("nan_policy", nan_policy, ("raise", "omit")) == "omit"
    sum_tolerance = as_number("sum_tolerance", sum_tolerance, minimum=0.0, maximum=0.5)
    keys = [key for key in (student, replicate, point) if key is not None]
    for name, key in (("student", student), ("replicate", replicate), ("point", point), ("label", label)):
        if not isinstance(key, str) and (key is not None or name in ("student", "label")):
            raise invalid(name, "be the name of a column", key, DataError)
    if len({*keys, *([label] if kind == "labels" else [])}) < len(keys) + (kind == "labels"):
        raise invalid("student, replicate, point and label", "be different columns", ", ".join(keys), DataError)
    if kind == "labels" and isinstance(table, xr.DataArray):
        table = _label_frame(table, keys, label)
    frame = long_frame(table, keys, optional={"replicate": replicate, "point": point})
    rows: NDArray[Any]
    if kind == "labels":
        names, rows = _labels(frame, keys, label, classes, omit=omit)
    else:
        columns = _class_columns(frame, keys, classes)
        _refuse_labels(frame, columns, label)
        rows, names = output_values(frame, keys, columns, omit=omit)
        rows = _probabilities(rows, names, sum_tolerance)
    kept = np.asarray(rows >= 0 if rows.ndim == 1 else ~np.isnan(rows).any(axis=1))
    if not kept.any():
        raise invalid("table", "hold a prediction in some row", "NaN in all rows", DataError)
    frame, rows = frame.take(np.flatnonzero(kept)), rows[kept]
    codes, labels = zip(*(key_codes(frame, key) for key in keys), strict=True)
    refuse_repeated(codes, labels, keys, replicated=replicate is not None)
    points = [0] if point is None else labels[-1]
    where = np.zeros(len(frame), dtype=np.int64) if point is None else codes[-1]
    if not omit:
        _refuse_missing(codes[0], where, students=labels[0], points=points)
    shape = (len(labels[0]), len(points))
    known = kind == "probabilities" and replicate is None
    cells = _cells(rows, codes[0] * shape[1] + where, shape=shape, n_classes=len(names), known=known)
    if not allow_duplicates and shape[0] > 1:
        order = combined(codes[1:]) if len(codes) > 1 else where
        _refuse_copies(rows, codes[0], order, cells, np.asarray(labels[0], dtype=object))
    return estimate_classes(
        cells,
        classes=names,
        points=points,
        kind=kind,
        known=known,
        unit=unit,
        notes=_class_notes(cells, names),
    )


def _cells(rows: Any, cell: IntArray, *, shape: tuple[int, int], n_classes: int, known: bool) -> Cells:
    if rows.ndim == 2:
        return cells_of_probabilities(rows, cell, shape=shape, known=known)
    counts = np.bincount(cell * n_classes + rows, minlength=shape[0] * shape[1] * n_classes)
    return cells_of_labels(counts.reshape(*shape, n_classes))


def _label_frame(table: xr.DataArray, keys: list[str], label: str) -> pd.DataFrame:
    if set(table.dims) != set(keys):
        dims = listed(table.dims)
        raise DataError(f"`table` must have the dims {', '.join(keys)} to hold labels; got {dims}")
    bare = table.drop_vars([name for name in table.coords if name not in table.dims])
    return bare.rename(label).to_dataframe().reset_index()


def _class_columns(frame: pd.DataFrame, keys: list[str], classes: Any) -> list[Any]:
    free = [column for column in frame.columns if column not in keys]
    if classes is None:
        columns = free
    elif isinstance(classes, str):
        columns = [column for column in free if fnmatchcase(str(column), classes)]
        if not columns:
            raise invalid("classes", f"match one of the columns ({listed(free)})", classes, DataError)
    elif isinstance(classes, Sequence):
        columns = list(classes)
        for column in columns:
            if column not in free:
                raise invalid("classes", f"name columns that are not keys ({listed(free)})", column, DataError)
    else:
        raise invalid("classes", "be a pattern or a sequence of names of columns", classes, DataError)
    if len(set(columns)) < len(columns):
        raise invalid("classes", "name each column once", columns, DataError)
    if not columns:
        raise invalid("classes", "be at least 2 columns of probabilities", "none", DataError)
    return columns


def _refuse_labels(frame: pd.DataFrame, columns: list[Any], label: str) -> None:
    """Say what to do about text where there are no other columns, or in the column of labels."""
    column = label if label in columns else columns[0] if len(columns) == 1 else None
    if column in frame.columns and any(isinstance(value, str) for value in frame[column]):
        rule = "hold probabilities (kind='labels' reads sampled classes, from the column that label=... names)"
        raise invalid(f"table[{column!r}]", rule, repr(frame[column].iloc[0]), DataError)


def _probabilities(rows: FloatArray, columns: list[Any], tolerance: float) -> FloatArray:
    if len(columns) < 2:
        rule = "be at least 2 columns of probabilities (both of a binary class)"
        raise invalid("classes", rule, f"1: {listed(columns)}", DataError)
    if (rows < 0).any():
        row, column = (int(i) for i in np.argwhere(rows < 0)[0])
        shown = f"{rows[row, column]:.6g} in row {row} ({int((rows < 0).sum())} negative)"
        raise invalid(f"table[{columns[column]!r}]", "hold probabilities of at least 0", shown, DataError)
    sums = rows.sum(axis=1)
    off = np.abs(sums - 1.0) > tolerance
    if off.any():
        row = int(off.argmax())
        hint = " (sum_tolerance, if they were rounded; classes, if columns are not probabilities)"
        shown = f"a sum of {sums[row]:.8g} in row {row} ({int(off.sum())} of {len(sums)} rows){hint}"
        raise DataError(f"`table` must hold probabilities that sum to 1 within {tolerance:g} in each row; got {shown}")
    return np.asarray(rows / sums[:, None])


def _labels(
    frame: pd.DataFrame, keys: list[str], label: str, classes: Any, *, omit: bool
) -> tuple[list[Any], IntArray]:
    """Return the classes and each row's, -1 where there is none."""
    import pandas as pd

    name = f"table[{label!r}]"
    if label not in frame.columns:
        got = listed(column for column in frame.columns if column not in keys)
        raise DataError(f"`table` must have a column {label!r} of labels; got {got or 'only keys'} (label=...)")
    codes, found = pd.factorize(frame[label], use_na_sentinel=True)
    absent = codes < 0
    if absent.any() and not omit:
        shown = f"{int(absent.sum())} missing, the first in row {int(absent.argmax())}"
        raise invalid(name, "hold a label in every row (or nan_policy='omit')", shown, DataError)
    seen = [_plain_label(name, value) for value in found]
    kinds = {_type_of(value) for value in seen}
    if len(kinds) > 1:
        odd = next(value for value in seen if _type_of(value) != _type_of(seen[0]))
        raise invalid(name, "hold labels of one type", f"{seen[0]!r} and {odd!r}", DataError)
    if classes is None:
        order = sorted(seen)
        if len(order) == 1:
            hint = " (classes=[...] names those that could have been)"
            raise invalid(name, "hold at least 2 classes", f"{order[0]!r} in all rows{hint}", DataError)
    else:
        order = _named_classes(classes)
        unknown = [value for value in seen if value not in order]
        if unknown:
            shown = f"{unknown[0]!r} in row {int(np.argmax(codes == seen.index(unknown[0])))}"
            raise invalid(name, f"hold labels among `classes` ({listed(order)})", shown, DataError)
    place = {value: i for i, value in enumerate(order)}
    table = np.array([place[value] for value in seen] + [-1], dtype=np.int64)
    return order, table[codes]


def _named_classes(classes: Any) -> list[Any]:
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise invalid("classes", "be a sequence of labels", classes, DataError)
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise invalid("classes", "be at least 2 different labels", list(classes), DataError)
    return list(classes)


def _plain_label(name: str, value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        if not value.is_integer():
            raise invalid(name, "hold text, integers or booleans", value, DataError)
        return int(value)
    if not isinstance(value, (str, int)):
        raise invalid(name, "hold text, integers or booleans", f"a {type(value).__name__}", DataError)
    return value


def _type_of(label: Any) -> str:
    return type(label).__name__


def _refuse_missing(student: IntArray, point: IntArray, *, students: list[Any], points: list[Any]) -> None:
    counts = np.bincount(student * len(points) + point, minlength=len(students) * len(points))
    if counts.min() == 0:
        s, p = divmod(int(counts.argmin()), len(points))
        raise DataError(
            f"`table` must have every student at every point; got {int((counts == 0).sum())} of {counts.size} missing, "
            f"first student {students[s]!r} at point {points[p]!r} (nan_policy='omit' uses what there is)"
        )


def _refuse_copies(rows: Any, student: IntArray, place: IntArray, cells: Cells, students: NDArray[Any]) -> None:
    """Refuse students equal in every row; those of labels if chance does not explain it."""
    table = _by_student(rows, student, place)
    if table is None or not np.ptp(table, axis=0).any():
        return
    groups = agreeing_students(table, np.zeros(table.shape[1]))
    if rows.ndim == 2:
        groups = [group for group in groups if not np.array_equal(table[group[0]], np.rint(table[group[0]]))]
    else:
        groups = [group for group in groups if _chance_of_equality(cells, int(group[0])) < FALSE_ALARM]
    if groups:
        raise duplicate_error(groups, students)


def _by_student(rows: Any, student: IntArray, place: IntArray) -> FloatArray | None:
    """Return the rows of each student side by side, in the order of their keys; None if students differ in keys."""
    order = np.lexsort((place, student))
    counts = np.bincount(student)
    if (counts != counts[0]).any():
        return None
    keys = place[order].reshape(len(counts), -1)
    if (keys != keys[0]).any():
        return None
    return np.asarray(rows[order], dtype=np.float64).reshape(len(counts), -1)


def _chance_of_equality(cells: Cells, student: int) -> float:
    """Bound the expected number of pairs that equal a student's labels, were all students to have its frequencies."""
    squares = (cells.mean[student] ** 2).sum(axis=-1)
    logarithm = float((cells.count[student] * np.log(squares)).sum())
    n = len(cells.count)
    return 0.5 * n * (n - 1) * float(np.exp(logarithm))


def _class_notes(cells: Cells, names: Sequence[Any]) -> list[str]:
    never = [name for name, seen in zip(names, cells.mean.sum(axis=(0, 1)), strict=True) if not seen]
    return [f"Classes never seen: {listed(never)}. They count as possible, with no part in any sum."] if never else []
