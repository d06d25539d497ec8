"""Control of the errors of many tests at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.problem.validation import as_choice

__all__ = ["METHODS", "adjust_pvalues"]

#: Methods of statsmodels that control the family-wise error or the false discovery rate.
METHODS = ("holm", "bonferroni", "sidak", "holm-sidak", "simes-hochberg", "hommel", "fdr_bh", "fdr_by")


def adjust_pvalues(pvalues: Any, *, method: str = "holm") -> NDArray[np.float64]:
    """Return p-values adjusted for their number.

    Parameters
    ----------
    pvalues : array_like
        Any shape; the whole array is one family.
    method : str, default "holm"
        A method of ``statsmodels.stats.multitest.multipletests`` (Holm's, the default, is computed here: the library
        collects garbage at every call, which took nine tenths of a comparison). Holm holds the family-wise
        level under any dependence between points; ``fdr_bh`` holds the false discovery rate under positive
        dependence.

    Returns
    -------
    ndarray
        Same shape. Reject where at most the level.

    Examples
    --------
    >>> adjust_pvalues([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    raw = np.asarray(pvalues, dtype=float)
    as_choice("multiplicity", method, METHODS)
    if raw.size == 1:
        return raw.copy()
    if method == "holm":
        return _holm(raw.ravel()).reshape(raw.shape)
    from statsmodels.stats.multitest import multipletests

    adjusted = multipletests(raw.ravel(), method=method)[1]
    return np.asarray(np.minimum(adjusted, 1.0), dtype=float).reshape(raw.shape)


def _holm(pvalues: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Holm's step-down adjustment: the largest of (n - i) times the i-th smallest so far, at most 1."""
    order = np.argsort(pvalues)
    stepped = np.maximum.accumulate((pvalues.size - np.arange(pvalues.size)) * pvalues[order])
    adjusted = np.empty(pvalues.size)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
