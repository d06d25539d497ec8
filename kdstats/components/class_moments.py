"""Arithmetic of class predictions: sums of rows by cell, entropies without their leading bias, delete-one students.

A cell is a student at a point. Its rows are probability vectors or sampled labels; a label is a vector of zeros and a
single one, so that one set of formulas serves both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

__all__ = ["Cells", "PointEstimates", "cells_of_labels", "cells_of_probabilities", "entropy", "estimate_points"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Entries of an array (students, points, classes) that are handled at a time.
BLOCK = 2_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class Cells:
    """What is kept of each student at each point.

    Attributes
    ----------
    mean : (S, m, C) ndarray
        Mean of the rows; zeros where there is none.
    count : (S, m) ndarray of int
        Number of rows.
    within : (S, m) ndarray
        Unbiased variance of the mean around the student's own probabilities, summed over classes: 0 where these are
        known, NaN where one row cannot tell.
    entropy : (S, m) ndarray
        Estimated entropy in nats of the student's own probabilities; NaN as in ``within``.
    last_step : (S, m) ndarray
        Last correction that went into ``entropy``, a scale of the bias that is left; 0 where probabilities are known.
    """

    mean: FloatArray
    count: IntArray
    within: FloatArray
    entropy: FloatArray
    last_step: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class PointEstimates:
    """Six components at m points, before and after correction, and what each of S students moves them.

    Attributes
    ----------
    estimate, plug_in : (6, m) ndarray
        Inter, intra and total Gini index; mutual information, expected and total entropy.
    moves : (6, S, m) ndarray
        Scaled so that the sum of squares over students is the jackknife variance.
    """

    estimate: FloatArray
    plug_in: FloatArray
    moves: FloatArray


def entropy(probabilities: FloatArray) -> FloatArray:
    """Return entropies in nats along the last axis."""
    return np.asarray(np.maximum(-xlogy(probabilities, probabilities).sum(axis=-1), 0.0))


def cells_of_labels(counts: IntArray) -> Cells:
    r"""Return the cells of label counts, shape (S, m, C).

    Notes
    -----
    Entropies are corrected by the jackknife over labels, of second order: :math:`T_r` being the entropy of the
    observed frequencies of r labels, averaged over the ways to leave some out, :math:`\tfrac12 r^2T_r -
    (r-1)^2T_{r-1}+\tfrac12(r-2)^2T_{r-2}` has no bias of order 1/r or 1/r². With two labels it is of first order.
    """
    n = counts.sum(axis=-1)
    mean = counts / np.maximum(n, 1)[..., None]
    squares = (mean**2).sum(axis=-1)
    within = np.divide(1.0 - squares, n - 1, out=np.full(n.shape, np.nan), where=n > 1)
    corrected, step = np.full(n.shape, np.nan), np.full(n.shape, np.nan)
    for size in np.unique(n[n > 1]):
        at = n == size
        terms = _entropy_terms(int(size))
        corrected[at] = terms[-1][counts[at]].sum(axis=-1)
        step[at] = corrected[at] - terms[-2][counts[at]].sum(axis=-1)
    return Cells(mean=mean, count=n, within=within, entropy=corrected, last_step=step)


def cells_of_probabilities(rows: FloatArray, cell: IntArray, *, shape: tuple[int, int], known: bool) -> Cells:
    """Return the cells of probability vectors.

    Parameters
    ----------
    rows : (N, C) ndarray
        Probability vectors.
    cell : (N,) ndarray of int
        Flat index of each row's cell in ``shape``, (students, points).
    shape : tuple of int
    known : bool
        Whether a row is its student's own probabilities (one row a cell), and not one draw of them.
    """
    size = shape[0] * shape[1]
    count = np.bincount(cell, minlength=size)
    mean = _summed(rows, cell, size) / np.maximum(count, 1)[:, None]
    plain = entropy(mean)
    if known:
        zeros = np.zeros(shape)
        parts = (zeros, plain.reshape(shape), zeros)
    else:
        own, several = mean[cell], count > 1
        squares = np.bincount(cell, ((rows - own) ** 2).sum(axis=1), minlength=size)
        others = own + (own - rows) / np.maximum(count[cell] - 1, 1)[:, None]
        left_out = np.bincount(cell, entropy(np.maximum(others, 0.0)), minlength=size) / np.maximum(count, 1)
        correction = np.where(several, (count - 1) * (plain - left_out), np.nan)
        within = np.where(several, squares / np.maximum(count * (count - 1), 1), np.nan)
        step = correction / np.maximum(count, 1)
        parts = (within.reshape(shape), (plain + correction).reshape(shape), step.reshape(shape))
    return Cells(
        mean=mean.reshape(*shape, -1), count=count.reshape(shape), within=parts[0], entropy=parts[1], last_step=parts[2]
    )


def estimate_points(cells: Cells) -> PointEstimates:
    r"""Estimate the components at every point; NaN where they are not identified.

    Notes
    -----
    With :math:`q_s` the mean of student s, :math:`w_s` its ``within`` and S students at a point, intra is the mean of
    :math:`1-|q_s|^2+w_s`, total is one less the mean of :math:`q_s\cdot q_t` over pairs of different students, and
    inter is the difference of both: :math:`\sum|q_s-\bar q|^2/(S-1)-\bar w`. Total entropy is that of :math:`\bar q`,
    corrected by the jackknife over students. Students with one row are left out of intra and of the expected entropy.
    """
    n_students, n_points, n_classes = cells.mean.shape
    step = max(1, BLOCK // (n_students * n_classes))
    parts = [_estimate_block(cells, slice(at, at + step)) for at in range(0, n_points, step)]
    estimate, plug_in, moves = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    return PointEstimates(estimate=estimate, plug_in=plug_in, moves=moves)


def _estimate_block(cells: Cells, block: slice) -> tuple[FloatArray, FloatArray, FloatArray]:
    mean, there = cells.mean[:, block], cells.count[:, block] > 0
    n = there.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        squares, own_entropy = (mean**2).sum(axis=-1), entropy(mean)
        pooled = mean.sum(axis=0)
        average = pooled / n[:, None]
        agreement = ((pooled**2).sum(axis=-1) - squares.sum(axis=0)) / (n * (n - 1))
        others = pooled - mean
        left = ((others**2).sum(axis=-1) - squares.sum(axis=0) + squares) / ((n - 1) * (n - 2))
        total, total_left = 1.0 - agreement, 1.0 - left
        known = there & ~np.isnan(cells.within[:, block])
        intra, intra_left = _mean_and_left(1.0 - squares + cells.within[:, block], known)
        expected, expected_left = _mean_and_left(cells.entropy[:, block], known)
        whole = entropy(average)
        whole_left = np.where(there, entropy(np.maximum(others / (n - 1)[:, None], 0.0)), np.nan)
        corrected = n * whole - (n - 1) * np.nanmean(np.where(there, whole_left, np.nan), axis=0)
        estimate = np.stack([total - intra, intra, total, corrected - expected, expected, corrected])
        plain_gini, _ = _mean_and_left(1.0 - squares, there)
        plain_entropy, _ = _mean_and_left(own_entropy, there)
        gini = 1.0 - (average**2).sum(axis=-1)
        plug_in = np.stack([gini - plain_gini, plain_gini, gini, whole - plain_entropy, plain_entropy, whole])
        without = np.stack(
            [total_left - intra_left, intra_left, total_left, whole_left - expected_left, expected_left, whole_left]
        )
        without = np.where(there, without, np.nan)
        moves = np.sqrt((n - 1) / n) * (np.nansum(without, axis=1, keepdims=True) / n - without)
    return estimate, plug_in, np.where(there, moves, 0.0)


def _mean_and_left(values: FloatArray, used: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Return means over students, and with each student left out."""
    values = np.where(used, values, 0.0)
    total, n = values.sum(axis=0), used.sum(axis=0)
    return total / n, (total - values) / (n - used)


def _summed(rows: FloatArray, cell: IntArray, size: int) -> FloatArray:
    return np.stack([np.bincount(cell, column, minlength=size) for column in rows.T], axis=1)


def _entropy_terms(n: int) -> list[FloatArray]:
    """Return, for 0 to n labels of a class out of n, its term in the entropy after 0, 1 and 2 corrections."""
    orders = min(2, n - 1)
    levels = [_left_out(n, j) for j in range(orders + 1)]
    found = [levels[0], n * levels[0] - (n - 1) * levels[1]]
    if orders == 2:
        found.append(0.5 * (n**2 * levels[0] - 2 * (n - 1) ** 2 * levels[1] + (n - 2) ** 2 * levels[2]))
    return found


def _left_out(n: int, j: int) -> FloatArray:
    """Return the mean term in the entropy of a class with 0 to n labels out of n when j labels are left out."""
    if j == 0:
        share = np.arange(n + 1) / n
        return np.asarray(-xlogy(share, share))
    fewer, x = _left_out(n - 1, j - 1), np.arange(n + 1)
    return np.asarray(x / n * fewer[np.maximum(x - 1, 0)] + (1 - x / n) * fewer[np.minimum(x, n - 1)])
