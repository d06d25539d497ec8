"""Students that should be independent and are not.

Public scripts for these experiments seed inside the loop over students, so that every student
after the first is given the same teacher answers; the variance they report is that of copies. No
estimator can tell copies from students that agree, so a run with copies is refused before
anything is estimated. Copies are told from coincidence by counting: pairs that agree to rounding
must be more than the precision of the numbers explains.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import DuplicateStudentsError
from kdstats.linear.label_law import initialization_variance, label_law
from kdstats.linear.smoother import Smoother, augment, smoother as smoother_of
from kdstats.problem.bayesian import BayesianLinearStudent
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent, NetworkStudent
from kdstats.sampling.laws import NoiseLaw, UserLaw

__all__ = ["agreeing_students", "duplicate_error", "refuse_duplicates"]

FloatArray = NDArray[np.float64]

#: Students are copies if they differ by less than this share of the spread between students.
SHARE_OF_SPREAD = 1e-12
#: Chance at which coincidences are no longer put down to the precision of the numbers.
FALSE_ALARM = 1e-6
#: Spread expected of linear students, in units of the rounding of their predictions, below which it may drown in it.
ROUNDINGS = 1e3
#: Groups of copies that a message lists, and draws that show whether a user's noise has atoms.
LISTED, ATOM_DRAWS = 3, 1000


def refuse_duplicates(
    predictions: NDArray[Any],
    problem: DistillationProblem,
    *,
    law: NoiseLaw | None = None,
    smoother: Smoother | None = None,
    precision: float | None = None,
) -> None:
    """Raise an error if students that should be independent gave the same predictions.

    Nothing is refused where students may rightly agree: no source of randomness reaches the
    predictions; only the rows are resampled (two resamples of few rows can be the same rows, and
    noiseless rows the same labels); the noise is a user's law with atoms; networks that differ in
    their initialization alone and predict a constant (all units dead).

    Parameters
    ----------
    predictions : (S, m, q) ndarray
        Mean prediction of each student.
    problem : DistillationProblem
        What the students were trained on.
    law : NoiseLaw, optional
        Law of the teacher's noise. Default: one without atoms.
    smoother : Smoother, optional
        Coefficient map of a linear student, if it is at hand.
    precision : float, optional
        Relative spacing of the numbers that the predictions were computed in. Default: of their
        dtype, or of float32 if every prediction is a float32 number.

    Raises
    ------
    DuplicateStudentsError
        Naming the students, how many there are, and the likely cause.
    """
    eps = _precision(predictions) if precision is None else precision
    rows = predictions.reshape(predictions.shape[0], -1).astype(np.float64, copy=False)
    rounding = eps * np.abs(rows).max(axis=0, initial=0.0)
    suspects = _suspects(rows, problem, law, smoother, rounding)
    if suspects.size < 2:
        return
    rows = rows[suspects]
    spread = rows.std(axis=0)
    groups = agreeing_students(rows, SHARE_OF_SPREAD * spread)
    n_pairs = sum(len(group) * (len(group) - 1) // 2 for group in groups)
    if n_pairs and _is_chance(n_pairs, rows.shape[0], np.maximum(rounding, SHARE_OF_SPREAD * spread), spread):
        return
    if n_pairs:
        raise duplicate_error([suspects[group] for group in groups], np.arange(predictions.shape[0]))


def agreeing_students(rows: FloatArray, tolerance: FloatArray) -> list[NDArray[np.int64]]:
    """Group the students that agree within a tolerance per column: neighbours once sorted by a random projection.

    Parameters
    ----------
    rows : (S, P) ndarray
    tolerance : (P,) ndarray
        0 for equality.

    Returns
    -------
    list of ndarray
        Row numbers of each group of two or more, the largest group first.
    """
    scale = np.where(tolerance > 0.0, tolerance, 1.0)
    direction = np.random.Generator(np.random.Philox(rows.shape[1])).standard_normal(rows.shape[1]) / scale
    order = np.argsort((rows - rows[0]) @ direction, kind="stable")
    same = np.empty(rows.shape[0] - 1, dtype=bool)
    for start in range(0, same.size, 1024):
        part = rows[order[start : start + 1025]]
        same[start : start + 1024] = (np.abs(np.diff(part, axis=0)) <= tolerance).all(axis=1)
    runs = np.split(order, np.flatnonzero(~same) + 1)
    return sorted((np.sort(run) for run in runs if run.size > 1), key=lambda run: (-run.size, run[0]))


def duplicate_error(groups: list[NDArray[np.int64]], students: NDArray[Any]) -> DuplicateStudentsError:
    """Return the error that names the students of each group, how many copies there are, and the likely cause.

    Parameters
    ----------
    groups : list of ndarray
        As :func:`agreeing_students` returns them.
    students : (S,) ndarray
        Labels of all students.
    """

    def shown(group: NDArray[np.int64]) -> str:
        names = [str(label) for label in students[group[:4]]]
        return ", ".join(names) + (f", ... ({group.size} students)" if group.size > 4 else "")

    copies = sum(group.size - 1 for group in groups)
    listed = "; ".join(shown(group) for group in groups[:LISTED])
    rest = f"; and {len(groups) - LISTED} more groups" if len(groups) > LISTED else ""
    return DuplicateStudentsError(
        f"students must be independent; got {copies} of {len(students)} that copy the predictions of another: students "
        f"{listed}{rest}. The usual cause is a seed set inside the loop over students, which gives each of them the "
        "same teacher responses and initial weights: seed once, outside the loop"
    )


def _suspects(
    rows: FloatArray,
    problem: DistillationProblem,
    law: NoiseLaw | None,
    smoother: Smoother | None,
    rounding: FloatArray,
) -> NDArray[np.int64]:
    """Return the students that must differ from each other."""
    everyone, nobody = np.arange(rows.shape[0]), np.empty(0, dtype=np.int64)
    if isinstance(law, UserLaw) and _has_atoms(law):
        return nobody
    if isinstance(problem.student, LinearStudent):
        sd = np.sqrt(_expected_variance(problem, smoother or smoother_of(problem)))
        reached = np.repeat(sd, problem.gaussian_teacher.n_outputs) > ROUNDINGS * rounding
        return everyone if reached.any() else nobody
    if _reaches_every_student(_response_variances(problem), problem):
        return everyone
    if isinstance(problem.student, BayesianLinearStudent) or not _is_started_apart(problem):
        return nobody
    by_point = rows.reshape(rows.shape[0], problem.n_points, -1)
    return np.flatnonzero((np.ptp(by_point, axis=1) > 0.0).any(axis=1))


def _is_started_apart(problem: DistillationProblem) -> bool:
    """Whether networks start from parameters of their own."""
    unperturbed = isinstance(problem.student, NetworkStudent) and problem.student.perturbation_sd == 0.0
    return "student_initialization" in problem.design.sources and not unperturbed


def _reaches_every_student(variances: FloatArray, problem: DistillationProblem) -> bool:
    """Whether labels of these variances differ between students: all rows of a resample may be noiseless ones."""
    noisy = variances > np.finfo(np.float64).eps * variances.max(initial=0.0)
    return bool(noisy.any() if problem.resample_size is None else noisy.all())


def _response_variances(problem: DistillationProblem) -> FloatArray:
    """Variance over students of what a network is trained on, per input."""
    teacher, k = problem.gaussian_teacher, problem.design.n_responses
    if "teacher_output" not in problem.design.sources:
        return np.zeros(teacher.n_inputs)
    averaged = problem.design.strategy != "multi_response"
    share = max(0.0, 1.0 + (k - 1) * teacher.response_correlation) / k if averaged else 1.0
    fitting = 0.0 if teacher.fitting_covariance is None else np.diag(teacher.fitting_covariance)
    return np.asarray(share * teacher.variances + fitting)


def _expected_variance(problem: DistillationProblem, smoother: Smoother) -> FloatArray:
    """Variance over linear students at the query points, to first order where rows are resampled, shape (m,)."""
    assert isinstance(problem.student, LinearStudent)
    query, n = augment(problem.X_query, problem.student), problem.gaussian_teacher.n_inputs
    covariance = label_law(problem, smoother).full_covariance()
    variance = np.zeros(query.shape[0])
    if _reaches_every_student(np.diag(covariance), problem):
        from_labels = query @ (smoother.coefficient_map @ smoother.whiten(np.eye(n)))
        variance = np.einsum("ij,ij->i", from_labels @ covariance, from_labels)
    if smoother.initial_map is not None:
        variance = variance + initialization_variance(problem) * ((query @ smoother.initial_map) ** 2).sum(axis=1)
    return np.maximum(variance, 0.0)


def _precision(predictions: NDArray[Any]) -> float:
    with np.errstate(over="ignore"):
        single = predictions.dtype == np.float32 or np.array_equal(predictions, predictions.astype(np.float32))
    return float(np.finfo(np.float32 if single else np.float64).eps)


def _has_atoms(law: NoiseLaw) -> bool:
    draws = law.sample(np.random.Generator(np.random.Philox(0)), (ATOM_DRAWS, 1))
    return np.unique(draws).size < ATOM_DRAWS


def _is_chance(n_pairs: int, n_students: int, width: FloatArray, spread: FloatArray) -> bool:
    """Whether so many pairs agree at the best resolved point of Gaussian students by the width of the numbers."""
    from scipy.special import pdtrc

    varied = spread > 0.0
    if not varied.any():
        return False
    chance = float((width[varied] / (np.sqrt(np.pi) * spread[varied])).min())
    expected = 0.5 * n_students * (n_students - 1) * min(chance, 1.0)
    return float(pdtrc(n_pairs - 1, expected)) > FALSE_ALARM
