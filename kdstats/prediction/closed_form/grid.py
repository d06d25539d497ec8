"""Grids over noise levels and numbers of responses, from as few factorisations as the student allows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from kdstats.components.provenance import versions
from kdstats.components.result import VarianceComponents
from kdstats.errors import UnsupportedProblemError, invalid
from kdstats.prediction.closed_form.engine import ClosedForm, closed_form, effective_rank
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent
from kdstats.problem.validation import as_array, as_count

__all__ = ["predict_grid"]

FloatArray = NDArray[np.float64]


def predict_grid(
    problem: DistillationProblem,
    *,
    noise_variance: Sequence[float] | None = None,
    n_responses: Sequence[int] | None = None,
) -> VarianceComponents:
    r"""Predict the components for every pair of a noise variance and a number of responses.

    With strategy ``averaging`` the components are affine in the variance of the mean response,
    :math:`v = \sigma^2(1+(k-1)\rho)/k`, because the student's map does not depend on it: two closed
    forms give the whole grid. Elsewhere each cell is a closed form of its own.

    Parameters
    ----------
    problem : DistillationProblem
        With a scalar ``noise_variance`` in its teacher, which the grid replaces. The strategy is
        kept (``single`` is read as ``averaging``).
    noise_variance : sequence of float, optional
        Variances of one response, at least 0. Default: the problem's own.
    n_responses : sequence of int, optional
        Numbers of responses k. Default: the problem's own.

    Returns
    -------
    VarianceComponents
        With leading dims ``noise_variance`` and ``n_responses``.

    Raises
    ------
    ProblemError
        If the teacher's noise is not a scalar, an argument is empty or out of range, or a
        correlation is impossible for one of the k.
    """
    started = time.perf_counter()
    if not isinstance(problem.student, LinearStudent):
        raise UnsupportedProblemError(
            f"the closed form covers a LinearStudent; got a {type(problem.student).__name__} "
            f"(`kdstats.observe` trains it)"
        )
    if problem.gaussian_teacher.noise_variance.ndim:
        raise invalid(
            "problem",
            "have a scalar noise_variance for a grid over it",
            f"shape {problem.gaussian_teacher.noise_variance.shape}",
        )
    own = problem.gaussian_teacher.noise_variance
    levels = as_array("noise_variance", [own] if noise_variance is None else noise_variance, ndim=1)
    if (levels < 0.0).any():
        raise invalid("noise_variance", "be at least 0", float(levels.min()))
    if n_responses is None:
        n_responses = [problem.design.n_responses]
    if not isinstance(n_responses, Iterable):
        raise invalid("n_responses", "be a sequence of counts", n_responses)
    counts = [as_count("n_responses", k) for k in n_responses]
    if not counts:
        raise invalid("n_responses", "not be empty", "[]")
    if _is_affine(problem):
        inter, intra, reference = _affine(problem, levels, counts)
    else:
        answers = [[closed_form(_cell(problem, level, k)) for k in counts] for level in levels]
        inter = np.stack([[answer.inter_student for answer in row] for row in answers])
        intra = np.stack([[answer.intra_student[None, :] for answer in row] for row in answers])
        reference = answers[-1][0]
    attrs = {
        "engine": "closed_form",
        "exactness": reference.exactness,
        "estimator": "L C L' and the expected residual variance",
        "effective_rank": effective_rank(reference.spreads),
        "versions": versions(),
        **reference.notes,
        "wall_time": time.perf_counter() - started,
    }
    return VarianceComponents.from_arrays(
        inter_student=inter,
        intra_student=intra,
        point_labels=problem.point_labels,
        leading={"noise_variance": levels.tolist(), "n_responses": counts},
        attrs=attrs,
    )


def _cell(problem: DistillationProblem, noise_variance: float, n_responses: int) -> DistillationProblem:
    strategy = "averaging" if problem.design.strategy == "single" else problem.design.strategy
    cell = problem.with_design(n_responses=n_responses, strategy=strategy)
    return cell.with_teacher(noise_variance=noise_variance)


def _is_affine(problem: DistillationProblem) -> bool:
    student = problem.student
    assert isinstance(student, LinearStudent)
    teacher_decides = isinstance(student.covariance, str) or student.weights_are_estimated
    return problem.design.strategy in ("single", "averaging") and not teacher_decides


def _affine(
    problem: DistillationProblem, levels: FloatArray, counts: list[int]
) -> tuple[FloatArray, FloatArray, ClosedForm]:
    """Evaluate at variance 0 and 1 of the mean response, and interpolate."""
    base, unit = (closed_form(_cell(problem, level, 1)) for level in (0.0, 1.0))
    for k in counts:
        problem.with_design(n_responses=k, strategy="averaging")  # refuses an impossible correlation
    n_responses, rho = np.array(counts), problem.gaussian_teacher.response_correlation
    variances = np.multiply.outer(levels, (1.0 + (n_responses - 1) * rho) / n_responses)[:, :, None, None]
    inter = base.inter_student + variances * (unit.inter_student - base.inter_student)
    intra = base.intra_student + variances * (unit.intra_student - base.intra_student)
    return inter, intra, unit
