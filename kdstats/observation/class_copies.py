"""Students of sampled classes that copy another, told from those that were given the same labels by chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

from kdstats.observation.duplicates import FALSE_ALARM, agreeing_students, duplicate_error
from kdstats.problem.categorical import DirichletStudent, TabularStudent
from kdstats.problem.specification import DistillationProblem

__all__ = ["chance_of_agreement", "refuse_copied_classes"]

FloatArray = NDArray[np.float64]


def refuse_copied_classes(probabilities: FloatArray, problem: DistillationProblem) -> None:
    r"""Raise an error if more pairs of students are equal than equal labels explain.

    Nothing is refused where students may rightly be equal: their labels do not vary, or rows are resampled.

    Parameters
    ----------
    probabilities : (S, m, C) ndarray
        Of each student.
    problem : DistillationProblem
        With a :class:`~kdstats.CategoricalTeacher`.

    Raises
    ------
    DuplicateStudentsError
        Where so many equal pairs have a probability below one in a million.

    Notes
    -----
    Pairs share students, so that their number has wider tails than a Poisson law: where the likeliest labels have a
    probability of their own, a few more students with them make thousands of pairs. Two bounds hold for all: n pairs or
    more have at most the probability expected / n (Markov), and a share u of the pairs at most
    :math:`e^{-\lfloor S/2\rfloor\,KL(u\Vert p)}` (Hoeffding 1963, section 5, for U-statistics).
    """
    design = problem.design
    if "teacher_output" not in design.sources or design.strategy == "soft_labels" or problem.resample_size is not None:
        return
    rows = probabilities.reshape(len(probabilities), -1)
    groups = agreeing_students(rows, np.zeros(rows.shape[1]))
    n_pairs = sum(len(group) * (len(group) - 1) // 2 for group in groups)
    if n_pairs and _tail(n_pairs, len(rows), chance_of_agreement(problem)) < FALSE_ALARM:
        raise duplicate_error(groups, np.arange(len(rows)))


def _tail(n_pairs: int, n_students: int, chance: float) -> float:
    """Return at most how probable so many equal pairs are."""
    most = 0.5 * n_students * (n_students - 1)
    share = n_pairs / most
    if share <= chance:
        return 1.0
    divergence = float(rel_entr(share, chance) + rel_entr(1.0 - share, 1.0 - chance))
    return min(most * chance / n_pairs, float(np.exp(-(n_students // 2) * divergence)))


def chance_of_agreement(problem: DistillationProblem) -> float:
    r"""Return at most how probable it is that two independent students are equal.

    Parameters
    ----------
    problem : DistillationProblem
        With a :class:`~kdstats.CategoricalTeacher`.

    Returns
    -------
    float
        For students that memorise, whose counts must be equal at every input, :math:`\prod_i\sum_c p_{ic}^2`: exact for
        one response, and for more a bound, as independent summands can only spread a law. Others may be the same for
        different labels: a softmax student for all with the same :math:`X^\top` counts, whatever lattice the inputs lie
        on. Of these only the totals by class are required to be equal, by the normal law and twice that for its error.
    """
    teacher, k = problem.categorical_teacher, problem.design.n_responses
    p = teacher.probabilities
    if isinstance(problem.student, TabularStudent | DirichletStudent):
        return float(np.exp(np.log((p**2).sum(axis=1)).sum()))
    inflation = k * (1.0 + (k - 1) * teacher.response_correlation)
    covariance = inflation * (np.diag(p.sum(axis=0)) - p.T @ p)
    spread = np.linalg.eigvalsh(covariance)[1:]  # totals sum to kn
    wide = spread[spread > 1.0 / (4.0 * np.pi)]
    return float(min(1.0, 2.0 * np.prod(1.0 / np.sqrt(4.0 * np.pi * wide)) * np.sqrt(p.shape[1])))
