"""Are the student means Gaussian enough for Gaussian intervals?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import ndtr

__all__ = ["MIN_STUDENTS", "Kurtosis", "excess_kurtosis"]

FloatArray = NDArray[np.float64]

#: Fewest students for the normal approximation of Anscombe and Glynn.
MIN_STUDENTS = 20


@dataclass(frozen=True, kw_only=True)
class Kurtosis:
    """Excess kurtosis of the student means, averaged over points, and the p-value of a positive one.

    Attributes
    ----------
    excess : float
        0 for Gaussian students; the unbiased moment ratio :math:`G_2`.
    pvalue : float
        One-sided; at most nominally often small for Gaussian students however the points are correlated.
    """

    excess: float
    pvalue: float


def excess_kurtosis(student_predictions: xr.DataArray) -> Kurtosis | None:
    r"""Test the student means for excess kurtosis.

    Parameters
    ----------
    student_predictions : xarray.DataArray
        Dims student, point, output; NaN where a student has none.

    Returns
    -------
    Kurtosis or None
        None where no point varies over :data:`MIN_STUDENTS` students or more.

    Notes
    -----
    Each point's kurtosis is brought to a standard normal score [1]_. The mean of m scores has a variance of at most 1,
    whatever their correlation, so that it is compared with the standard normal law itself.

    References
    ----------
    .. [1] Anscombe, F. J. & Glynn, W. J. (1983), Biometrika 70.
    """
    values = np.asarray(student_predictions.values, dtype=np.float64)
    values = values.reshape(len(values), -1)
    present = ~np.isnan(values)
    n = present.sum(axis=0).astype(np.float64)
    known = n >= MIN_STUDENTS
    values, present, n = values[:, known], present[:, known], n[known]
    deviations = np.where(present, values, 0.0)
    deviations = np.where(present, deviations - deviations.sum(axis=0) / n, 0.0)
    scale = np.abs(deviations).max(axis=0, initial=0.0)
    varies = scale > 0
    if not varies.any():
        return None
    deviations, n = deviations[:, varies] / scale[varies], n[varies]
    squares = deviations**2
    ratio = n * (squares**2).sum(axis=0) / squares.sum(axis=0) ** 2
    excess = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (ratio - 3) + 6)
    return Kurtosis(excess=float(excess.mean()), pvalue=float(ndtr(-_scores(ratio, n).mean())))


def _scores(ratio: FloatArray, n: FloatArray) -> FloatArray:
    """Anscombe and Glynn's normal scores of the kurtosis m4/m2^2 of n Gaussian values."""
    mean = 3 * (n - 1) / (n + 1)
    variance = 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    x = (ratio - mean) / np.sqrt(variance)
    skewness = 6 * (n * n - 5 * n + 2) / ((n + 7) * (n + 9)) * np.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    a = 6 + 8 / skewness * (2 / skewness + np.sqrt(1 + 4 / skewness**2))
    cube = (1 - 2 / a) / (1 + x * np.sqrt(2 / (a - 4)))
    return np.asarray((1 - 2 / (9 * a) - np.cbrt(cube)) / np.sqrt(2 / (9 * a)))
