"""Whether students with more outputs are noisier or quieter than the others, in an unbalanced table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtr, fdtrc, ndtr, ndtri

__all__ = ["Noise", "own_noise"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Components of which each student is counted once, and a test of what they share with the weighted ones.

    Attributes
    ----------
    inter, intra : ndarray
        At each column: variance of the student means less the mean of their own sampling variances; mean of the
        students' own variances. Unbiased whatever the students' variances are.
    pvalue : float
        Two-sided; small where the own variances go with the numbers of outputs. It averages over columns.
    """

    inter: FloatArray
    intra: FloatArray
    pvalue: float


def own_noise(counts: FloatArray, means: FloatArray, squares: FloatArray) -> Noise:
    r"""Compare the mean of the students' own variances with their mean weighted by degrees of freedom.

    Parameters
    ----------
    counts, means, squares : (S, C) ndarrays
        Outputs of each student at each column, their mean, and their sum of squares about it. Some student has two
        outputs in every column.

    Returns
    -------
    Noise
        Students with one output have no variance of their own; the mean of the others stands for it.

    Notes
    -----
    With own variances :math:`w_s` on :math:`f_s` degrees of freedom, the ratio t of the plain to the weighted mean
    exceeds an observed one exactly where :math:`\sum_s(1/n-t f_s/f)\,w_s>0`, n being the number of students with two
    outputs or more. For equal variances and Gaussian errors that compares two sums of chi-squares, of the students with
    positive and with negative coefficients; each is brought to one chi-square (Satterthwaite). The scores of the
    columns average to a variance of at most 1.
    """
    repeated = counts > 1
    df = np.where(repeated, counts - 1, 0.0)
    n, total = repeated.sum(axis=0).astype(np.float64), df.sum(axis=0)
    own = np.divide(squares, df, out=np.zeros_like(squares), where=repeated)
    intra = own.sum(axis=0) / n
    weighted = squares.sum(axis=0) / total
    present = counts > 0
    filled = np.where(repeated, own, intra)
    sampling = np.divide(filled, counts, out=np.zeros_like(counts), where=present)
    n_present = present.sum(axis=0)
    centre = np.where(present, means, 0.0).sum(axis=0) / n_present
    between = (np.where(present, means - centre, 0.0) ** 2).sum(axis=0) / (n_present - 1)
    inter = between - sampling.sum(axis=0) / n_present
    ratio = np.divide(intra, weighted, out=np.ones_like(intra), where=weighted > 0)
    coefficient = np.where(repeated, 1 / n - ratio * df / total, 0.0)
    unequal = (np.abs(coefficient).max(axis=0) > 1e-12) & (weighted > 0)
    if not unequal.any():
        return Noise(inter=inter, intra=intra, pvalue=1.0)
    (up, df_up), (down, df_down) = (_as_chi_square(part, df) for part in (coefficient.clip(0), (-coefficient).clip(0)))
    comparable = unequal & (up > 0) & (down > 0)
    if not comparable.any():
        return Noise(inter=inter, intra=intra, pvalue=1.0)
    ones, twos, at = df_up[comparable], df_down[comparable], (down / np.where(up > 0, up, 1.0))[comparable]
    upper, lower = fdtrc(ones, twos, at), fdtr(ones, twos, at)
    tiny = np.finfo(np.float64).tiny
    scores = np.where(upper < 0.5, -ndtri(np.maximum(upper, tiny)), ndtri(np.maximum(lower, tiny)))
    return Noise(inter=inter, intra=intra, pvalue=float(2 * ndtr(-abs(scores.mean()))))


def _as_chi_square(coefficient: FloatArray, df: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and degrees of freedom of a sum of mean squares with these coefficients."""
    first = coefficient.sum(axis=0)
    second = np.divide(coefficient**2, df, out=np.zeros_like(df), where=df > 0).sum(axis=0)
    return first, np.divide(first**2, second, out=np.ones_like(first), where=second > 0)
