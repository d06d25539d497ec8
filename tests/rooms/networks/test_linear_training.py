"""Linear students trained by gradients against formulas and solvers that share nothing with them."""

import numpy as np
import pytest

from kdstats.errors import DivergedStudentError, ObservationError, PrecisionWarning, RankDeficientError
from kdstats.networks.linear_training import descend, minimise
from kdstats.problem.student import GradientDescent

N_STUDENTS, N, P = 5, 40, 3


@pytest.fixture
def sets():
    generator = np.random.default_rng(0)
    X = np.hstack([np.ones((N, 1)), generator.normal(size=(N, P)) * [1.0, 30.0, 0.2] + [0.0, 100.0, 2.0]])
    return X, generator.normal(size=(N_STUDENTS, N, 2)) + 7.0


@pytest.fixture
def counts():
    return np.random.default_rng(1).multinomial(30, np.full(N, 1 / N), size=N_STUDENTS)


def solve(X, y, penalty=0.0, weights=None):
    """Ridge with a free intercept by lstsq on stacked, column-scaled rows."""
    root = np.ones(len(X)) if weights is None else np.sqrt(weights)
    ridge = np.sqrt(penalty) * np.eye(X.shape[1])[1:]
    stacked, rhs = np.vstack([root[:, None] * X, ridge]), np.vstack([root[:, None] * y, np.zeros((len(ridge), 2))])
    scale = np.linalg.norm(stacked, axis=0)
    return np.linalg.lstsq(stacked / scale, rhs, rcond=None)[0] / scale[:, None]


@pytest.mark.parametrize("penalty", [0.0, 4.0])
def test_gradient_steps_against_the_closed_recursion(sets, penalty):
    """w_T = A^T w_0 + (I - A^T)(X'X + penalty)^-1 X'y, with A = I - 2 eta (X'X + penalty)/n (result T13)."""
    X, y = sets
    X = X / [1.0, 1.0, 100.0, 1.0]
    training = GradientDescent(n_steps=70, learning_rate=0.05)
    initial = np.random.default_rng(2).normal(size=(N_STUDENTS, P + 1, 2))
    penalties = np.array([0.0, penalty, penalty, penalty])
    trained = descend(X, y, training=training, penalties=penalties, initial=initial).coefficients
    curvature = X.T @ X + np.diag(penalties)
    power = np.linalg.matrix_power(np.eye(P + 1) - 2 * training.learning_rate / N * curvature, training.n_steps)
    for s in range(N_STUDENTS):
        expected = power @ initial[s] + (np.eye(P + 1) - power) @ np.linalg.solve(curvature, X.T @ y[s])
        np.testing.assert_allclose(trained[s], expected, rtol=1e-10)


def test_gradient_steps_on_resampled_rows_against_the_rows_themselves(sets, counts):
    X, y = sets
    X = X / [1.0, 1.0, 100.0, 1.0]
    training = GradientDescent(n_steps=40, learning_rate=0.05)
    penalties = np.array([0.0, 2.0, 2.0, 2.0])
    trained = descend(X, y, training=training, penalties=penalties, row_weights=counts).coefficients
    for s in range(N_STUDENTS):
        rows = np.repeat(np.arange(N), counts[s])
        weights = np.zeros((P + 1, 2))
        for _ in range(training.n_steps):
            gradient = X[rows].T @ (X[rows] @ weights - y[s][rows]) + penalties[:, None] * weights
            weights -= 2 * training.learning_rate / len(rows) * gradient
        np.testing.assert_allclose(trained[s], weights, rtol=1e-10)


def test_gradient_steps_on_mean_labels_against_all_responses_as_rows(sets):
    X, _ = sets
    X = X / [1.0, 1.0, 100.0, 1.0]
    k, penalty = 4, 6.0
    responses = np.random.default_rng(3).normal(size=(N_STUDENTS, k, N, 2))
    training = GradientDescent(n_steps=40, learning_rate=0.05)
    shape = np.array([0.0, 1.0, 1.0, 1.0])
    means = descend(X, responses.mean(axis=1), training=training, penalties=penalty / k * shape)
    stacked = responses.reshape(N_STUDENTS, k * N, 2)
    rows = descend(np.tile(X, (k, 1)), stacked, training=training, penalties=penalty * shape)
    np.testing.assert_allclose(means.coefficients, rows.coefficients, rtol=1e-10)


@pytest.mark.parametrize("resampled", [False, True])
@pytest.mark.parametrize("penalty", [0.0, 50.0])
def test_exact_students_against_lstsq(sets, counts, penalty, resampled):
    X, y = sets
    weights = counts if resampled else None
    penalties = np.array([0.0, penalty, penalty, penalty])
    trained = minimise(X, y, penalties=penalties, intercept=True, row_weights=weights).coefficients
    for s in range(N_STUDENTS):
        expected = solve(X, y[s], penalty, None if weights is None else weights[s])
        np.testing.assert_allclose(trained[s], expected, rtol=1e-8)


def test_exact_students_without_intercept_against_lstsq(sets):
    X, y = sets
    trained = minimise(X[:, 1:], y, penalties=np.zeros(P), intercept=False).coefficients
    for s in range(N_STUDENTS):
        np.testing.assert_allclose(trained[s], np.linalg.lstsq(X[:, 1:], y[s], rcond=None)[0], rtol=1e-8)


def test_an_intercept_alone_is_the_mean(sets):
    _, y = sets
    trained = minimise(np.ones((N, 1)), y, penalties=np.zeros(1), intercept=True).coefficients
    np.testing.assert_allclose(trained[:, 0], y.mean(axis=1), rtol=1e-14)


def test_labels_without_noise_are_fitted_exactly(sets):
    X, _ = sets
    truth = np.array([[1.0], [2.0], [-0.5], [4.0]])
    trained = minimise(X, (X @ truth)[None], penalties=np.zeros(P + 1), intercept=True).coefficients
    np.testing.assert_allclose(trained[0], truth, rtol=1e-9)


def test_minimum_norm_against_the_pseudo_inverse():
    generator = np.random.default_rng(4)
    slopes = generator.normal(size=(8, 12))
    X, y = np.hstack([np.ones((8, 1)), slopes]), generator.normal(size=(3, 8, 1))
    trained = minimise(X, y, penalties=np.zeros(13), intercept=True, minimum_norm=True).coefficients
    centred = slopes - slopes.mean(axis=0)
    for s in range(3):
        np.testing.assert_allclose(trained[s, 1:], np.linalg.pinv(centred) @ (y[s] - y[s].mean()), rtol=1e-8)


def test_collinear_columns_are_refused(sets):
    X, y = sets
    X = np.hstack([X, X[:, 1:2] - 3.0 * X[:, 2:3]])
    with pytest.raises(RankDeficientError, match="X does not determine the 5 coefficients"):
        minimise(X, y, penalties=np.zeros(5), intercept=True)


def test_a_constant_column_is_refused(sets):
    X, y = sets
    with pytest.raises(RankDeficientError, match="constant"):
        minimise(np.hstack([X, np.ones((N, 1))]), y, penalties=np.zeros(P + 2), intercept=True)


def test_a_resample_with_too_few_inputs_is_refused_by_name(sets):
    X, y = sets
    counts = np.ones((N_STUDENTS, N))
    counts[2] = 0
    counts[2, :P] = 10
    with pytest.raises(RankDeficientError, match="rows of student 258"):
        minimise(X, y, penalties=np.zeros(P + 1), intercept=True, row_weights=counts, first_student=256)


def test_bad_conditioning_warns_with_the_digits_then_refuses():
    x = np.linspace(1, 2, 80)
    y = np.random.default_rng(5).normal(size=(2, 80, 1))
    with pytest.warns(PrecisionWarning, match=r"condition number 1.1e\+05: expect about 6 digits"):
        trained = minimise(np.vander(x, 6, increasing=True), y, penalties=np.zeros(6), intercept=True).coefficients
    vander = np.vander(x, 6, increasing=True)
    expected = np.linalg.lstsq(vander, y[0], rcond=None)[0]
    np.testing.assert_allclose(trained[0], expected, rtol=1e-6)
    with pytest.raises(ObservationError, match=r"condition number 7.3e\+10"):
        minimise(np.vander(x, 11, increasing=True), y, penalties=np.zeros(11), intercept=True)


def test_steps_that_diverge_name_the_student_and_what_to_change(sets):
    X, y = sets
    with pytest.raises(DivergedStudentError, match=r"student 512 diverged .*`learning_rate`.*0\.5"):
        descend(
            X,
            y,
            training=GradientDescent(n_steps=400, learning_rate=0.5),
            penalties=np.zeros(P + 1),
            first_student=512,
        )
