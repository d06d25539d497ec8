"""The residual variance of a student against sums written out row by row."""

import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import ObservationError
from kdstats.observation.predictive import residual_divisor, residual_variance

S, N, K, Q = 3, 9, 4, 2
rng = np.random.default_rng(5)
X = rng.standard_normal((N, 2))
WEIGHTS = np.linspace(0.5, 3.0, N)
ROOT = rng.standard_normal((N, N))
FULL = ROOT @ ROOT.T / N + 0.3 * np.eye(N)
RESPONSES = rng.standard_normal((S, K, N, Q))
FITTED = rng.standard_normal((S, N, Q))
LABELS = RESPONSES.mean(axis=1)
WITHIN = ((RESPONSES - LABELS[:, None]) ** 2).sum(axis=1)
COUNTS = rng.multinomial(7, np.full(N, 1 / N), size=S)


def problem(student, **design):
    teacher = kd.GaussianTeacher(X, X, noise_variance=1.0)
    return kd.DistillationProblem(teacher=teacher, student=student, design=kd.Design(**design))


def quadratic(residuals, inverse):
    """Sum of r' V^-1 r over rows of residuals (S, k, N, Q), one student, response and output at a time."""
    total = np.zeros((S, Q))
    for s in range(S):
        for residual in residuals[s]:
            total[s] += np.diag(residual.T @ inverse @ residual)
    return total


@pytest.mark.parametrize(
    ("options", "variance"),
    [({}, np.eye(N)), ({"weights": WEIGHTS}, np.diag(1 / WEIGHTS)), ({"covariance": FULL}, FULL)],
    ids=["identity", "weights", "covariance"],
)
@pytest.mark.parametrize("strategy", ["averaging", "multi_response"])
@pytest.mark.parametrize(("kind", "lost"), [("mle", 0), ("unbiased", 3)])
def test_every_row_counts_in_the_units_of_the_working_covariance(options, variance, strategy, kind, lost):
    asked = problem(kd.LinearStudent(residual_variance=kind, **options), n_responses=K, strategy=strategy)
    kept = strategy == "multi_response"
    rows = RESPONSES if kept else LABELS[:, None]
    squares = quadratic(rows - FITTED[:, None], np.linalg.inv(variance))
    expected = squares / (rows.shape[1] * N - lost) * np.trace(variance) / N
    within = WITHIN if not kept or "covariance" not in options else None
    if within is None:
        within = quadratic(RESPONSES - LABELS[:, None], np.linalg.inv(variance))
    got = residual_variance(asked, labels=LABELS, fitted=FITTED, within=within)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize(("kind", "divisor"), [("mle", 7), ("unbiased", 4)])
def test_resampled_rows_count_as_often_as_they_were_drawn(kind, divisor):
    asked = problem(kd.LinearStudent(residual_variance=kind, weights=WEIGHTS), resample_size=7)
    rows = [np.repeat(np.arange(N), COUNTS[s]) for s in range(S)]
    squares = [(WEIGHTS[i, None] * (LABELS[s, i] - FITTED[s, i]) ** 2).sum(axis=0) for s, i in enumerate(rows)]
    got = residual_variance(asked, labels=LABELS, fitted=FITTED, counts=COUNTS)
    np.testing.assert_allclose(got, np.array(squares) / divisor * (1 / WEIGHTS).mean(), rtol=1e-12)


def test_estimated_weights_are_each_students_own():
    own = rng.uniform(0.5, 2.0, (S, N))
    teacher = kd.GaussianTeacher(X, X[:, 0])
    asked = kd.DistillationProblem(
        teacher=teacher, student=kd.LinearStudent(weights="estimated"), design=kd.Design(n_responses=8)
    )
    squares = (own[..., None] * (LABELS - FITTED)[..., :1] ** 2).sum(axis=1)
    got = residual_variance(asked, labels=LABELS[..., :1], fitted=FITTED[..., :1], weights=own)
    np.testing.assert_allclose(got, squares / (N - 3) * (1 / own).mean(axis=1, keepdims=True), rtol=1e-12)


def test_smoothers_lose_the_trace_of_2h_less_hh():
    """E(RSS)/divisor is the noise variance for any linear smoother of pure noise."""
    asked = problem(kd.LinearStudent(penalty=2.0))
    A = np.column_stack([np.ones(N), X])
    H = A @ np.linalg.solve(A.T @ A + np.diag([0.0, 2.0, 2.0]), A.T)
    R = np.eye(N) - H
    assert residual_divisor(asked) == pytest.approx(np.trace(R @ R.T), rel=1e-12)


def test_networks_divide_by_the_number_of_rows():
    for design, rows in (({}, N), ({"n_responses": K, "strategy": "multi_response"}, K * N), ({"resample_size": 4}, 4)):
        assert residual_divisor(problem(kd.NetworkStudent(), **design)) == rows
    got = residual_variance(problem(kd.NetworkStudent()), labels=LABELS, fitted=FITTED)
    np.testing.assert_allclose(got, ((LABELS - FITTED) ** 2).mean(axis=1), rtol=1e-12)


@pytest.mark.parametrize(
    ("design", "named"), [({}, "`X` must leave .* from 3 rows"), ({"resample_size": 2}, "`resample_size` must leave")]
)
def test_no_residual_degrees_of_freedom_is_an_error_that_says_what_to_change(design, named):
    teacher = kd.GaussianTeacher(X[:3], X[:3, 0])
    asked = kd.DistillationProblem(teacher=teacher, student=kd.LinearStudent(), design=kd.Design(**design))
    with pytest.raises(ObservationError, match=rf"{named}.*|0 residual degrees of freedom.*mle"):
        residual_divisor(asked)
    assert residual_divisor(asked.with_student(residual_variance="mle")) == design.get("resample_size", 3)
