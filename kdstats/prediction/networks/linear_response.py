"""The engine ``linear_response``: one problem's components from the response of network students to their labels."""

from __future__ import annotations

from typing import Any

from kdstats.components.result import VarianceComponents
from kdstats.prediction.networks.class_response import class_components
from kdstats.prediction.networks.response import RESPONSES, check_covered, network_response
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import NetworkStudent
from kdstats.problem.validation import as_choice

__all__ = ["predict"]


def predict(
    problem: DistillationProblem,
    *,
    response: str = "finite",
    n_pilots: int | None = None,
    n_students: int = 256,
    rng: Any = None,
    n_workers: int | None = None,
) -> VarianceComponents:
    r"""Predict the components of network students from how a pilot's training answers to its labels.

    Parameters
    ----------
    problem : DistillationProblem
        With a network student trained full batch on every row for a fixed number of steps; with the head
        ``softmax`` see :func:`kdstats.prediction.networks.class_response.class_components`.
    response : {"finite", "tangent"}, default "finite"
        ``"tangent"``: :math:`JCJ'`, first order in the noise, checked against real students.
        ``"finite"``: real students at the amplitude of the noise, with first order as control variate. With the
        strategy ``variance_weighting`` (:mod:`kdstats.prediction.networks.mixing`) first order covers weights that are
        numbers or ``"known"``; ``"finite"`` trains pilots and students, all weights, without control variate.
    n_pilots, n_students, rng, n_workers
        See :func:`kdstats.network_response`.

    Returns
    -------
    VarianceComponents
        ``exactness`` "approximate". ``attrs["source_variances"]``: the average over points of the parts that
        the teacher's noise (of mixed labels: the labels, pilots' starts included) and the initialization have in the
        inter-student variance, which they sum to.
        ``attrs["linear_ratio"]``: variance of real students over first order, with its interval; and
        ``attrs["linear_share"]`` (all students starting alike): squared correlation of each student's deviation
        with the one predicted for its labels.

    Raises
    ------
    UnsupportedProblemError, PredictionError
        See :func:`kdstats.network_response`.

    Warns
    -----
    ApproximationWarning
        With ``response="tangent"``, unless the check shows the true variance within a factor 1.1 of it (at the 5%
        level); with ``"finite"``, where the students are too few for equivalence at 1.25 with as many others.

    Notes
    -----
    The standard error is that of the pilots and students that were drawn; where students start alike and
    the response is ``"tangent"`` there are none, and it is 0. Intra-student variance is the expected residual
    sum of squares over the number of rows, as network students take it; with dropout, the variance over masks. Masks
    in training count as a start does, under ``"student_initialization and data_order"`` in ``source_variances``.
    """
    check_covered(problem, classes=True)
    as_choice("response", response, RESPONSES)
    assert isinstance(problem.student, NetworkStudent)
    if problem.student.head == "softmax":
        return class_components(
            problem, response=response, n_pilots=n_pilots, n_students=n_students, rng=rng, n_workers=n_workers
        )
    found = network_response(problem, n_pilots=n_pilots, n_students=n_students, rng=rng, n_workers=n_workers)
    return found.predict(response=response)
