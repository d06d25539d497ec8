"""Coefficient maps of linear students against inverses, expanded rows and single steps."""

import numpy as np
import pytest

import kdstats as kd
from kdstats.linear.label_law import label_law
from kdstats.linear.smoother import augment, smoother
from kdstats.problem.design import pilot_split

RNG = np.random.default_rng(3)
N, P = 10, 3
X = RNG.normal(size=(N, P)) + 0.5
MEAN = np.sin(X).sum(axis=1)
ROOT = RNG.normal(size=(N, N))
V = ROOT @ ROOT.T / N + 0.3 * np.eye(N)
WEIGHTS = RNG.uniform(0.5, 2.0, N)


def make(teacher=None, design=None, **student):
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, MEAN, **teacher or {}),
        student=kd.LinearStudent(**student),
        design=kd.Design(**design or {}),
    )


def raw_map(found):
    """From raw labels to coefficients."""
    return found.coefficient_map @ found.whiten(np.eye(N))


CASES = {
    "ols": ({}, {}, np.eye(N)),
    "ridge": ({"penalty": 2.0}, {}, np.eye(N)),
    "wls": ({"weights": WEIGHTS}, {}, np.diag(1 / WEIGHTS)),
    "weighted_ridge": ({"weights": WEIGHTS, "penalty": 2.0}, {}, np.diag(1 / WEIGHTS)),
    "gls": ({"covariance": V}, {}, V),
    "gls_teacher": ({"covariance": "teacher"}, {"noise_variance": V}, V),
    "gls_teacher_diagonal": ({"covariance": "teacher"}, {"noise_variance": np.diag(V)}, np.diag(np.diag(V))),
    "gls_ridge": ({"covariance": V, "penalty": 0.5}, {}, V),
}


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_exact_students_against_inverse(name, fit_intercept):
    student, teacher, working = CASES[name]
    problem = make(teacher, fit_intercept=fit_intercept, **student)
    found = smoother(problem)
    D = augment(X, problem.student)
    penalised = np.diag([0.0] * fit_intercept + [1.0] * P)
    precision = np.linalg.inv(working)
    expected = np.linalg.inv(D.T @ precision @ D + student.get("penalty", 0.0) * penalised) @ D.T @ precision
    np.testing.assert_allclose(raw_map(found), expected, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(found.raw_hat, D @ expected, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(found.coefficients(found.whiten(MEAN)), expected @ MEAN, rtol=1e-11)
    residual = found.whiten(MEAN - D @ expected @ MEAN)
    np.testing.assert_allclose(found.residuals(found.whiten(MEAN)), residual, atol=1e-12)
    hat = found.hat
    assert found.residual_degrees_of_freedom == pytest.approx(N - np.trace(2 * hat - hat @ hat.T), rel=1e-11)
    assert found.mean_working_variance == pytest.approx(np.mean(np.diag(working)))
    if "penalty" not in student:
        assert found.residual_degrees_of_freedom == pytest.approx(N - P - fit_intercept, abs=1e-12)
        np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(P + fit_intercept), atol=1e-13)


def test_intercept_is_not_penalised():
    found = smoother(make(penalty=1e12))
    np.testing.assert_allclose(raw_map(found)[0], 1 / N, rtol=1e-9)
    assert np.abs(raw_map(found)[1:]).max() < 1e-9


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("penalty", [0.0, 1.5])
@pytest.mark.parametrize("n_steps", [1, 2, 30])
def test_gradient_steps_against_the_loop(n_steps, penalty, k):
    training = kd.GradientDescent(n_steps=n_steps, learning_rate=0.07)
    strategy = "multi_response" if k > 1 else "single"
    problem = make(design={"n_responses": k, "strategy": strategy}, penalty=penalty, training=training, weights=WEIGHTS)
    found = smoother(problem)
    responses = RNG.normal(size=(k, N))
    start = w = RNG.normal(size=P + 1)
    D = np.tile(augment(X, problem.student), (k, 1))
    weights = np.tile(WEIGHTS, k)
    for _ in range(n_steps):  # every one of the kn rows is seen
        error = D @ w - responses.ravel()
        gradient = 2 * D.T @ (weights * error) / (k * N) + 2 * penalty * np.r_[0.0, w[1:]] / (k * N)
        w = w - 0.07 * gradient
    expected = raw_map(found) @ responses.mean(axis=0) + found.initial_map @ start
    np.testing.assert_allclose(expected, w, rtol=1e-11)


def test_many_steps_reach_the_minimiser():
    training = kd.GradientDescent(n_steps=200_000, learning_rate=0.1)
    np.testing.assert_allclose(raw_map(smoother(make(training=training))), raw_map(smoother(make())), atol=1e-10)


def test_few_tiny_steps_keep_their_digits():
    training = kd.GradientDescent(n_steps=2, learning_rate=1e-14)
    found = smoother(make(training=training, fit_intercept=False))
    np.testing.assert_allclose(raw_map(found), 2 * 2e-14 * X.T / N, rtol=1e-10)


def test_the_largest_learning_rate_is_where_steps_stop_contracting():
    D = np.column_stack([np.ones(N), X])
    limit = N / np.linalg.eigvalsh(D.T @ D)[-1]
    smoother(make(training=kd.GradientDescent(n_steps=2, learning_rate=limit * 0.999)))
    with pytest.raises(kd.errors.ProblemError, match=f"`learning_rate` must be less than {limit:.4g} for these inputs"):
        smoother(make(training=kd.GradientDescent(n_steps=2, learning_rate=limit * 1.001)))


@pytest.mark.parametrize("student", [{"covariance": "teacher"}, {"weights": "estimated"}])
def test_weights_need_noise_everywhere(student):
    noise = np.r_[np.ones(N - 1), 0.0]
    with pytest.raises(
        kd.errors.ProblemError, match=f"`noise_variance` must be greater than 0 at every input.*index {N - 1}"
    ):
        smoother(make({"noise_variance": noise}, {"n_responses": 8}, **student))


def test_singular_teacher_covariance_is_refused():
    with pytest.raises(kd.errors.ProblemError, match="`covariance` must be positive definite; got a singular matrix"):
        smoother(make({"noise_variance": np.ones((N, N))}, covariance="teacher"))


def test_label_law_in_the_fewest_dimensions():
    for teacher, ndim in (
        ({}, 0),
        ({"noise_variance": WEIGHTS}, 1),
        ({"noise_variance": V}, 2),
        ({"input_correlation": 0.1}, 2),
    ):
        problem = make(teacher, {"n_responses": 2})
        law = label_law(problem, smoother(problem))
        assert law.covariance.ndim == ndim
        np.testing.assert_allclose(law.full_covariance(), problem.teacher.covariance / 2, rtol=1e-14)
        assert law.is_gaussian


@pytest.mark.parametrize("k", [2, 3, 9])
def test_pilot_split_uses_every_response_once(k):
    first, second = pilot_split(k)
    assert first + second == k
    assert min(first, second) >= 1
