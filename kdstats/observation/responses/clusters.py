"""Answers that mean about the same, told by the cosine of their embeddings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

__all__ = ["clusters", "in_bulk", "unit_rows"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def unit_rows(vectors: FloatArray) -> FloatArray:
    """Return rows divided by their lengths; a row of zeros, which has no direction, stays."""
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    scaled = vectors / np.where(largest > 0, largest, 1.0)  # squares of the largest or least numbers would not fit
    length = np.linalg.norm(scaled, axis=-1, keepdims=True)
    return np.asarray(scaled / np.where(length > 0, length, 1.0))


def clusters(embeddings: FloatArray, *, similarity: float) -> IntArray:
    """Number the clusters of answers whose average cosine to one another is at least ``similarity``.

    Parameters
    ----------
    embeddings : (N, d) ndarray
        Rows of length 1.
    similarity : float
        Average linkage stops below this mean cosine between two clusters.

    Returns
    -------
    (N,) ndarray of int
        From 0. The numbers have no order.
    """
    if len(embeddings) == 1:
        return np.zeros(1, dtype=np.int64)
    distance = np.clip(1.0 - embeddings @ embeddings.T, 0.0, 2.0)
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform((distance + distance.T) / 2, checks=False), method="average")
    return np.asarray(fcluster(tree, t=1.0 - similarity, criterion="distance"), dtype=np.int64) - 1


def in_bulk(answers: FloatArray, teacher: FloatArray, *, similarity: float, mass: float) -> NDArray[np.bool_]:
    """Say which answers belong to a cluster that holds at least the share ``mass`` of the teacher's answers.

    Parameters
    ----------
    answers : (N, d) ndarray
    teacher : (k, d) ndarray
        The teacher's answers to the same input; clustered among themselves, so that no answer decides about another.
    similarity : float
        An answer belongs to a cluster if its mean cosine to the members is at least this, the rule of average linkage.
    mass : float
        In (0, 1].
    """
    number = clusters(teacher, similarity=similarity)
    sizes = np.bincount(number)
    kept = np.flatnonzero(sizes >= mass * len(teacher) - 1e-9)
    if not kept.size:
        return np.zeros(len(answers), dtype=np.bool_)
    centres = np.stack([teacher[number == i].mean(axis=0) for i in kept])
    return np.asarray((answers @ centres.T >= similarity - 1e-12).any(axis=1))
