"""Monte Carlo prediction of softmax students: label sets drawn, every one fitted to convergence."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import xarray as xr

from kdstats.components.estimation import estimate_components
from kdstats.components.result import VarianceComponents
from kdstats.errors import PredictionError
from kdstats.linear.threads import SMALL, one_blas_thread
from kdstats.problem.specification import DistillationProblem
from kdstats.progress import Progress
from kdstats.sampling import BLOCK
from kdstats.sampling.softmax import SoftmaxFitter, softmax_regression
from kdstats.streams import Seeds

__all__ = ["simulate_softmax"]

DIMS = ("student", "replicate", "point", "output")
#: Memory that the probabilities of the students may take, bytes.
MEMORY_LIMIT = 2 * 2**30


def simulate_softmax(
    problem: DistillationProblem, *, n_students: int, seeds: Seeds, covariance: bool, progress: Progress
) -> VarianceComponents:
    """Fit students of a :class:`~kdstats.SoftmaxStudent` to labels of their own and estimate the components.

    Parameters
    ----------
    problem : DistillationProblem
    n_students : int
    seeds : Seeds
    covariance : bool
        Keep the inter-student covariance between points, per class.
    progress : Progress

    Raises
    ------
    PredictionError
        If a student's labels have no finite fit, or the students' probabilities would take too much memory.
    """
    started = time.perf_counter()
    teacher = problem.categorical_teacher
    shape = (n_students, problem.n_points, teacher.n_outputs)
    needed = 8 * int(np.prod(shape))
    if needed > MEMORY_LIMIT:
        raise PredictionError(
            f"probabilities of {n_students} students at {problem.n_points} points would take {needed / 2**30:.1f} GiB, "
            f"more than {MEMORY_LIMIT / 2**30:.0f} GiB: take fewer students or points"
        )
    probabilities = np.empty(shape)
    with progress as bar, one_blas_thread(when=teacher.n_inputs <= SMALL):
        model = softmax_regression(problem, teacher.probabilities)
        fitter = SoftmaxFitter(problem=problem, seeds=seeds.branch("monte_carlo"), model=model)
        for block in range(-(-n_students // BLOCK)):
            part = slice(block * BLOCK, min((block + 1) * BLOCK, n_students))
            probabilities[part] = fitter.students(block, part.stop - part.start, error=PredictionError)
            bar.show(part.stop, n_students)
    labels, classes = list(problem.point_labels), list(teacher.output_labels)
    quiet = "student_output" not in problem.design.sources
    found = estimate_components(
        xr.DataArray(probabilities[:, None], dims=DIMS, coords={"output": classes}),
        variances=np.zeros(shape) if quiet else probabilities * (1.0 - probabilities),
        point_labels=problem.point_labels,
        engine="monte_carlo",
        attrs={"exactness": "simulated", "seed": seeds.as_dict(), "path": "refits", "problem": problem.fingerprint()},
    )
    matrix = None
    if covariance:
        apart = (probabilities - probabilities.mean(axis=0)).transpose(2, 1, 0)
        matrix = xr.DataArray(
            np.matmul(apart, apart.transpose(0, 2, 1)) / (n_students - 1),
            dims=("output", "point", "point_other"),
            coords={"output": classes, "point": labels, "point_other": labels},
            name="inter_student_covariance",
        )
    attrs = {**found.attrs, "wall_time": time.perf_counter() - started}
    return replace(found, covariance=matrix, student_predictions=None, mean_squares=None, attrs=attrs)
