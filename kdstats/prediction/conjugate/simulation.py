"""Bayesian linear students drawn and fitted exactly, where no closed form covers them."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.estimation import estimate_components
from kdstats.components.result import VarianceComponents
from kdstats.linear.bayesian import fit_bayesian_students
from kdstats.linear.threads import SMALL, one_blas_thread
from kdstats.problem.bayesian import BayesianLinearStudent
from kdstats.problem.specification import DistillationProblem
from kdstats.progress import Progress, ProgressLike
from kdstats.sampling import BLOCK, as_noise_law, draw_training_block
from kdstats.streams import as_seeds

__all__ = ["simulate"]

FloatArray = NDArray[np.float64]


def simulate(
    problem: DistillationProblem, *, n_students: int, rng: Any, noise_law: Any, progress: ProgressLike, started: float
) -> VarianceComponents:
    """Draw training sets, fit every student exactly, and estimate the components.

    The students' own predictions are not kept.
    """
    seeds, law = as_seeds(rng), as_noise_law(noise_law)
    shape = (n_students, problem.n_points, problem.gaussian_teacher.n_outputs)
    means, variances, scales = np.empty(shape), np.zeros(shape), np.empty((n_students, shape[2]))
    parameter, noise = np.zeros(shape[1:]), np.zeros(shape[1:])
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
            means[part], variances[part], scales[part] = fit.mean, fit.variance, fit.prior_variance
            parameter += fit.parameter_variance.sum(axis=0) / n_students
            noise += fit.noise_variance.sum(axis=0) / n_students
            bar.show(part.stop, n_students)
    quiet = "student_output" not in problem.design.sources
    attrs: dict[str, Any] = {
        "exactness": "simulated",
        "seed": seeds.as_dict(),
        "noise_law": law.name,
        "problem": problem.fingerprint(),
    }
    student = problem.student
    if isinstance(student, BayesianLinearStudent) and student.maximises_evidence:
        attrs["median_prior_variance"] = float(np.median(scales))
    answer = estimate_components(
        xr.DataArray(means[:, None], dims=("student", "replicate", "point", "output")),
        variances=0.0 if quiet else variances,
        point_labels=problem.point_labels,
        engine="conjugate",
        attrs=attrs,
    )
    whole = answer.intra_student
    parts = xr.Dataset({"parameter": whole.copy(data=parameter), "noise": whole.copy(data=noise)})
    return replace(
        answer,
        student_predictions=None,
        intra_parts=None if quiet else parts,
        attrs={**answer.attrs, "wall_time": time.perf_counter() - started},
    )
