"""Array kernels of the simulation: random words, noise, moments, many small systems.

Random words come from Philox4x32-10 (Salmon et al. 2011), a counter-based generator: the words of
a student depend on the key, the student's number and the role they play, and on nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from kdstats.prediction.monte_carlo.quantiles import CELL_BITS, LOWEST_OCTAVE, N_CELLS

__all__ = ["draw_noise", "philox_words", "point_sums", "row_squares", "solve_systems"]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
#: Marks the counters of the words that extend rare tail words.
_EXTENSION = np.uint64(0x80000000)
#: Words below this (of 31 bits) get 32 more bits, so that tail probabilities keep 15 digits in base 2.
_RARE = np.int32(1 << 15)
_CELL_SHIFT = np.uint64(52 - CELL_BITS)
_CELL_ORIGIN = np.uint64((1023 + LOWEST_OCTAVE) << CELL_BITS)
_TAIL_CELLS = np.uint64(N_CELLS)
_ONE, _PICO = np.uint32(1), 2.0**-32

if TYPE_CHECKING:

    def _compiled(function: Any) -> Any: ...

else:
    _compiled = numba.njit(cache=True, nogil=True)


@_compiled
def philox_words(words: Any, key: Any, counter: Any, first: Any) -> None:
    """Fill ``words`` (4, G) with the Philox4x32-10 output of counters (first + g, *counter).

    Parameters
    ----------
    words : (4, G) ndarray of uint32
        Row r takes output word r of each counter.
    key : (2,) ndarray of uint64
        Two 32-bit words.
    counter : (3,) ndarray of uint64
        The other three 32-bit words of the counter.
    first : uint64
        First word of the first counter.
    """
    for g in range(words.shape[1]):
        x0, x1, x2, x3 = first + np.uint64(g), counter[0], counter[1], counter[2]
        k0, k1 = key[0], key[1]
        for _ in range(10):
            p0 = _MULTIPLIERS[0] * x0
            p1 = _MULTIPLIERS[1] * x2
            x0 = (p1 >> _HALF) ^ x1 ^ k0
            x1 = p1 & _LOW
            x2 = (p0 >> _HALF) ^ x3 ^ k1
            x3 = p0 & _LOW
            k0 = (k0 + _WEYL[0]) & _LOW
            k1 = (k1 + _WEYL[1]) & _LOW
        words[0, g] = np.uint32(x0)
        words[1, g] = np.uint32(x1)
        words[2, g] = np.uint32(x2)
        words[3, g] = np.uint32(x3)


@_compiled
def draw_noise(
    table: Any, key: Any, role: Any, first_student: Any, k: Any, scale: Any, within_scale: Any, mean: Any, within: Any
) -> None:
    """Draw k independent noise vectors per student; keep their mean and their spread.

    Parameters
    ----------
    table : (2 * N_CELLS, 4) ndarray
        Law of the noise, from ``quantile_table``.
    key : (2,) ndarray of uint64
    role : int
        Which noise this is, below 2**31: streams of different roles are independent.
    first_student : int
        Number of the first student.
    k : int
    scale, within_scale : (N,) ndarray
        Multiply the mean and the sum of squares at each place.
    mean : (B, N) ndarray
        Filled with the mean of each student's k draws.
    within : (B, N) ndarray, or (0, 0)
        Filled with their sum of squares around the mean, if it has rows.
    """
    n_students, width = mean.shape
    wants_spread = within.shape[0] > 0
    words = np.empty((4, (width + 3) // 4), np.uint32)
    flat = words.reshape(-1)
    extra = np.empty((4, 1), np.uint32)
    v = np.empty(flat.size)
    bits, cells = v.view(np.uint64), np.empty(flat.size, np.uint64)
    total, squares = np.empty(width), np.empty(width)
    counter = np.empty(3, np.uint64)
    for s in range(n_students):
        counter[0] = np.uint64(first_student + s)
        total[:] = 0.0
        squares[:] = 0.0
        for j in range(k):
            counter[1], counter[2] = np.uint64(j), np.uint64(role)
            philox_words(words, key, counter, np.uint64(0))
            lowest = np.int32(0x7FFFFFFF)
            for i in range(flat.size):
                magnitude = np.int32(flat[i] >> _ONE)
                lowest = min(lowest, magnitude)
                v[i] = 2.0 * np.float64(magnitude) + 1.0
            if lowest < _RARE:
                counter[2] = np.uint64(role) | _EXTENSION
                for i in range(width):
                    magnitude = np.int32(flat[i] >> _ONE)
                    if magnitude < _RARE:
                        philox_words(extra, key, counter, np.uint64(i))
                        v[i] = 2.0 * (np.float64(magnitude) + _PICO * np.float64(extra[0, 0])) + _PICO
            for i in range(flat.size):
                cells[i] = (bits[i] >> _CELL_SHIFT) - _CELL_ORIGIN + np.uint64(flat[i] & _ONE) * _TAIL_CELLS
            if k == 1:
                for i in range(width):
                    c, x = cells[i], v[i]
                    mean[s, i] = scale[i] * (((table[c, 3] * x + table[c, 2]) * x + table[c, 1]) * x + table[c, 0])
            elif wants_spread:
                for i in range(width):
                    c, x = cells[i], v[i]
                    z = ((table[c, 3] * x + table[c, 2]) * x + table[c, 1]) * x + table[c, 0]
                    total[i] += z
                    squares[i] += z * z
            else:
                for i in range(width):
                    c, x = cells[i], v[i]
                    total[i] += ((table[c, 3] * x + table[c, 2]) * x + table[c, 1]) * x + table[c, 0]
        if k > 1:
            for i in range(width):
                mean[s, i] = scale[i] * (total[i] / k)
        if wants_spread:
            for i in range(width):
                within[s, i] = within_scale[i] * max(squares[i] - total[i] * total[i] / k, 0.0)


@_compiled
def row_squares(rows: Any) -> Any:
    """Return the squared norm of each row of (B, N), summed in four interleaved parts."""
    n, width = rows.shape
    out = np.empty(n)
    whole = width - width % 4
    for s in range(n):
        a = b = c = d = 0.0
        for i in range(0, whole, 4):
            a += rows[s, i] * rows[s, i]
            b += rows[s, i + 1] * rows[s, i + 1]
            c += rows[s, i + 2] * rows[s, i + 2]
            d += rows[s, i + 3] * rows[s, i + 3]
        for i in range(whole, width):
            a += rows[s, i] * rows[s, i]
        out[s] = (a + b) + (c + d)
    return out


@_compiled
def point_sums(deviations: Any, spreads: Any, control: Any, weights: Any) -> Any:
    """Sum powers and products over the students of one block, at every output and point.

    Parameters
    ----------
    deviations : (B, q, m) ndarray
        d: predictions less a common shift.
    spreads : (B, q) ndarray
        w: each student's own residual variance, less a common shift.
    control : (B, q, m) ndarray, or (0, q, m)
        l: deviations of the control students from their exact mean.
    weights : (q, m) ndarray
        Coefficients of the control at each point.

    Returns
    -------
    sums : (11, q, m) ndarray
        Of d, d2, d3, d4, dw, d2 w, and with a control l2, l4, d l2, d2 l2, l2 w.
    pooled : (B,) ndarray
        Mean over points and outputs of weight times l2.
    """
    n, q, m = deviations.shape
    has_control = control.shape[0] > 0
    sums = np.zeros((11, q, m))
    pooled = np.zeros(n)
    for s in range(n):
        for o in range(q):
            w = spreads[s, o]
            for p in range(m):
                d = deviations[s, o, p]
                square = d * d
                sums[0, o, p] += d
                sums[1, o, p] += square
                sums[2, o, p] += square * d
                sums[3, o, p] += square * square
                sums[4, o, p] += d * w
                sums[5, o, p] += square * w
            if has_control:
                for p in range(m):
                    d = deviations[s, o, p]
                    other = control[s, o, p] * control[s, o, p]
                    sums[6, o, p] += other
                    sums[7, o, p] += other * other
                    sums[8, o, p] += d * other
                    sums[9, o, p] += d * d * other
                    sums[10, o, p] += other * w
                    pooled[s] += weights[o, p] * other
        pooled[s] /= q * m
    return sums, pooled


@_compiled
def solve_systems(matrices: Any, sides: Any, tolerance: Any) -> Any:
    """Solve many small positive definite systems by Cholesky factorisation.

    Parameters
    ----------
    matrices : (B, P, P) ndarray
        Overwritten.
    sides : (B, q, P) ndarray
        Overwritten with the solutions.
    tolerance : float
        A pivot below this part of its diagonal entry marks the system as singular.

    Returns
    -------
    (B,) ndarray of bool
        Which systems are singular to that tolerance; their sides are left as they were.
    """
    n, width = matrices.shape[:2]
    singular = np.zeros(n, np.bool_)
    for s in range(n):
        a = matrices[s]
        for j in range(width):
            pivot = a[j, j]
            for l in range(j):  # noqa: E741
                pivot -= a[j, l] * a[j, l]
            if not pivot > tolerance * a[j, j]:
                singular[s] = True
                break
            a[j, j] = np.sqrt(pivot)
            for i in range(j + 1, width):
                value = a[i, j]
                for l in range(j):  # noqa: E741
                    value -= a[i, l] * a[j, l]
                a[i, j] = value / a[j, j]
        if singular[s]:
            continue
        for o in range(sides.shape[1]):
            x = sides[s, o]
            for i in range(width):
                for l in range(i):  # noqa: E741
                    x[i] -= a[i, l] * x[l]
                x[i] /= a[i, i]
            for i in range(width - 1, -1, -1):
                for l in range(i + 1, width):  # noqa: E741
                    x[i] -= a[l, i] * x[l]
                x[i] /= a[i, i]
    return singular
