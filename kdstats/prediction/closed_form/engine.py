r"""Closed-form variance components of linear students.

A linear student predicts :math:`X^*\hat\beta` with :math:`\hat\beta = Fy + Pw_0`, so over students

.. math:: \text{inter} = \operatorname{diag}(L C L' + s_0^2 X^*PP'X^{*\prime}), \qquad L = X^*F,

with C the covariance of the labels under the strategy. A student's outputs scatter around its
prediction with its own residual variance, whose expectation is **intra**. Exact for every
smoother, strategy and covariance; asymptotic where weights are estimated (result T4) or rows
resampled (result T10).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.provenance import versions
from kdstats.components.result import VarianceComponents
from kdstats.errors import UnsupportedProblemError
from kdstats.linear.label_law import label_law
from kdstats.linear.smoother import augment, smoother
from kdstats.linear.threads import SMALL, one_blas_thread
from kdstats.prediction.closed_form.coefficients import coefficient_law, expected_residual_variance
from kdstats.prediction.closed_form.estimated_weights import inflated_labels, residual_inflation
from kdstats.prediction.closed_form.resampling import (
    check_regime,
    resampled_rows_spread,
    warn_outside_regime,
)
from kdstats.prediction.closed_form.tabular import tabular_components
from kdstats.problem.categorical import DirichletStudent, SoftmaxStudent, TabularStudent
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent
from kdstats.problem.validation import as_flag

__all__ = ["ClosedForm", "closed_form", "effective_rank", "predict"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class ClosedForm:
    """The prediction in arrays.

    Attributes
    ----------
    mean : (m, q) ndarray
        Mean prediction over students.
    spreads : list of (m, r) ndarray
        Per output, Z with ``Z @ Z.T`` the inter-student covariance of the query points.
    intra_student : (q,) ndarray
        Expected residual variance of a student.
    exactness : str
    is_gaussian : bool
        Whether predictions are Gaussian when responses are.
    notes : dict
        Facts about an approximation.
    """

    mean: FloatArray
    spreads: list[FloatArray]
    intra_student: FloatArray
    exactness: str
    is_gaussian: bool
    notes: dict[str, Any]

    @property
    def inter_student(self) -> FloatArray:
        """Inter-student variance, shape (m, q)."""
        return np.column_stack([np.einsum("ij,ij->i", spread, spread) for spread in self.spreads])


def predict(
    problem: DistillationProblem, *, rng: Any = None, covariance: bool = False, n_check_students: int = 64
) -> VarianceComponents:
    """Predict the variance components of linear, tabular, Dirichlet and softmax students in closed form.

    Parameters
    ----------
    problem : DistillationProblem
        With a :class:`~kdstats.LinearStudent`, :class:`~kdstats.TabularStudent`, :class:`~kdstats.DirichletStudent` or
        :class:`~kdstats.SoftmaxStudent`.
    rng : object, optional
        Accepted as by every engine. It draws the refits behind the error estimate of a SoftmaxStudent; nothing else
        is random here.
    covariance : bool, default False
        Keep the full inter-student covariance between query points, m x m per output.
    n_check_students : int, default 64
        Refits behind the error estimate of a SoftmaxStudent, see
        :func:`kdstats.prediction.closed_form.softmax.softmax_components`.

    Returns
    -------
    VarianceComponents
        With standard errors 0. ``attrs["exactness"]`` is ``exact``, or ``asymptotic`` for
        estimated weights, resampled rows and softmax students, with ``attrs["approximation"]`` saying in what.

    Raises
    ------
    RankDeficientError
        If the inputs do not determine the coefficients; the columns are named.
    PredictionError
        If no residual degrees of freedom are left for the student's residual variance.
    UnsupportedProblemError
        For students or options that only Monte Carlo covers.

    Examples
    --------
    The mean of n labels with variance s^2 has variance s^2/n:

    >>> import kdstats as kd
    >>> result = predict(kd.catalog.intercept_only(noise_variance=4.0, n_inputs=8))
    >>> round(float(result.inter_student[0, 0]), 12), result.exactness
    (0.5, 'exact')
    """
    started = time.perf_counter()
    as_flag("covariance", covariance)
    if isinstance(problem.student, (TabularStudent, DirichletStudent)):
        return tabular_components(problem, covariance=covariance)
    if isinstance(problem.student, SoftmaxStudent):
        from kdstats.prediction.closed_form.softmax import softmax_components

        return softmax_components(problem, rng=rng, covariance=covariance, n_check_students=n_check_students)
    answer = closed_form(problem)
    attrs = {
        "engine": "closed_form",
        "exactness": answer.exactness,
        "estimator": "L C L' and the expected residual variance",
        "effective_rank": effective_rank(answer.spreads),
        "versions": versions(),
        "problem": problem.fingerprint(),
        **answer.notes,
    }
    kept = _covariance_array(problem, answer.spreads) if covariance else None
    attrs["wall_time"] = time.perf_counter() - started
    return VarianceComponents.from_arrays(
        inter_student=answer.inter_student,
        intra_student=answer.intra_student[None, :],
        point_labels=problem.point_labels,
        attrs=attrs,
        covariance=kept,
    )


def closed_form(problem: DistillationProblem) -> ClosedForm:
    """Return the prediction in arrays; :func:`predict` adds labels and provenance."""
    student = problem.student
    if not isinstance(student, LinearStudent):
        raise UnsupportedProblemError(
            "the closed form covers a LinearStudent, TabularStudent, DirichletStudent or SoftmaxStudent; got a "
            f"{type(student).__name__} (`kdstats.observe` trains it)"
        )
    with one_blas_thread(when=problem.gaussian_teacher.n_inputs <= SMALL):
        return _closed_form(problem, student)


def _closed_form(problem: DistillationProblem, student: LinearStudent) -> ClosedForm:
    size, weighting = problem.resample_size, problem.design.weighting
    if weighting is not None and weighting.variance_estimate is not None:
        raise UnsupportedProblemError(
            f"the closed form covers known and fixed weights; with weight={weighting.variance_estimate!r} the weight "
            "is a function of each student's own responses: use engine='monte_carlo'"
        )
    notes: dict[str, Any] = {}
    exactness = "exact"
    scale = 1.0
    if size is not None:
        notes["approximation"] = (
            f"resampled rows to first order; relative error of order {check_regime(problem, size):.2g}"
        )
        exactness = "asymptotic"
        scale = problem.gaussian_teacher.n_inputs / size
    fit = smoother(problem, penalty_scale=scale)
    labels = label_law(problem, fit if size is None else smoother(problem))  # pilot students see every row
    varying = inflated_labels(problem, fit, labels) if student.weights_are_estimated else labels
    law = coefficient_law(problem, fit, varying)
    intra = expected_residual_variance(problem, fit, labels)
    query = augment(problem.X_query, student)
    spreads = [query @ law.spread] * problem.gaussian_teacher.n_outputs
    if size is not None:
        rows = resampled_rows_spread(problem, fit, labels, size)
        spreads = [np.hstack([common, query @ extra]) for common, extra in zip(spreads, rows, strict=True)]
    if student.weights_are_estimated:
        intra = intra * residual_inflation(problem.design.n_responses)
        exactness = "asymptotic"
        order = warn_outside_regime(problem, problem.gaussian_teacher.n_inputs, "estimated weights")
        notes["approximation"] = (
            "estimated weights: many inputs at a fixed number of Gaussian responses; "
            f"relative error of order {order:.2g}"
        )
    if weighting is not None and weighting.is_oracle:
        notes["bound"] = "oracle: the labels use the noiseless teacher mean, which no user has"
    return ClosedForm(
        mean=query @ law.mean,
        spreads=spreads,
        intra_student=intra,
        exactness=exactness,
        is_gaussian=labels.is_gaussian and size is None and not student.weights_are_estimated,
        notes=notes,
    )


def effective_rank(spreads: list[FloatArray]) -> float:
    """Return (tr C)^2 / tr C^2 over all points and (independent) outputs; 1 if nothing varies."""
    trace, square = 0.0, 0.0
    for spread in spreads:
        gram = spread.T @ spread
        trace += float(np.trace(gram))
        square += float(np.einsum("ij,ij->", gram, gram))
    return trace**2 / square if square > 0.0 else 1.0


def _covariance_array(problem: DistillationProblem, spreads: list[FloatArray]) -> xr.DataArray:
    labels = list(problem.point_labels)
    return xr.DataArray(
        np.stack([spread @ spread.T for spread in spreads]),
        dims=("output", "point", "point_other"),
        coords={"output": np.arange(len(spreads)), "point": labels, "point_other": labels},
        name="inter_student_covariance",
    )
