"""Whether students and their outputs are Gaussian enough for Gaussian intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import ndtr

__all__ = ["MIN_STUDENTS", "MIN_STUDENTS_WITHIN", "Kurtosis", "excess_kurtosis", "excess_kurtosis_within"]

FloatArray = NDArray[np.float64]

#: Fewest students for the normal approximation of Anscombe and Glynn.
MIN_STUDENTS = 20
#: Fewest students whose own variances are compared: with few the test of their spread is cautious, never too ready.
MIN_STUDENTS_WITHIN = 5


@dataclass(frozen=True, kw_only=True)
class Kurtosis:
    """Excess kurtosis of student means or of replicate errors, averaged over points, and the p-value of a positive one.

    Attributes
    ----------
    excess : float
        0 if Gaussian.
    pvalue : float
        One-sided; uniform for Gaussian students at one point, rarely small where it averages over several.
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
    ``excess`` is the moment ratio :math:`G_2`. Each point's kurtosis is brought to a standard normal score [1]_. The
    mean of m scores has a variance of at most 1, whatever their correlation, and is compared with the standard normal
    law itself.

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


def excess_kurtosis_within(mean_squares: xr.Dataset, n_students: int) -> Kurtosis | None:
    r"""Test the spread of the students' own variances in a balanced table against that of Gaussian errors.

    It exceeds that where errors have excess kurtosis, and where some students are noisier than others, which is
    the same thing in the errors of all students together.

    Parameters
    ----------
    mean_squares : xarray.Dataset
        Of :func:`kdstats.components.estimation.estimate_components`, with r >= 2 replicates.
    n_students : int

    Returns
    -------
    Kurtosis or None
        None with fewer than :data:`MIN_STUDENTS_WITHIN` students, without replicates, or in an unbalanced table.

    Notes
    -----
    Variances of r replicates of one student vary by :math:`\sigma^4(2/(r-1)+\kappa/r)`. The log of their sample
    variance over S students relative to :math:`2\bar w^2/(r-1)` has the variance :math:`(2+4/(r-1))/S` for
    Gaussian errors of equal variance. In 1,500 such tables of 5 to 20 students with 2 to 10 replicates at most .4% fall
    below a p-value of .01.
    """
    r = float(mean_squares.attrs["n_replicates"])
    if r < 2 or n_students < MIN_STUDENTS_WITHIN or "replicates" in mean_squares or "within_se" not in mean_squares:
        return None
    within, error = mean_squares["within"].values, mean_squares["within_se"].values
    known = (within > 0) & (error > 0)
    if not known.any():
        return None
    relative = n_students * (error[known] / within[known]) ** 2
    scores = np.log(relative * (r - 1) / 2) / np.sqrt((2 + 4 / (r - 1)) / n_students)
    return Kurtosis(excess=float((r * (relative - 2 / (r - 1))).mean()), pvalue=float(ndtr(-scores.mean())))


def _scores(ratio: FloatArray, n: FloatArray) -> FloatArray:
    """Anscombe and Glynn's normal scores of the kurtosis m4/m2^2 of n Gaussian values."""
    mean = 3 * (n - 1) / (n + 1)
    variance = 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    x = (ratio - mean) / np.sqrt(variance)
    skewness = 6 * (n * n - 5 * n + 2) / ((n + 7) * (n + 9)) * np.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    a = 6 + 8 / skewness * (2 / skewness + np.sqrt(1 + 4 / skewness**2))
    cube = (1 - 2 / a) / (1 + x * np.sqrt(2 / (a - 4)))
    return np.asarray((1 - 2 / (9 * a) - np.cbrt(cube)) / np.sqrt(2 / (9 * a)))
