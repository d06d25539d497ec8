"""Outputs of students with dropout: each from a pass with a mask of its own, and what the student draws under it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from kdstats.networks.passes import dropped_outputs, has_own_variance
from kdstats.networks.training import TrainedNetworks
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import NetworkStudent
from kdstats.streams import Seeds

__all__ = ["DEFAULT_PASSES", "draw_passes", "n_passes"]

FloatArray = NDArray[np.float64]

#: Passes of a student whose variance over masks has no closed form, where nothing else is said.
DEFAULT_PASSES = 16


def n_passes(problem: DistillationProblem, n_replicates: int | None) -> int | None:
    """Return how many outputs are drawn from each student with new masks; None where masks are not drawn.

    They are not where the source ``student_output`` is off, or nothing else is asked for and the variance over
    masks has a closed form.
    """
    student = problem.student
    if not isinstance(student, NetworkStudent) or student.dropout == 0.0:
        return None
    if "student_output" not in problem.design.sources or (n_replicates is None and has_own_variance(student)):
        return None
    return DEFAULT_PASSES if n_replicates is None else n_replicates


def draw_passes(
    problem: DistillationProblem,
    seeds: Seeds,
    trained: TrainedNetworks,
    *,
    numbers: Sequence[int],
    n_passes: int,
    n_workers: int | None = None,
) -> FloatArray:
    """Draw outputs of trained students at the query points, shape (S, n_passes, m, q).

    ``numbers`` names the students, whose streams are their own: one for the masks and one for what is drawn under
    them (a normal around the mean of a head ``gaussian``, one class of a head ``softmax``, nothing of a head ``mean``).
    """
    student = problem.student
    assert isinstance(student, NetworkStudent)
    outputs = dropped_outputs(
        trained.architecture,
        trained.parameters,
        problem.X_query,
        rate=student.dropout,
        generators=[seeds.generator("student_output", number, "dropout") for number in numbers],
        n_passes=n_passes,
        n_workers=n_workers,
    )
    if student.head == "mean":
        return outputs
    noise = [seeds.generator("student_output", number, "noise") for number in numbers]
    if student.head == "gaussian":
        means, log_variances = np.split(outputs, 2, axis=3)
        normal = np.stack([generator.standard_normal(means.shape[1:]) for generator in noise])
        return np.asarray(means + np.exp(0.5 * log_variances) * normal)
    edges = softmax(outputs, axis=3).cumsum(axis=3)
    edges[..., -1] = 1.0  # rounding of the sum must not leave a gap
    uniform = np.stack([generator.random((*outputs.shape[1:3], 1)) for generator in noise])
    return np.asarray(np.arange(outputs.shape[3]) == (uniform >= edges).sum(axis=3)[..., None], dtype=np.float64)
