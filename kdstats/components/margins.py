"""Distances from a sum of mean squares down and up to the ends of its confidence interval.

All arrays broadcast; ``prob`` is the coverage of the two-sided interval. Students are Gaussian. A sum is recovered from
the intervals of its parts (Graybill & Wang 1980, J. Amer. Statist. Assoc. 75; correlated parts: Zou & Donner 2008,
Statist. Med. 27).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, stdtrit

__all__ = ["chi_square_margins", "known_total_margins", "sampled_total_margins"]

FloatArray = NDArray[np.float64]


def chi_square_margins(df: Any, prob: Any) -> tuple[FloatArray, FloatArray]:
    """Return distances, relative to a mean square, down to the lower and up to the upper chi-square bound."""
    tail = (1 - prob) / 2
    return np.asarray(1 - df / chdtri(df, tail)), np.asarray(df / chdtri(df, 1 - tail) - 1)


def sampled_total_margins(
    between: Any, rest: Any, *, df_between: Any, df_within: Any, prob: Any
) -> tuple[FloatArray, FloatArray]:
    """Return margins of the total ``between + rest``, rest being (1 - 1/r) times the mean square within."""
    (g_b, h_b), (g_w, h_w) = chi_square_margins(df_between, prob), chi_square_margins(df_within, prob)
    return np.hypot(g_b * between, g_w * rest), np.hypot(h_b * between, h_w * rest)


def known_total_margins(
    inter: tuple[Any, Any], *, errors: tuple[Any, Any, Any], n_students: int, prob: Any
) -> tuple[FloatArray, FloatArray]:
    """Return margins of inter plus the mean of known own variances.

    Parameters
    ----------
    inter : tuple of array
        Margins of inter.
    errors : tuple of array
        Standard errors of inter, of intra and of their sum, from which their correlation follows.
    n_students : int
    prob : float or ndarray
    """
    of_inter, of_intra, of_total = (np.asarray(error) for error in errors)
    spread = stdtrit(n_students - 1, (1 + prob) / 2) * of_intra
    product = 2 * of_inter * of_intra
    shared = of_total**2 - of_inter**2 - of_intra**2
    correlation = np.clip(np.divide(shared, product, out=np.zeros_like(product), where=product > 0), -1, 1)
    below, above = (np.sqrt(margin**2 + spread**2 + 2 * correlation * margin * spread) for margin in inter)
    return below, above
