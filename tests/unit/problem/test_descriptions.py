"""Teachers, students and designs: canonical values that cannot change under their owner."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import kdstats as kd
from kdstats.problem import SOURCES

X = np.random.default_rng(0).normal(size=(6, 2))
MEAN = np.arange(6.0)


def test_teacher_keeps_read_only_copies():
    inputs, mean, noise = X.copy(), MEAN.copy(), np.eye(6)
    teacher = kd.GaussianTeacher(inputs, mean, noise_variance=noise, fitting_covariance=noise)
    inputs[0, 0], mean[0], noise[0, 0] = 99.0, 99.0, 99.0
    np.testing.assert_array_equal(teacher.X, X)
    np.testing.assert_array_equal(teacher.mean, MEAN)
    np.testing.assert_array_equal(teacher.covariance, np.eye(6))
    for array in (teacher.X, teacher.mean, teacher.noise_variance, teacher.fitting_covariance, teacher.covariance):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        teacher.mean = MEAN


@pytest.mark.parametrize("noise", [0.5, np.linspace(1, 2, 6)])
@pytest.mark.parametrize("r", [0.0, 0.3, -0.2])
def test_teacher_covariance_against_definition(noise, r):
    teacher = kd.GaussianTeacher(X, MEAN, noise_variance=noise, input_correlation=r)
    variances = np.broadcast_to(noise, 6)
    expected = np.array(
        [[np.sqrt(a * b) * (1.0 if i == j else r) for j, b in enumerate(variances)] for i, a in enumerate(variances)]
    )
    np.testing.assert_allclose(teacher.covariance, expected, rtol=1e-15)
    np.testing.assert_array_equal(teacher.variances, variances)
    assert teacher.is_diagonal == (r == 0.0)


def test_teacher_sizes_and_names():
    frame = pd.DataFrame(X, columns=["rooms", "tax"])
    teacher = kd.GaussianTeacher(frame, np.column_stack([MEAN, MEAN]))
    assert (teacher.n_inputs, teacher.n_features, teacher.n_outputs) == (6, 2, 2)
    assert teacher.feature_names == ("rooms", "tax")
    assert kd.GaussianTeacher(X, MEAN).feature_names == ("x0", "x1")
    assert kd.GaussianTeacher(X, MEAN).mean_by_output.shape == (6, 1)


def test_covariance_loses_rounding_only():
    noisy = np.eye(6) + 1e-13 * np.triu(np.ones((6, 6)), 1)
    covariance = kd.GaussianTeacher(X, MEAN, noise_variance=noisy).covariance
    np.testing.assert_array_equal(covariance, covariance.T)


@pytest.mark.parametrize(("k", "strategy"), [(1, "single"), (2, "averaging")])
def test_default_strategy(k, strategy):
    assert kd.Design(n_responses=k).strategy == strategy


def test_default_sources():
    everything = set(SOURCES)
    assert kd.Design().sources == everything - {"data_resampling"}
    assert kd.Design(resample_size=3).sources == everything
    assert kd.Design(sources=[]).sources == frozenset()
    assert kd.Design(sources="teacher_output").sources == {"teacher_output"}
    assert kd.Design(sources=(s for s in SOURCES)).sources == everything


def test_labels_come_from_the_index():
    frame = pd.DataFrame(X, index=list("abcdef"))
    assert kd.Design(frame).point_labels == tuple("abcdef")
    assert kd.Design(frame, point_labels=range(6)).point_labels == (0, 1, 2, 3, 4, 5)
    assert kd.Design(X).point_labels is None


def test_numpy_numbers_become_plain():
    design = kd.Design(n_responses=np.int64(3), resample_size=np.int32(4), n_generations=np.int8(1))
    assert [type(v) for v in (design.n_responses, design.resample_size, design.n_generations)] == [int] * 3
    student = kd.LinearStudent(fit_intercept=np.bool_(False), minimum_norm=np.True_, penalty=np.float32(0))
    assert [type(v) for v in (student.fit_intercept, student.minimum_norm, student.penalty)] == [bool, bool, float]
    assert type(kd.GradientDescent(n_steps=np.int64(2), learning_rate=np.float64(0.1)).n_steps) is int
    assert type(kd.NetworkStudent(epochs=np.int64(2)).epochs) is int
    assert kd.NetworkStudent(hidden=[np.int64(3), 4]).hidden == (3, 4)


def test_weighting_kinds():
    assert kd.VarianceWeighting().uses_pilot
    oracle = kd.VarianceWeighting(student_estimate="teacher_mean", weight="estimated")
    assert oracle.is_oracle
    assert oracle.weight_is_estimated
    fixed = kd.VarianceWeighting(student_estimate=MEAN)
    assert not fixed.is_oracle
    assert not fixed.uses_pilot
    assert fixed.student_variance == 0.0


def test_problem_sizes():
    teacher = kd.GaussianTeacher(X, MEAN)
    problem = kd.DistillationProblem(teacher=teacher, student=kd.LinearStudent(), design=kd.Design())
    np.testing.assert_array_equal(problem.X_query, X)
    assert problem.n_points == 6
    assert problem.point_labels == tuple(range(6))
    assert problem.resample_size is None
    assert problem.with_design(sources=SOURCES).resample_size == 6
    assert problem.with_design(resample_size=4).resample_size == 4
    assert problem.with_design(n_responses=3).design.strategy == "averaging"
    assert problem.with_teacher(noise_variance=2.0).teacher.noise_variance == 2.0
    assert problem.with_student(penalty=2.0).student.penalty == 2.0
    assert problem.design.n_responses == 1  # the first is as it was


def test_fingerprint_sees_every_field():
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, MEAN), student=kd.LinearStudent(), design=kd.Design(n_responses=2)
    )
    changed = [
        problem.with_teacher(noise_variance=np.nextafter(1.0, 2.0)),
        problem.with_teacher(noise_variance=np.ones(6)),
        problem.with_teacher(mean=MEAN[:, None]),
        problem.with_teacher(response_correlation=0.1),
        problem.with_teacher(feature_names=("a", "b")),
        problem.with_student(penalty=1e-300),
        problem.with_student(weights=np.ones(6)),
        problem.with_student(covariance=np.eye(6)),
        problem.with_student(training=kd.GradientDescent(n_steps=1, learning_rate=0.1)),
        problem.with_design(n_responses=3),
        problem.with_design(strategy="multi_response"),
        problem.with_design(sources=("teacher_output",)),
        problem.with_design(X_query=X),
        problem.with_design(point_labels=list("abcdef")),
        problem.with_design(strategy="variance_weighting"),
    ]
    prints = {problem.fingerprint(), *(other.fingerprint() for other in changed)}
    assert len(prints) == len(changed) + 1
    same = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(np.asfortranarray(X), list(MEAN)),
        student=kd.LinearStudent(),
        design=kd.Design(n_responses=np.int64(2)),
    )
    assert same.fingerprint() == problem.fingerprint()
