"""Posterior predictive moments of many students from their draws, with the error that the draws leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.prediction.bayes.libraries import az
from kdstats.prediction.bayes.posteriors import draws_of
from kdstats.prediction.bayes.stacks import Stack

__all__ = ["StudentMoments", "batch_errors", "moments_of"]

FloatArray = NDArray[np.float64]

#: What :class:`StudentMoments` has of every student and point.
MOMENTS = ("mean", "parameter", "noise", "mean_error", "intra_error")
#: Numbers held at once while predictions are summed over draws.
CHUNK = 8_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class StudentMoments:
    """Each student's posterior predictive moments and the error its draws leave in them.

    Attributes
    ----------
    mean, parameter, noise : (S, m) ndarray
        Posterior mean and variance of the prediction, posterior mean of the noise variance.
    mean_error, intra_error : (S, m) ndarray
        Monte Carlo standard errors of ``mean`` and of ``parameter + noise``.
    shared : (S,) ndarray of bool, optional
        Students whose errors come from the same draws. Default: none.
    """

    mean: FloatArray
    parameter: FloatArray
    noise: FloatArray
    mean_error: FloatArray
    intra_error: FloatArray
    shared: NDArray[np.bool_] | None = None

    @property
    def common(self) -> NDArray[np.bool_]:
        """``shared``, spelled out."""
        return np.zeros(len(self.mean), dtype=bool) if self.shared is None else self.shared

    @classmethod
    def joined(cls, parts: Sequence[StudentMoments]) -> StudentMoments:
        """Return the students of several parts, one after the other."""
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in MOMENTS}
        return cls(**arrays, shared=np.concatenate([part.common for part in parts]))

    def replaced(self, students: NDArray[np.int64], fresh: StudentMoments) -> StudentMoments:
        """Return moments in which some students have others."""
        arrays = {name: getattr(self, name).copy() for name in MOMENTS}
        shared = self.common.copy()
        for name, array in arrays.items():
            array[students] = getattr(fresh, name)
        shared[students] = fresh.common
        return StudentMoments(**arrays, shared=shared)


def moments_of(stack: Stack, data: az.InferenceData) -> StudentMoments:
    """Return each student's predictive moments, from its draws (chain, draw, student, ...)."""
    draws = draws_of(data)
    n_chains, n_draws, n_students = next(iter(draws.values())).shape[:3]
    n_points = stack.predictive({k: v[:1, :1] for k, v in draws.items()}).mean.shape[-1]
    width = max(1, CHUNK // (n_chains * n_draws * n_points))
    parts = [
        _moments(stack.predictive({name: array[:, :, first : first + width] for name, array in draws.items()}))
        for first in range(0, n_students, width)
    ]
    return StudentMoments.joined(parts)


def _moments(found: Any) -> StudentMoments:
    """Moments over chains and draws of one chunk of students, with batch-means errors."""
    mean, variance = found.mean, np.broadcast_to(found.variance, found.mean.shape)
    centre = mean.mean(axis=(0, 1))
    squares = (mean - centre) ** 2
    noise = variance.mean(axis=(0, 1))

    mean_error = batch_errors(mean)
    return StudentMoments(
        mean=centre,
        parameter=squares.mean(axis=(0, 1)) + mean_error**2,
        noise=noise,
        mean_error=mean_error,
        intra_error=batch_errors(squares + variance),
    )


def batch_errors(values: FloatArray) -> FloatArray:
    """Return the standard error of the mean of series (chain, draw, ...), from batch means."""
    n_chains, n_draws = values.shape[:2]
    size = max(1, int(np.sqrt(n_draws)))
    n_batches = n_draws // size
    kept = values[:, : n_batches * size].reshape(n_chains, n_batches, size, *values.shape[2:]).mean(axis=2)
    flat = kept.reshape(n_chains * n_batches, *values.shape[2:])
    return np.asarray(flat.std(axis=0, ddof=1) / np.sqrt(len(flat)))
