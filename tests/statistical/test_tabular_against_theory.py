"""Students that memorise classes: fitted to drawn classes, against the exact components."""

import numpy as np
import pytest

import kdstats as kd
from kdstats.observation.categorical import observe

ROUNDING = 1e-12
PROBABILITIES = np.array([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0], [0.05, 0.05, 0.9]])


def problem(k, *, correlation=0.0, pseudo_count=0.0, **design):
    return kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(PROBABILITIES, response_correlation=correlation),
        student=kd.TabularStudent(pseudo_count=pseudo_count),
        design=kd.Design(n_responses=k, **design),
    )


def largest_error(seen, predicted):
    """In standard errors of the observation; one that is mere rounding belongs to a constant."""
    worst = 0.0
    for name in ("inter_student", "intra_student", "total"):
        error = np.abs((seen.estimate[name] - predicted.estimate[name]).values)
        se = seen.standard_error[name].values
        random = se > ROUNDING
        assert (error[~random] < ROUNDING).all()
        worst = max(worst, (error[random] / se[random]).max(initial=0.0))
    return worst


@pytest.mark.parametrize(
    "asked",
    [
        problem(1),
        problem(5),
        problem(5, correlation=0.4),
        problem(5, correlation=1.0),
        problem(4, pseudo_count=0.5),
        problem(4, pseudo_count=[0.1, 0.5, 1.0], correlation=0.1),
        problem(5, sources=["teacher_output"]),
    ],
)
def test_components_against_theory(asked):
    assert largest_error(observe(asked, n_students=4000, rng=1), kd.predict(asked)) < 4.5


def test_the_comparison_notices_another_correlation():
    seen = observe(problem(5, correlation=0.4), n_students=4000, rng=1)
    assert largest_error(seen, kd.predict(problem(5, correlation=0.3))) > 6.0


def test_distillation_moves_variance_and_makes_none():
    gini = 1.0 - (PROBABILITIES**2).sum(axis=1)
    for k in (1, 2, 10):
        answer = kd.predict(problem(k))
        np.testing.assert_allclose(answer.total.sum("output"), gini)
        np.testing.assert_allclose(answer.inter_student.sum("output"), gini / k)


def test_soft_labels_and_quiet_teachers_have_no_variance_between_students():
    for asked in (problem(3, strategy="soft_labels"), problem(3, sources=["student_output"])):
        for answer in (kd.predict(asked), observe(asked, n_students=50, rng=1)):
            assert (answer.inter_student.values == 0.0).all()
            np.testing.assert_allclose(answer.intra_student, PROBABILITIES * (1.0 - PROBABILITIES))


def test_drawn_answers_against_known_variances():
    seen = observe(problem(3), n_students=2000, rng=2, n_replicates=6)
    assert largest_error(seen, kd.predict(problem(3))) < 4.5
    assert set(np.unique(seen.student_predictions * 3).round(9)) <= {0.0, 1.0, 2.0, 3.0}
