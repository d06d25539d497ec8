"""Whether the effects of crossed sources and the noise of outputs are Gaussian enough for Gaussian intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.kurtosis import MIN_STUDENTS, excess_kurtosis, excess_kurtosis_within, skewness
from kdstats.components.uneven_effects import term_effects

__all__ = ["not_gaussian_effects"]

FloatArray = NDArray[np.float64]

#: Level of all tests of one table together.
LEVEL = 0.05


def not_gaussian_effects(
    table: FloatArray,
    terms: Mapping[str, tuple[int, ...]],
    squares: FloatArray,
    counts: FloatArray,
    *,
    rounding: FloatArray | float = 0.0,
) -> tuple[str, ...]:
    """Name the terms whose effects have excess kurtosis or skewness, and the noise of outputs if it has kurtosis.

    Parameters
    ----------
    table : (L_1, ..., L_k, P) ndarray
        Means of the students that cross all levels.
    terms : mapping of str to tuple of int
        Sources of each term.
    squares : (S, P) ndarray
        Sums of squares of each student's outputs about its mean.
    counts : (S,) ndarray
        Outputs of each student.
    rounding : float or (P,) ndarray, default 0
        As in :func:`~kdstats.components.uneven_effects.term_effects`; of outputs as well.

    Returns
    -------
    tuple of str
        Sentences; empty where nothing is found. Terms with fewer levels than :data:`kdstats.components.kurtosis
        .MIN_STUDENTS` are not tested. Holm's first step over all tests, at :data:`LEVEL` together.
    """
    found: list[tuple[float, str]] = []
    tested: list[float] = []
    for name, axes in terms.items():
        if np.prod([table.shape[axis] for axis in axes]) < MIN_STUDENTS:
            continue
        effects = term_effects(table, axes, rounding=rounding)
        students = xr.DataArray(effects.reshape(-1, 1, table.shape[-1]), dims=("student", "point", "output"))
        kurtosis, skew = excess_kurtosis(students), skewness(students)
        if kurtosis is None or skew is None:
            continue
        tested += [kurtosis.pvalue, skew.pvalue]
        found.append((kurtosis.pvalue, f"effects of {name} have an excess kurtosis of {kurtosis.excess:.2g}"))
        found.append((skew.pvalue, f"effects of {name} have a skewness of {skew.size:.2g}"))
    if (counts == counts[0]).all() and counts[0] >= 2:
        own = np.where(squares > counts[0] * np.square(rounding), squares, 0.0) / (counts[0] - 1.0)
        spread = xr.Dataset(
            {
                "within": (("point", "output"), own.mean(axis=0)[None]),
                "within_se": (("point", "output"), own.std(axis=0, ddof=1)[None] / np.sqrt(len(own))),
            },
            attrs={"n_replicates": float(counts[0])},
        )
        within = excess_kurtosis_within(spread, len(own))
        if within is not None:
            tested.append(within.pvalue)
            found.append((within.pvalue, f"outputs of a student have an excess kurtosis of {within.excess:.2g}"))
    limit = LEVEL / max(len(tested), 1)
    return tuple(
        f"{what[:1].upper()}{what[1:]} (p = {pvalue:.2g} if Gaussian): these intervals are too narrow."
        for pvalue, what in found
        if pvalue <= limit
    )
