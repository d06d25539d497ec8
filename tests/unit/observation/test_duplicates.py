"""Copies are refused, coincidences are not."""

import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import DuplicateStudentsError
from kdstats.observation.duplicates import refuse_duplicates
from kdstats.sampling import as_noise_law

X = np.arange(12.0).reshape(6, 2) ** 0.5


def problem(*, student=None, noise=1.0, correlation=0.0, **design):
    teacher = kd.GaussianTeacher(X, X.sum(axis=1), noise_variance=noise, response_correlation=correlation)
    return kd.DistillationProblem(teacher=teacher, student=student or kd.LinearStudent(), design=kd.Design(**design))


def draws(n_students=50, m=6, seed=0, mean=0.0, sd=1.0):
    return mean + sd * np.random.default_rng(seed).standard_normal((n_students, m, 1))


def test_independent_students_pass():
    refuse_duplicates(draws(), problem())


def test_seed_inside_the_loop_is_refused_with_students_and_cause():
    predictions = draws()
    predictions[1:] = predictions[1]
    with pytest.raises(DuplicateStudentsError, match=r"48 of 50 .* 1, 2, .* \(49 students\).*inside the loop"):
        refuse_duplicates(predictions, problem())


def test_all_students_equal_is_refused():
    with pytest.raises(DuplicateStudentsError, match="49 of 50"):
        refuse_duplicates(np.repeat(draws(1), 50, axis=0), problem())


def test_two_separate_pairs_are_both_named():
    predictions = draws()
    predictions[40], predictions[31] = predictions[3], predictions[7]
    with pytest.raises(DuplicateStudentsError, match=r"got 2 of 50 .*students 3, 40; 7, 31\."):
        refuse_duplicates(predictions, problem())


@pytest.mark.parametrize("m", [1, 6])
def test_copies_up_to_rounding_are_refused(m):
    predictions = draws(m=m)
    predictions[9] = predictions[2] * (1 + 2e-16)
    with pytest.raises(DuplicateStudentsError, match=r"students 2, 9\."):
        refuse_duplicates(predictions, problem())


def test_students_closer_than_usual_but_different_pass():
    predictions = draws()
    predictions[9] = predictions[2] + 1e-9
    refuse_duplicates(predictions, problem())


@pytest.mark.parametrize(
    "quiet",
    [
        problem(noise=0.0),
        problem(sources=["student_output"]),
        problem(sources=["data_resampling"], resample_size=2),
        problem(noise=[0, 0, 0, 0, 0, 1.0], resample_size=2),
        problem(n_responses=2, correlation=-1.0),
        problem(student=kd.NetworkStudent(), sources=["student_output"]),
        problem(student=kd.NetworkStudent(), noise=0.0, sources=["teacher_output"]),
        problem(student=kd.LinearStudent(training=kd.GradientDescent(n_steps=5, learning_rate=0.01)), noise=0.0),
        problem(
            student=kd.LinearStudent(
                penalty=1.0, training=kd.GradientDescent(n_steps=20_000, learning_rate=0.05, initialization_sd=1.0)
            ),
            noise=0.0,
        ),
    ],
)
def test_students_that_may_agree_are_let_through(quiet):
    refuse_duplicates(np.repeat(draws(1, mean=1.0), 50, axis=0), quiet)


@pytest.mark.parametrize(
    "live",
    [
        problem(resample_size=3),
        problem(noise=[0, 0, 0, 0, 0, 1.0]),
        problem(n_responses=2, correlation=-0.5),
        problem(student=kd.NetworkStudent(), sources=["student_initialization"]),
        problem(student=kd.NetworkStudent(), n_responses=2, correlation=-1.0, strategy="multi_response"),
        problem(
            student=kd.LinearStudent(training=kd.GradientDescent(n_steps=5, learning_rate=0.01, initialization_sd=0.1)),
            noise=0.0,
        ),
    ],
)
def test_any_source_that_reaches_the_predictions_forbids_copies(live):
    predictions = draws(mean=1.0)
    predictions[1] = predictions[0]
    with pytest.raises(DuplicateStudentsError):
        refuse_duplicates(predictions, live)


def test_dead_networks_may_agree_when_only_the_initialization_varies():
    only_start = problem(student=kd.NetworkStudent(), sources=["student_initialization"])
    predictions = draws()
    predictions[[3, 5, 8]] = 2.5
    refuse_duplicates(predictions, only_start)
    with pytest.raises(DuplicateStudentsError):
        refuse_duplicates(predictions, problem(student=kd.NetworkStudent()))


def test_coincidences_of_coarse_numbers_are_not_copies():
    """20,000 float32 numbers in one column coincide some ten times; a copy of many students stands out still."""
    predictions = draws(20_000, m=1, mean=1.0).astype(np.float32)
    assert np.unique(predictions).size < 20_000
    refuse_duplicates(predictions, problem())
    refuse_duplicates(predictions.astype(np.float64), problem())
    predictions[:2000] = predictions[0]
    with pytest.raises(DuplicateStudentsError):
        refuse_duplicates(predictions, problem())


def test_spread_below_the_resolution_of_the_mean_is_not_a_copy():
    refuse_duplicates(draws(5000, m=1, mean=1e9, sd=1e-4), problem())


def test_noise_with_atoms_may_repeat_itself():
    predictions = draws()
    predictions[1] = predictions[0]
    signs = as_noise_law(lambda generator, size: generator.choice([-1.0, 1.0], size))
    refuse_duplicates(predictions, problem(), law=signs)
    with pytest.raises(DuplicateStudentsError):
        refuse_duplicates(predictions, problem(), law=as_noise_law("laplace"))
