"""Array kernels of the components: float arrays in, float64 arrays out, no labels and no validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["cell_moments", "frobenius_square", "student_moments"]

#: Rows of a Gram matrix that are held at once.
GRAM_BLOCK = 512

if TYPE_CHECKING:

    def _compiled(function: Any) -> Any: ...

else:
    _compiled = numba.njit(cache=True)


@_compiled
def student_moments(values: Any, offset: Any) -> Any:
    """Return the mean (less ``offset``) and the unbiased variance of every student's replicates.

    Parameters
    ----------
    values : (S, r, P) ndarray of float32 or float64
    offset : (P,) ndarray of float64
        Any value of the size of the data; differences from it lose no digits.

    Returns
    -------
    means, variances : (S, P) ndarrays of float64
        Variances are 0 where r = 1. Equal replicates give exactly 0.

    Notes
    -----
    Each student is shifted by its own first replicate, then summed in two passes with the rounding
    of the first pass corrected in the second; accumulation is in float64.
    """
    n_students, n_replicates, n_points = values.shape
    means = np.empty((n_students, n_points))
    variances = np.zeros((n_students, n_points))
    for s in range(n_students):
        for p in range(n_points):
            first = np.float64(values[s, 0, p])
            total = 0.0
            for k in range(1, n_replicates):
                total += np.float64(values[s, k, p]) - first
            delta = total / n_replicates
            means[s, p] = (first - offset[p]) + delta
            if n_replicates > 1:
                square, drift = 0.0, 0.0
                for k in range(n_replicates):
                    error = (np.float64(values[s, k, p]) - first) - delta
                    square += error * error
                    drift += error
                variances[s, p] = max((square - drift * drift / n_replicates) / (n_replicates - 1), 0.0)
    return means, variances


@_compiled
def cell_moments(cell: Any, values: Any, n_cells: Any) -> Any:
    """Return the number, the mean and the centred sum of squares of the rows of every cell.

    Parameters
    ----------
    cell : (N,) ndarray of int
        Cell of each row, in any order.
    values : (N, q) ndarray of float64
    n_cells : int

    Returns
    -------
    counts, means, squares : (n_cells,), (n_cells, q), (n_cells, q) ndarrays
        Empty cells have count, mean and sum of squares 0. Equal rows give exactly 0.

    Notes
    -----
    Two passes about the first row of each cell, as :func:`student_moments`; the cost is linear in N.
    """
    n_rows, n_outputs = values.shape
    counts = np.zeros(n_cells, dtype=np.int64)
    first = np.zeros((n_cells, n_outputs))
    means = np.zeros((n_cells, n_outputs))
    squares = np.zeros((n_cells, n_outputs))
    drift = np.zeros((n_cells, n_outputs))
    for i in range(n_rows):
        c = cell[i]
        for j in range(n_outputs):
            if counts[c] == 0:
                first[c, j] = values[i, j]
            means[c, j] += values[i, j] - first[c, j]
        counts[c] += 1
    for c in range(n_cells):
        for j in range(n_outputs):
            if counts[c] > 0:
                means[c, j] /= counts[c]
    for i in range(n_rows):
        c = cell[i]
        for j in range(n_outputs):
            error = (values[i, j] - first[c, j]) - means[c, j]
            squares[c, j] += error * error
            drift[c, j] += error
    for c in range(n_cells):
        for j in range(n_outputs):
            if counts[c] > 0:
                squares[c, j] = max(squares[c, j] - drift[c, j] * drift[c, j] / counts[c], 0.0)
                means[c, j] += first[c, j]
    return counts, means, squares


def frobenius_square(rows: NDArray[np.float64]) -> float:
    """Return ``||A'A||_F^2 = ||AA'||_F^2`` of an (N, P) matrix through the smaller Gram matrix, in blocks."""
    narrow = rows if rows.shape[0] <= rows.shape[1] else rows.T
    total = 0.0
    for start in range(0, narrow.shape[0], GRAM_BLOCK):
        gram = narrow[start : start + GRAM_BLOCK] @ narrow.T
        total += float(np.einsum("ij,ij->", gram, gram))
    return total
