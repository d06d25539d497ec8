"""Softmax students on request: what is refused and warned about, and what the seeds promise."""

import warnings

import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import (
    ApproximationWarning,
    ObservationError,
    PredictionError,
    ProblemError,
    RankDeficientError,
    UnsupportedProblemError,
)

LINE = np.linspace(-2.0, 2.0, 30)[:, None]
STEEP = 1.0 / (1.0 + np.exp(-6.0 * LINE[:, 0]))


def problem(probability=STEEP, X=LINE, *, penalty=0.0, **design):
    return kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(np.column_stack([1.0 - probability, probability]), X),
        student=kd.SoftmaxStudent(penalty=penalty),
        design=kd.Design(**design),
    )


def test_labels_that_a_rule_separates_are_refused_by_name():
    with pytest.raises(
        ObservationError, match=r"labels of student \d+ have no finite fit: a linear rule separates .*p"
    ):
        kd.observe(problem(), n_students=100, rng=1)
    with pytest.raises(PredictionError, match="have no finite fit: a linear rule separates"):
        kd.predict(problem(), engine="monte_carlo", n_students=100, rng=1)
    assert kd.observe(problem(penalty=1.0), n_students=100, rng=1).n_students == 100


def test_a_teacher_that_a_rule_separates_is_refused():
    hard = problem((LINE[:, 0] > 0).astype(float))
    for ask in (kd.predict, kd.observe):
        with pytest.raises(
            PredictionError, match="mean labels have no finite fit: a linear rule separates the classes"
        ):
            ask(hard)


def test_a_prediction_warns_of_label_sets_without_a_fit():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ApproximationWarning)
        found = kd.predict(problem())
    assert any("sets of labels have no finite fit" in str(warning.message) for warning in caught)
    assert 0 < found.attrs["n_without_fit"] < 64


def test_a_prediction_warns_where_first_order_fails():
    rng = np.random.default_rng(0)
    X = 2.0 * rng.normal(size=(40, 8))
    strong = problem(1.0 / (1.0 + np.exp(-X[:, 0])), X, penalty=0.02, n_responses=1)
    strong = strong.with_design(X_query=2.0 * rng.normal(size=(20, 8)))
    with pytest.warns(ApproximationWarning, match="first order is not shown to hold"):
        found = kd.predict(strong)
    assert abs(found.attrs["relative_error"]) > 0.1


def test_columns_that_repeat_each_other_are_named():
    double = problem(X=np.hstack([LINE, 2.0 * LINE]), n_responses=50)
    for ask in (kd.predict, kd.observe):
        with pytest.raises(RankDeficientError, match="x1"):
            ask(double)
    penalised = double.with_student(penalty=1.0)
    assert np.isfinite(kd.predict(penalised).total).all()


def test_the_first_students_of_a_larger_run_are_the_same():
    asked = problem(penalty=1.0)
    few, more = (kd.observe(asked, n_students=count, rng=4).student_predictions for count in (9, 300))
    np.testing.assert_array_equal(few, more[:9])


def test_drawn_outputs_agree_with_known_variances():
    asked = problem(0.3 + 0.4 * STEEP, penalty=0.1)
    known, drawn = (kd.observe(asked, n_students=600, rng=4, n_replicates=r).average() for r in (None, 20))
    for name in ("inter_student", "intra_student"):
        gap = float((known.estimate[name] - drawn.estimate[name]).squeeze())
        assert abs(gap) < 4.0 * float(drawn.standard_error[name].squeeze())


def test_resampled_students_differ_on_soft_labels():
    asked = problem(penalty=1.0, strategy="soft_labels", resample_size=30)
    assert float(kd.observe(asked, n_students=20, rng=1).inter_student.mean()) > 0.0
    assert float(kd.predict(asked).inter_student.mean()) > 0.0


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: kd.SoftmaxStudent(penalty=-1.0), "`penalty` must be at least 0; got -1"),
        (lambda: kd.SoftmaxStudent(fit_intercept="yes"), "`fit_intercept` must be"),
        (lambda: kd.predict(problem(penalty=1.0), n_check_students=3), "`n_check_students` must be at least 8"),
        (lambda: kd.predict(problem(penalty=1.0), n_check_students=300), "`n_check_students` must be at most 256"),
        (
            lambda: kd.predict(problem(penalty=1.0), engine="monte_carlo", noise_law="laplace"),
            "`noise_law` must be left out for a SoftmaxStudent",
        ),
        (
            lambda: kd.DistillationProblem(
                teacher=kd.GaussianTeacher(LINE, STEEP), student=kd.SoftmaxStudent(), design=kd.Design()
            ),
            "`student` must be a .* for a GaussianTeacher; got a SoftmaxStudent",
        ),
        (
            lambda: kd.DistillationProblem(
                teacher=kd.CategoricalTeacher([[0.5, 0.5]]), student=kd.SoftmaxStudent(), design=kd.Design()
            ),
            "`X` must be given",
        ),
    ],
)
def test_bad_input(ask, message):
    with pytest.raises(ProblemError, match=message):
        ask()


def test_engines_say_whom_they_serve():
    other = kd.DistillationProblem(
        teacher=kd.CategoricalTeacher([[0.5, 0.5]]), student=kd.TabularStudent(), design=kd.Design()
    )
    with pytest.raises(UnsupportedProblemError, match="engine 'softmax' fits a SoftmaxStudent; got a TabularStudent"):
        kd.observe(other, engine="softmax")


def test_text_form_reads_back_the_same():
    asked = problem(penalty=0.25, n_responses=3)
    assert kd.DistillationProblem.from_toml(asked.to_toml()).fingerprint() == asked.fingerprint()


def test_prediction_and_students_are_compared():
    asked = problem(0.2 + 0.6 * STEEP, n_responses=20)
    verdict = kd.compare(kd.predict(asked, covariance=True), kd.observe(asked, n_students=600, rng=2))
    assert verdict.verdict == "agree"
    wrong = kd.predict(asked.with_design(n_responses=10))
    assert kd.compare(wrong, kd.observe(asked, n_students=600, rng=2)).verdict == "disagree"
