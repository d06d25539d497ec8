"""Bayesian linear students really fitted, each to labels of its own, with their exact posteriors."""

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
from kdstats.linear.bayesian import fit_bayesian_students
from kdstats.linear.threads import SMALL, one_blas_thread
from kdstats.observation.assembly import as_replicates
from kdstats.observation.duplicates import refuse_duplicates
from kdstats.problem.bayesian import BayesianLinearStudent
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.validation import as_count
from kdstats.progress import Progress, ProgressLike
from kdstats.sampling import BLOCK, as_noise_law, draw_training_block
from kdstats.streams import Seeds, as_seeds

__all__ = ["observe"]

FloatArray = NDArray[np.float64]

DIMS = ("student", "replicate", "point", "output")


def observe(
    problem: DistillationProblem,
    *,
    n_students: int = 100,
    rng: Any = None,
    n_replicates: int | None = None,
    noise_law: Any = "gaussian",
    progress: ProgressLike = None,
) -> VarianceComponents:
    """Fit Bayesian linear students to labels drawn for each of them and estimate their variance components.

    Parameters
    ----------
    problem : DistillationProblem
        With a :class:`~kdstats.BayesianLinearStudent`.
    n_students : int, default 100
        At least 2. The first students of a larger run are the students of a smaller one.
    rng : int, Generator, SeedSequence, Seeds or None
        As in :func:`kdstats.streams.as_seeds`.
    n_replicates : int, optional
        Outputs drawn from each student's posterior predictive distribution at each point (independently over
        points), at least 2. Default: none; each student's predictive variance is known and used as it is.
    noise_law : str, NoiseLaw or callable, default "gaussian"
        As in :func:`kdstats.sampling.as_noise_law`.
    progress : bool or callable, optional
        See :class:`kdstats.progress.Progress`.

    Returns
    -------
    VarianceComponents
        ``exactness`` "observed", with ``student_predictions`` (posterior means) and, without
        ``n_replicates``, ``intra_parts``.

    Raises
    ------
    UnsupportedProblemError
        For other students.
    RankDeficientError
        If a flat prior leaves a posterior improper.
    DuplicateStudentsError
        If students copy each other.

    Examples
    --------
    >>> import numpy as np, kdstats as kd
    >>> problem = kd.DistillationProblem(
    ...     teacher=kd.GaussianTeacher(np.ones((8, 1)), np.zeros(8), noise_variance=4.0),
    ...     student=kd.BayesianLinearStudent(prior_variance=np.inf, noise_variance=4.0),
    ...     design=kd.Design(np.ones((1, 1))),
    ... )
    >>> seen = observe(problem, n_students=4000, rng=1)
    >>> abs(float(seen.inter_student[0, 0]) - 4.0 / 8) < 4 * float(seen.standard_error["inter_student"][0, 0])
    True
    """
    started = time.perf_counter()
    student = problem.student
    if not isinstance(student, BayesianLinearStudent):
        raise UnsupportedProblemError(
            f"engine 'conjugate' fits a BayesianLinearStudent; got a {type(student).__name__} "
            "(leave `engine` out for the engine of its own)"
        )
    n_students = as_count("n_students", n_students, minimum=2, reason="to estimate inter-student variance")
    n_replicates = as_replicates(problem, n_replicates)
    seeds, law = as_seeds(rng), as_noise_law(noise_law)
    shape = (n_students, problem.n_points, problem.gaussian_teacher.n_outputs)
    means, variances, outputs = np.empty(shape), np.empty(shape), []
    parts = {"parameter": np.zeros(shape[1:]), "noise": np.zeros(shape[1:])}
    with Progress(progress) as bar, one_blas_thread(when=problem.gaussian_teacher.n_inputs <= SMALL):
        for block in range(-(-n_students // BLOCK)):
            part = slice(block * BLOCK, min((block + 1) * BLOCK, n_students))
            size = part.stop - part.start
            drawn = draw_training_block(problem, seeds, block, law)
            fit = fit_bayesian_students(
                problem,
                labels=drawn.labels[:size],
                within=drawn.within[:size],
                counts=None if drawn.counts is None else drawn.counts[:size],
            )
            means[part], variances[part] = fit.mean, fit.variance
            parts["parameter"] += fit.parameter_variance.sum(axis=0) / n_students
            parts["noise"] += fit.noise_variance.sum(axis=0) / n_students
            if n_replicates is not None:
                outputs.append(_outputs(seeds, block, fit.mean, fit.variance, fit.degrees_of_freedom, n_replicates))
            bar.show(part.stop, n_students)
    refuse_duplicates(means, problem, law=law)
    quiet = "student_output" not in problem.design.sources
    values, known = (np.concatenate(outputs), None) if outputs else (means[:, None], variances)
    components = estimate_components(
        xr.DataArray(values, dims=DIMS),
        variances=0.0 if quiet else known,
        point_labels=problem.point_labels,
        engine="conjugate",
        attrs={
            "exactness": "observed",
            "seed": seeds.as_dict(),
            "noise_law": law.name,
            "problem": problem.fingerprint(),
            "training": "exact conjugate posterior",
        },
    )
    whole, kept = components.intra_student, components.student_predictions
    assert kept is not None
    return replace(
        components,
        student_predictions=kept.copy(data=means),
        intra_parts=None
        if quiet or outputs
        else xr.Dataset({name: whole.copy(data=part) for name, part in parts.items()}),
        attrs={**components.attrs, "wall_time": time.perf_counter() - started},
    )


def _outputs(
    seeds: Seeds, block: int, mean: FloatArray, variance: FloatArray, freedom: FloatArray, n_replicates: int
) -> FloatArray:
    """Draw outputs (B, r, m, q): Gaussian, or Student t with the same variance where the noise is unknown."""
    generator = seeds.generator("student_output", block)
    size, *grid = mean.shape
    noise = generator.standard_normal((BLOCK, n_replicates, *grid))[:size]
    if np.isfinite(freedom).all():
        mixing = generator.chisquare(freedom[0], size=(BLOCK, n_replicates, *grid))[:size]
        noise = noise * np.sqrt((freedom[0] - 2.0) / mixing)
    return np.asarray(mean[:, None] + np.sqrt(variance)[:, None] * noise)
