"""Students really fitted to sampled classes: counts drawn, frequencies learnt, components estimated.

Nothing here uses the law of the counts beyond drawing them, so that it can test what is predicted from it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.estimation import estimate_components
from kdstats.components.result import VarianceComponents
from kdstats.errors import UnsupportedProblemError
from kdstats.observation.assembly import DIMS, as_replicates
from kdstats.observation.class_copies import refuse_copied_classes
from kdstats.problem.categorical import DirichletStudent, TabularStudent
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.validation import as_count
from kdstats.progress import Progress, ProgressLike
from kdstats.sampling import BLOCK
from kdstats.sampling.classes import draw_class_counts
from kdstats.streams import Seeds, as_seeds

__all__ = ["assemble_classes", "observe"]

FloatArray = NDArray[np.float64]


def observe(
    problem: DistillationProblem,
    *,
    n_students: int = 100,
    rng: Any = None,
    n_replicates: int | None = None,
    progress: ProgressLike = None,
) -> VarianceComponents:
    """Draw classes for each student, let it learn their frequencies, and estimate the variance components.

    Parameters
    ----------
    problem : DistillationProblem
        With a :class:`~kdstats.CategoricalTeacher` and a :class:`~kdstats.TabularStudent` or
        :class:`~kdstats.DirichletStudent`.
    n_students : int, default 100
        At least 2. The first students of a larger run are the students of a smaller one.
    rng : int, Generator, SeedSequence, Seeds or None
        As in :func:`kdstats.streams.as_seeds`.
    n_replicates : int, optional
        Classes drawn from each student at each input, at least 2. Default: none; each student's
        probabilities, and so its own variance, are known and used as they are.
    progress : bool or callable, optional
        See :class:`kdstats.progress.Progress`.

    Returns
    -------
    VarianceComponents
        Points are the inputs, outputs the classes, in units of the Gini index once summed over them.
        ``student_predictions`` holds the students' probabilities. A Dirichlet student has ``intra_parts`` if its
        own variance is known (without ``n_replicates``).

    Raises
    ------
    UnsupportedProblemError
        For other students.
    DuplicateStudentsError
        If more students are equal than equal labels explain.

    Examples
    --------
    >>> import kdstats as kd
    >>> problem = kd.DistillationProblem(
    ...     teacher=kd.CategoricalTeacher([[0.5, 0.5]]), student=kd.TabularStudent(), design=kd.Design()
    ... )
    >>> seen = kd.observe(problem, n_students=1000, rng=1)
    >>> float(seen.intra_student.sum())  # a student that saw one answer knows no other
    0.0
    """
    started = time.perf_counter()
    student, teacher = problem.student, problem.teacher
    if not isinstance(student, (TabularStudent, DirichletStudent)):
        raise UnsupportedProblemError(
            f"engine 'categorical' fits a TabularStudent or DirichletStudent; got a {type(student).__name__}"
        )
    n_students = as_count("n_students", n_students, minimum=2, reason="to estimate inter-student variance")
    n_replicates = as_replicates(problem, n_replicates)
    seeds = as_seeds(rng)
    pseudo = student.pseudo_counts(teacher.n_outputs)
    probabilities = np.empty((n_students, teacher.n_inputs, teacher.n_outputs))
    with Progress(progress) as bar:
        for block in range(-(-n_students // BLOCK)):
            part = slice(block * BLOCK, min((block + 1) * BLOCK, n_students))
            counts = draw_class_counts(problem, seeds, block)[: part.stop - part.start]
            probabilities[part] = (counts + pseudo) / (problem.design.n_responses + pseudo.sum())
            bar.show(part.stop, n_students)
    answer = assemble_classes(
        probabilities,
        problem,
        seeds=seeds,
        engine="categorical",
        training="frequencies of the classes seen",
        started=started,
        n_replicates=n_replicates,
    )
    if isinstance(student, TabularStudent) or n_replicates or "student_output" not in problem.design.sources:
        return answer
    posterior = problem.design.n_responses + pseudo.sum()
    parameter = (probabilities * (1.0 - probabilities)).mean(axis=0) / (posterior + 1.0)
    whole = answer.intra_student
    parts = {"parameter": whole.copy(data=parameter), "noise": whole.copy(data=parameter * posterior)}
    return replace(answer, intra_parts=xr.Dataset(parts))


def assemble_classes(
    probabilities: FloatArray,
    problem: DistillationProblem,
    *,
    seeds: Seeds,
    engine: str,
    training: str,
    started: float,
    n_replicates: int | None = None,
    outputs: FloatArray | None = None,
) -> VarianceComponents:
    """Estimate the components of students that give every class a probability, shape (S, m, C).

    A student's own variance at a class of probability p is p(1-p); with ``n_replicates``, classes are drawn instead,
    unless ``outputs`` (S, r, m, C) were drawn already. Copies are refused.
    """
    refuse_copied_classes(probabilities, problem)
    is_quiet = "student_output" not in problem.design.sources
    known: FloatArray | None = None
    if outputs is None and n_replicates is not None:
        outputs = _draw_classes(probabilities, seeds, n_replicates)
    elif outputs is None:
        outputs = probabilities[:, None]
        known = np.zeros_like(probabilities) if is_quiet else probabilities * (1.0 - probabilities)
    components = estimate_components(
        xr.DataArray(outputs, dims=DIMS, coords={"output": list(problem.categorical_teacher.output_labels)}),
        variances=known,
        point_labels=problem.point_labels,
        engine=engine,
        attrs={
            "exactness": "observed",
            "seed": seeds.as_dict(),
            "training": training,
            "problem": problem.fingerprint(),
        },
    )
    kept = components.student_predictions
    if known is None and kept is not None:
        kept = kept.copy(data=probabilities)
    return replace(
        components,
        student_predictions=kept,
        attrs={**components.attrs, "wall_time": time.perf_counter() - started},
    )


def _draw_classes(probabilities: FloatArray, seeds: Seeds, n_replicates: int) -> FloatArray:
    """Draw one-hot outputs of every student, shape (S, r, n, C), from one stream per block."""
    n_students, n, n_classes = probabilities.shape
    outputs = np.empty((n_students, n_replicates, n, n_classes))
    for block in range(-(-n_students // BLOCK)):
        part = slice(block * BLOCK, min((block + 1) * BLOCK, n_students))
        uniform = seeds.generator("student_output", block).random((BLOCK, n_replicates, n, 1))
        edges = probabilities[part].cumsum(axis=-1)[:, None]
        edges[..., -1] = 1.0  # rounding of the sum must not leave a gap
        chosen = (uniform[: part.stop - part.start] >= edges).sum(axis=-1)
        outputs[part] = np.arange(n_classes) == chosen[..., None]
    return outputs
