"""Copied students and copied replicates in a table of outputs, told from ties of rounded numbers.

Numbers have a grid: decimals of a report, thousandths of an accuracy, the spacing of float32. Pairs that
agree are copies if there are more of them than the grid explains. Grids are found in the numbers themselves.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import pdtrc

from kdstats.components.estimation import effective_rank
from kdstats.errors import DuplicateStudentsError
from kdstats.observation.duplicates import FALSE_ALARM, agreeing_students, duplicate_error

__all__ = ["grid_of", "refuse_copies"]

FloatArray = NDArray[np.float64]

#: Finest grid worth the name, in shares of the range, and the error of its multiples.
FINEST, GRID_ERROR = 1e-6, 1e-9
#: Most distinct numbers from which a grid is found, and most outputs of one student among which copies are sought.
GRID_VALUES, MAX_REPLICATES = 10_000, 1_000


def refuse_copies(array: xr.DataArray) -> None:
    """Refuse students that equal another in every cell, and replicates that equal another of their student.

    Parameters
    ----------
    array : xarray.DataArray
        Dims student, replicate and any of point, output.

    Raises
    ------
    DuplicateStudentsError
        Where more pairs agree than the grid of the numbers explains.

    Notes
    -----
    Integers (codes, counts) and constant tables are never refused. Copies among replicates are not sought in
    students whose outputs are all equal, nor in tables whose outputs recur from student to student: theirs is a law
    with atoms.
    """
    values = array.transpose("student", "replicate", ...).values.astype(np.float64)
    values = values.reshape(*values.shape[:2], -1)
    if np.array_equal(values, np.rint(values)) or not np.ptp(values):
        return
    grid = grid_of(values)
    names = array.coords["student"].values if "student" in array.coords else np.arange(len(values))
    rows = values.reshape(len(values), -1)
    groups = agreeing_students(rows, np.zeros(rows.shape[1]))
    if groups and not _is_chance(_pairs(groups), _chance_pairs(rows, grid)):
        raise duplicate_error(groups, np.asarray(names))
    _refuse_copied_replicates(values, grid, np.asarray(names))


def grid_of(values: FloatArray) -> float:
    """Return the spacing of the numbers that values are multiples of: a common divisor, or that of floats.

    Parameters
    ----------
    values : ndarray
        Finite.

    Returns
    -------
    float
        From the differences of three distinct numbers or more, which may be multiples about any origin; from the
        numbers themselves if there are two.
    """
    distinct = np.unique(values)
    size = float(np.abs(distinct).max(initial=0.0))
    with np.errstate(over="ignore"):
        single = np.array_equal(distinct, distinct.astype(np.float32))
    spacing = float(np.finfo(np.float32 if single else np.float64).eps) * size
    if distinct.size > GRID_VALUES:
        distinct = distinct[:: distinct.size // GRID_VALUES]
    steps = np.diff(distinct) if distinct.size > 2 else np.abs(distinct[distinct != 0.0])
    reach = float(np.ptp(distinct)) if distinct.size > 2 else size
    error = max(GRID_ERROR * reach, 4 * float(np.finfo(np.float64).eps) * size)
    divisor = reach
    while steps.size and divisor > FINEST * reach:  # Euclid's algorithm, of all at once
        divisor = float(steps.min())
        rest = np.abs(steps - divisor * np.rint(steps / divisor))
        rest = np.unique(rest[rest > error])
        steps = np.append(rest, divisor) if rest.size else rest
    return max(divisor if not steps.size and divisor > FINEST * reach else 0.0, spacing)


def _refuse_copied_replicates(values: FloatArray, grid: float, names: NDArray[np.object_]) -> None:
    n_replicates = values.shape[1]
    if not 2 < n_replicates <= MAX_REPLICATES:
        return
    varied = np.flatnonzero(np.ptp(values, axis=1).any(axis=1))
    groups = {int(s): agreeing_students(values[s], np.zeros(values.shape[2])) for s in varied}
    tied = {s: sum(group.size - 1 for group in found) for s, found in groups.items() if found}
    if not tied:
        return
    expected = sum(_chance_pairs(values[s], grid) for s in varied)
    if _is_chance(sum(map(_pairs, groups.values())), expected) or _recur(values, grid):
        return
    copies = sum(tied.values())
    listed = ", ".join(str(names[s]) for s in list(tied)[:4]) + (
        f", ... ({len(tied)} students)" if len(tied) > 4 else ""
    )
    raise DuplicateStudentsError(
        f"replicates must be independent; got {copies} of {values.shape[0] * n_replicates} that copy another of the "
        f"same student: students {listed}. The usual cause is a seed set inside the loop over replicates, or rows "
        "written twice: seed once, outside the loop, and keep each output once (`allow_duplicates=True` accepts "
        "outputs that rightly recur)"
    )


def _recur(values: FloatArray, grid: float) -> bool:
    """Whether outputs recur from student to student, each counted once in a student, more than the grid explains."""
    once = np.concatenate([np.unique(rows, axis=0) for rows in values])
    groups = agreeing_students(once, np.zeros(once.shape[1]))
    return bool(groups) and not _is_chance(_pairs(groups), _chance_pairs(once, grid))


def _pairs(groups: list[NDArray[np.int64]]) -> int:
    return sum(len(group) * (len(group) - 1) // 2 for group in groups)


def _chance_pairs(rows: FloatArray, grid: float) -> float:
    """Return at most how many pairs of rows agree by the grid alone.

    Twice what is expected of Gaussian rows, for laws with sharper peaks; columns count as their effective rank.
    """
    n = len(rows)
    deviations = rows - rows.mean(axis=0)
    spread = np.sqrt((deviations**2).sum(axis=0) / (n - 1))
    spread = spread[spread > 0.0]
    if not spread.size:
        return 0.0
    chance = np.minimum(grid / (np.sqrt(np.pi) * spread), 1.0)
    rank = effective_rank(deviations, df=n - 1)
    return float(0.5 * n * (n - 1) * np.exp(rank * np.log(chance).mean()))


def _is_chance(pairs: int, expected: float) -> bool:
    return bool(pdtrc(pairs - 1, expected) > FALSE_ALARM)
