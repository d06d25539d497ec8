"""Teachers of classes and tabular students: what they say, what they refuse, how they are written."""

import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import ProblemError, UnsupportedProblemError

P = [[0.5, 0.3, 0.2], [0.0, 0.4, 0.6]]
X = [[1.0, 2.0], [3.0, 4.0]]


def problem(teacher=None, student=None, query=None, **design):
    return kd.DistillationProblem(
        teacher=teacher or kd.CategoricalTeacher(P),
        student=student or kd.TabularStudent(),
        design=kd.Design(query, **design),
    )


def test_what_a_teacher_of_classes_is():
    teacher = kd.CategoricalTeacher(P, X, class_labels=["a", "b", "c"])
    assert (teacher.n_inputs, teacher.n_features, teacher.n_outputs) == (2, 2, 3)
    assert teacher.output_labels == ("a", "b", "c")
    np.testing.assert_allclose(teacher.gini, [1 - 0.38, 1 - 0.52])
    assert kd.CategoricalTeacher(P).n_features == 0
    rounded = kd.CategoricalTeacher(np.round([[1 / 3, 1 / 3, 1 / 3]], 7))
    assert rounded.probabilities.sum() == pytest.approx(1.0, abs=1e-15)


def test_temperature_and_truncation():
    teacher = kd.CategoricalTeacher(P, X)
    np.testing.assert_allclose(teacher.at_temperature(1.0).probabilities, P)
    squared = np.array(P) ** 2
    np.testing.assert_allclose(teacher.at_temperature(0.5).probabilities, squared / squared.sum(axis=1, keepdims=True))
    cold = teacher.at_temperature(1e-3).probabilities
    np.testing.assert_allclose(cold, [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], atol=1e-12)
    np.testing.assert_allclose(teacher.truncated(top_k=1).probabilities, [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(teacher.truncated(top_p=0.55).probabilities, [[0.625, 0.375, 0], [0, 0, 1]])
    np.testing.assert_allclose(teacher.truncated(top_p=1.0).probabilities, P)


BAD = [
    (lambda: kd.CategoricalTeacher([[0.5, 0.6]]), "`probabilities` must sum to 1 in every row; got 1.1 in row 0"),
    (lambda: kd.CategoricalTeacher([[1.5, -0.5]]), r"`probabilities` must be at least 0; got -0.5 at index \(0, 1\)"),
    (lambda: kd.CategoricalTeacher([[1.0]]), "`probabilities` must have at least 2 columns, one per class; got 1"),
    (lambda: kd.CategoricalTeacher([[np.nan, 1.0]]), "`probabilities` must be finite everywhere"),
    (lambda: kd.CategoricalTeacher([0.5, 0.5]), "`probabilities` must have 2 dimensions"),
    (lambda: kd.CategoricalTeacher(P, X[:1]), r"`X` must have one row per row of probabilities \(2\); got 1"),
    (lambda: kd.CategoricalTeacher(P, response_correlation=-0.1), "`response_correlation` must be at least 0"),
    (lambda: kd.CategoricalTeacher(P, class_labels="ab"), "`class_labels` must be a sequence of 3 labels"),
    (lambda: kd.CategoricalTeacher(P).at_temperature(0.0), "`temperature` must be greater than 0; got 0.0"),
    (lambda: kd.CategoricalTeacher(P).truncated(top_k=0), "`top_k` must be at least 1; got 0"),
    (lambda: kd.CategoricalTeacher(P).truncated(top_p=0.0), "`top_p` must be greater than 0; got 0.0"),
    (lambda: kd.TabularStudent(pseudo_count=-1.0), "`pseudo_count` must be at least 0; got -1.0"),
    (
        lambda: problem(student=kd.LinearStudent()),
        "`student` must be a TabularStudent, DirichletStudent, NetworkStudent, SoftmaxStudent or BayesianStudent for",
    ),
    (
        lambda: problem(kd.GaussianTeacher(X, [1.0, 2.0])),
        "`student` must be a .* for a GaussianTeacher; got a TabularSt",
    ),
    (lambda: problem(query=X), "`X_query` must be left out for a TabularStudent"),
    (lambda: problem(resample_size=2), "`sources` must be without 'data_resampling' for a TabularStudent"),
    (lambda: problem(n_generations=2), "`n_generations` must be 1 for a CategoricalTeacher; got 2"),
    (lambda: problem(n_responses=3, strategy="variance_weighting"), "`strategy` must be single, averaging"),
    (
        lambda: problem(student=kd.TabularStudent(pseudo_count=[1.0, 1.0])),
        r"`pseudo_count` must have one entry .*\(3\)",
    ),
    (
        lambda: problem(kd.GaussianTeacher(X, [1.0, 2.0]), kd.LinearStudent(), strategy="soft_labels"),
        "`strategy` must be another for a GaussianTeacher",
    ),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_input(make, message):
    with pytest.raises(ProblemError, match=message):
        make()


def test_text_form_reads_back_the_same():
    teacher = kd.CategoricalTeacher(P, response_correlation=0.25, class_labels=("a", "b", "c"))
    asked = problem(teacher, kd.TabularStudent(pseudo_count=[0.1, 0.2, 0.3]), n_responses=4)
    assert kd.DistillationProblem.from_toml(asked.to_toml()).fingerprint() == asked.fingerprint()
    assert asked.with_teacher(response_correlation=0.5).fingerprint() != asked.fingerprint()
    bayes = problem(teacher, kd.DirichletStudent(prior_count=[0.1, 0.2, 0.3]), n_responses=4)
    assert kd.DistillationProblem.from_toml(bayes.to_toml()).fingerprint() == bayes.fingerprint()
    assert bayes.fingerprint() != asked.fingerprint()
    assert bayes.with_student(prior_count=1.0).fingerprint() != bayes.fingerprint()


def test_engines_of_numbers_say_what_they_need():
    asked = problem()
    for ask, engine in ((kd.predict, "monte_carlo"), (kd.observe, "linear"), (kd.observe, "networks")):
        with pytest.raises((UnsupportedProblemError, ProblemError), match="TabularStudent"):
            ask(asked, engine=engine, n_students=5)


def test_a_nucleus_ends_where_its_mass_is_reached():
    for n, mass in ((10, 0.8), (10, 0.3), (20, 0.15), (7, 3 / 7), (50_000, 0.7)):
        kept = kd.CategoricalTeacher(np.full((1, n), 1 / n)).truncated(top_p=mass).probabilities > 0
        assert kept.sum() == round(n * mass)
    tail = kd.CategoricalTeacher([[1 - 3e-12, 2e-12, 1e-12]])
    np.testing.assert_array_equal(tail.truncated(top_p=1.0).probabilities, tail.probabilities)


def test_extreme_temperatures():
    teacher = kd.CategoricalTeacher([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.0, 0.4, 0.6]])
    for cold in (5e-324, 1e-310, 1e-308, 1e-100):
        np.testing.assert_array_equal(teacher.at_temperature(cold).probabilities, [[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1]])
        assert not teacher.entropy_slope(cold).any()
    for hot in (1e120, 1e300, 1.7e308):
        uniform = [[1 / 3, 1 / 3, 1 / 3], [1 / 3, 1 / 3, 1 / 3], [0, 0.5, 0.5]]
        np.testing.assert_allclose(teacher.at_temperature(hot).probabilities, uniform)
        assert not teacher.entropy_slope(hot).any()
    logs = np.log([0.5, 0.3, 0.2])
    np.testing.assert_allclose(teacher.entropy_slope(1e60)[0] * 1e180, logs.var(), rtol=1e-12)
