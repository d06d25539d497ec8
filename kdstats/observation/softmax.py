"""Softmax students really fitted to sampled classes: labels drawn, fits to convergence, components estimated.

Fits start from that of the first students' mean label and end at the minimum of a convex loss, so that nothing here
knows the theory it can test.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from kdstats.components.result import VarianceComponents
from kdstats.errors import ObservationError, UnsupportedProblemError
from kdstats.linear.threads import SMALL, one_blas_thread
from kdstats.observation.assembly import as_replicates
from kdstats.observation.categorical import assemble_classes
from kdstats.problem.categorical import SoftmaxStudent
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.validation import as_count
from kdstats.progress import Progress, ProgressLike
from kdstats.sampling import BLOCK
from kdstats.sampling.classes import draw_class_counts
from kdstats.sampling.softmax import SoftmaxFitter, softmax_regression
from kdstats.streams import as_seeds

__all__ = ["observe"]


def observe(
    problem: DistillationProblem,
    *,
    n_students: int = 100,
    rng: Any = None,
    n_replicates: int | None = None,
    progress: ProgressLike = None,
) -> VarianceComponents:
    """Draw classes for each student, fit its multinomial logistic regression, estimate the variance components.

    Parameters
    ----------
    problem : DistillationProblem
        With a :class:`~kdstats.CategoricalTeacher` and a :class:`~kdstats.SoftmaxStudent`.
    n_students : int, default 100
        At least 2. The first students of a larger run are the students of a smaller one.
    rng : int, Generator, SeedSequence, Seeds or None
        As in :func:`kdstats.streams.as_seeds`.
    n_replicates : int, optional
        Classes drawn from each student at each point, at least 2. Default: none; each student's
        probabilities, and so its own variance, are known and used as they are.
    progress : bool or callable, optional
        See :class:`kdstats.progress.Progress`.

    Returns
    -------
    VarianceComponents
        Outputs are the classes, in units of the Gini index once summed over them. ``student_predictions`` holds the
        students' probabilities.

    Raises
    ------
    UnsupportedProblemError
        For other students.
    RankDeficientError
        If there is no penalty and the inputs do not determine the coefficients.
    ObservationError
        If the labels of a student have no finite fit (complete separation without a penalty, or a class that no
        label gives); the message names the student.
    DuplicateStudentsError
        If more students are equal than equal labels explain.
    """
    started = time.perf_counter()
    if not isinstance(problem.student, SoftmaxStudent):
        raise UnsupportedProblemError(f"engine 'softmax' fits a SoftmaxStudent; got a {type(problem.student).__name__}")
    n_students = as_count("n_students", n_students, minimum=2, reason="to estimate inter-student variance")
    n_replicates = as_replicates(problem, n_replicates)
    seeds = as_seeds(rng)
    probabilities = np.empty((n_students, problem.n_points, problem.teacher.n_outputs))
    with Progress(progress) as bar, one_blas_thread(when=problem.teacher.n_inputs <= SMALL):
        mean = draw_class_counts(problem, seeds, 0).mean(axis=0) / problem.design.n_responses
        fitter = SoftmaxFitter(problem=problem, seeds=seeds, model=softmax_regression(problem, mean))
        for block in range(-(-n_students // BLOCK)):
            part = slice(block * BLOCK, min((block + 1) * BLOCK, n_students))
            probabilities[part] = fitter.students(block, part.stop - part.start, error=ObservationError)
            bar.show(part.stop, n_students)
    return assemble_classes(
        probabilities,
        problem,
        seeds=seeds,
        engine="softmax",
        training="multinomial logistic regression by Newton's method to convergence, float64",
        started=started,
        n_replicates=n_replicates,
    )
