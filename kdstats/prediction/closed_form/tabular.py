r"""Closed-form variance components of students that memorise sampled classes (results T20, T21b).

With :math:`N_c` of k responses in class c and pseudo-counts :math:`a_c`, :math:`A = \sum a_c`, a student
answers c with :math:`\hat p_c = (N_c + a_c)/(k + A)`. Its mean over students is
:math:`m_c = (kp_c + a_c)/(k + A)`, and

.. math:: \text{inter}_c = \frac{k\,p_c(1-p_c)\,[1+(k-1)\rho]}{(k+A)^2}, \qquad
          \text{total}_c = m_c(1-m_c),

the second because an output of a random student is class c with probability :math:`m_c`. Intra is the
difference. Without pseudo-counts total is :math:`p_c(1-p_c)` for every k, so that distillation moves
variance between students and never makes any: summed over classes, :math:`G/k` lies between students and
:math:`(1-1/k)G` within, with the teacher's Gini index G.

A Dirichlet student with prior a answers with the same probabilities :math:`\hat p`. Under its posterior, of
concentration :math:`k + A`, the probability :math:`\theta_c` of a class has variance
:math:`\hat p_c(1-\hat p_c)/(k+A+1)`, the parameter part of its own variance, and
:math:`E\,\theta_c(1-\theta_c)=\hat p_c(1-\hat p_c)(k+A)/(k+A+1)` is left as noise.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.provenance import versions
from kdstats.components.result import VarianceComponents
from kdstats.problem.categorical import DirichletStudent, TabularStudent
from kdstats.problem.specification import DistillationProblem

__all__ = ["tabular_components"]

FloatArray = NDArray[np.float64]


def tabular_components(problem: DistillationProblem, *, covariance: bool = False) -> VarianceComponents:
    """Predict the variance components of a :class:`~kdstats.TabularStudent` or a Dirichlet one, exactly.

    Parameters
    ----------
    problem : DistillationProblem
        With a :class:`~kdstats.CategoricalTeacher`.
    covariance : bool, default False
        Keep the inter-student covariance between points, per class; it is diagonal.

    Returns
    -------
    VarianceComponents
        Points are the inputs, outputs the classes. The sum over outputs is in units of the Gini index. A
        :class:`~kdstats.DirichletStudent` has ``intra_parts``.
    """
    started = time.perf_counter()
    student, teacher, design = problem.student, problem.categorical_teacher, problem.design
    assert isinstance(student, (TabularStudent, DirichletStudent))
    p, k = teacher.probabilities, design.n_responses
    counts = student.pseudo_counts(teacher.n_outputs)
    weight = k + counts.sum()
    mean = (k * p + counts) / weight
    is_sampled = "teacher_output" in design.sources and design.strategy != "soft_labels"
    factor = k * (1.0 + (k - 1) * teacher.response_correlation) / weight**2 if is_sampled else 0.0
    inter = factor * p * (1.0 - p)
    intra = mean * (1.0 - mean) - inter if "student_output" in design.sources else np.zeros_like(inter)
    labels = list(problem.point_labels)
    kept = None
    if covariance:
        kept = xr.DataArray(
            np.stack([np.diag(column) for column in inter.T]),
            dims=("output", "point", "point_other"),
            coords={"output": list(teacher.output_labels), "point": labels, "point_other": labels},
            name="inter_student_covariance",
        )
    answer = VarianceComponents.from_arrays(
        inter_student=inter,
        intra_student=np.maximum(intra, 0.0),  # k = 1 without pseudo-counts is 0 up to rounding
        point_labels=problem.point_labels,
        output_labels=teacher.output_labels,
        covariance=kept,
        attrs={
            "engine": "closed_form",
            "exactness": "exact",
            "estimator": "moments of (Dirichlet-)multinomial counts",
            "effective_rank": _effective_rank(p, factor),
            "versions": versions(),
            "problem": problem.fingerprint(),
            "wall_time": time.perf_counter() - started,
        },
    )
    if not isinstance(student, DirichletStudent) or "student_output" not in design.sources:
        return answer
    whole = answer.intra_student
    parts = {"parameter": whole / (weight + 1.0), "noise": whole * (weight / (weight + 1.0))}
    return replace(answer, intra_parts=xr.Dataset(parts))


def _effective_rank(p: FloatArray, factor: float) -> float:
    """Return (tr C)^2 / tr C^2 over points and classes, whose covariance is factor (diag p - pp') at each point."""
    trace = float((p * (1.0 - p)).sum())
    square = (p**2).sum(axis=1)
    squares = float((square - 2.0 * (p**3).sum(axis=1) + square**2).sum())
    return trace**2 / squares if factor > 0.0 and squares > 0.0 else 1.0
