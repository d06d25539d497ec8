"""Where the rows of a long table belong: each student's replicates numbered, each cell filled once or refused.

All in one or two passes over the rows while a table of flags for every (student, replicate, point) is of
the order of the rows; sorting beyond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numpy.typing import NDArray

from kdstats.errors import DataError

__all__ = ["Layout", "lay_out"]

IntArray = NDArray[np.int64]

#: Flags per row of the table up to which they are kept in memory.
FLAGS_PER_ROW = 16

if TYPE_CHECKING:

    def _compiled(function: Any) -> Any: ...

else:
    _compiled = numba.njit(cache=True)


@dataclass(frozen=True, eq=False, kw_only=True)
class Layout:
    """Positions of the rows of a long table.

    Attributes
    ----------
    student, point : (N,) ndarrays of int
    replicate : (N,) ndarray of int
        Numbered from 0 for each student.
    shape : (S, r, m)
        With r the largest number of replicates of a student.
    is_complete : bool
        Whether every cell is filled.
    complaint : str
        In what it is not, with the first place; only where asked for.
    """

    student: IntArray
    replicate: IntArray
    point: IntArray
    shape: tuple[int, int, int]
    is_complete: bool
    complaint: str = ""


def lay_out(
    student: IntArray,
    replicate: IntArray,
    point: IntArray,
    *,
    names: Sequence[str],
    labels: Sequence[Sequence[Any]],
    explain: bool = True,
) -> Layout:
    """Find the position of every row.

    Parameters
    ----------
    student, replicate, point : (N,) ndarrays of int
        Codes of the labels.
    names : sequence of 2 or 3 str
        Names of the key columns, for messages.
    labels : sequence of sequences
        Labels behind the codes.
    explain : bool, default True
        Say in what an incomplete table is incomplete.

    Raises
    ------
    DataError
        If a cell occurs twice (named).
    """
    n_called = int(replicate.max()) + 1
    own, counts = _replicates_within_student(student, replicate, n_students=len(labels[0]), n_called=n_called)
    shape = (len(labels[0]), int(counts.max()), len(labels[2]) if len(labels) == 3 else 1)
    again = _first_repeated(student, own, point, shape)
    if again is not None:
        first, extra = again
        codes = (student, replicate, point)
        told = ", ".join(
            f"{name} {label[code[first]]!r}" for name, label, code in zip(names, labels, codes, strict=False)
        )
        raise DataError(
            f"`table` must have one row for each {', '.join(names)}; got {extra} repeated rows, first of {told}"
        )
    is_complete, complaint = len(student) == int(np.prod(shape)), ""
    if is_complete or not explain:
        pass
    elif (counts != counts[0]).any():
        other, n_other = int(np.argmax(counts != counts[0])), int((counts != counts[0]).sum())
        complaint = (
            f"{counts[other]} replicates of student {labels[0][other]!r} and {counts[0]} of student {labels[0][0]!r} "
            f"({n_other} of {len(counts)} students differ from the first)"
        )
    else:
        complaint = _missing(student, replicate, own, point, shape, names, labels)
    return Layout(
        student=student, replicate=own, point=point, shape=shape, is_complete=is_complete, complaint=complaint
    )


def _replicates_within_student(
    student: IntArray, replicate: IntArray, *, n_students: int, n_called: int
) -> tuple[IntArray, IntArray]:
    """Number the replicates of each student from 0, in the order of their codes, and count them."""
    if n_students * n_called <= FLAGS_PER_ROW * len(student):
        flags = np.zeros((n_students, n_called), dtype=bool)
        flags[student, replicate] = True
        counts = flags.sum(axis=1)
        if flags.all():
            return replicate, counts
        return _looked_up(student, replicate, np.cumsum(flags, axis=1, dtype=np.int64) - 1), counts
    pairs, inverse = np.unique(student * n_called + replicate, return_inverse=True)
    owner = pairs // n_called
    counts = np.bincount(owner, minlength=n_students)
    first = np.cumsum(counts) - counts
    return np.asarray((np.arange(len(pairs)) - first[owner])[inverse.ravel()]), counts


def _looked_up(row: IntArray, column: IntArray, table: IntArray) -> IntArray:
    return np.asarray(table[row, column])


def _first_repeated(student: IntArray, replicate: IntArray, point: IntArray, shape: tuple[int, int, int]) -> Any:
    """Return the first row whose cell was there before, and the number of such rows; None if there is none."""
    n_cells = int(np.prod([float(size) for size in shape]))
    if n_cells <= FLAGS_PER_ROW * len(student):
        first, extra = _scan(student, replicate, point, shape[1], shape[2], np.zeros(n_cells, dtype=np.bool_))
        return None if extra == 0 else (int(first), int(extra))
    order = np.lexsort((point, replicate, student))
    codes = np.stack([student[order], replicate[order], point[order]])
    same = np.flatnonzero((np.diff(codes, axis=1) == 0).all(axis=0))
    return None if not same.size else (int(order[same + 1].min()), int(same.size))


@_compiled
def _scan(student: Any, replicate: Any, point: Any, n_replicates: Any, n_points: Any, seen: Any) -> Any:
    first, extra = -1, 0
    for i in range(len(student)):
        cell = (student[i] * n_replicates + replicate[i]) * n_points + point[i]
        if seen[cell]:
            extra += 1
            if first < 0:
                first = i
        seen[cell] = True
    return first, extra


def _missing(
    student: IntArray,
    called: IntArray,
    replicate: IntArray,
    point: IntArray,
    shape: tuple[int, int, int],
    names: Sequence[str],
    labels: Sequence[Sequence[Any]],
) -> str:
    """Say how many cells have no row, and which is the first."""
    n_cells = int(np.prod(shape))
    rows = np.sort((student * shape[1] + replicate) * shape[2] + point)
    gap = int(np.argmax(np.append(rows, n_cells) != np.arange(len(rows) + 1)))
    who, which, where = (int(position) for position in np.unravel_index(gap, shape))
    label = labels[1][np.unique(called[student == who])[which]]
    told = f"{names[0]} {labels[0][who]!r}, {names[1]} {label!r}"
    told += f", {names[2]} {labels[2][where]!r}" if len(names) == 3 else ""
    return f"{n_cells - len(rows)} of {n_cells} cells missing, first {told}"
