r"""Noise laws as tables that turn one random word into one draw.

Draws are made by inversion. A probability u in (0, 1/2], counted from the nearer tail, is held as
:math:`v = 2^{33} u`; the exponent and the leading bits of the float v number a cell, and within it
the quantile is a cubic in v through its values at four Chebyshev nodes. Cells shrink with u, so
that tails are as well resolved as the middle: relative width 1/64 in each of 64 octaves, down to
:math:`u = 2^{-65}`.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from kdstats.sampling.laws import NoiseLaw, UserLaw

__all__ = ["CELL_BITS", "LOWEST_OCTAVE", "N_CELLS", "has_table", "quantile_table"]

FloatArray = NDArray[np.float64]

#: Octaves of v run from 2**LOWEST_OCTAVE; each is cut into 2**CELL_BITS cells.
LOWEST_OCTAVE, N_OCTAVES, CELL_BITS = -32, 64, 6
#: Cells of one tail; the lower tail comes first in a table, then the upper.
N_CELLS = N_OCTAVES << CELL_BITS
#: v over u.
SCALE = 2.0**33


def has_table(law: NoiseLaw) -> bool:
    """Whether a law has a quantile function of its own."""
    return not isinstance(law, UserLaw) and type(law).quantile is not NoiseLaw.quantile


@functools.lru_cache(maxsize=32)
def quantile_table(law: NoiseLaw) -> FloatArray:
    """Return the cubic coefficients of every cell, shape (2 * N_CELLS, 4), constant first."""
    per_octave = 1 << CELL_BITS
    octave = np.repeat(np.arange(N_OCTAVES) + LOWEST_OCTAVE, per_octave).astype(float)
    half = 2.0**octave / (2 * per_octave)
    middle = 2.0**octave + half * (2 * np.tile(np.arange(per_octave), N_OCTAVES) + 1)
    nodes = np.cos((2 * np.arange(4) + 1) * np.pi / 8)
    local = np.linalg.inv(np.vander(nodes, increasing=True))
    probability = (middle[:, None] + half[:, None] * nodes) / SCALE
    tails = [_in_powers(law.quantile(probability, upper=upper) @ local.T, middle, half) for upper in (False, True)]
    table = np.ascontiguousarray(np.vstack(tails))
    table.flags.writeable = False
    return table


def _in_powers(local: FloatArray, middle: FloatArray, half: FloatArray) -> FloatArray:
    """Rewrite cubics in s = (v - middle)/half as cubics in v."""
    a, b, c, d = (local / half[:, None] ** np.arange(4)).T
    m = middle
    return np.column_stack([a - m * (b - m * (c - m * d)), b - m * (2 * c - 3 * m * d), c - 3 * m * d, d])
