"""Two independent routes to one number: students simulated, and the closed form, on problems drawn at random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import kdstats as kd

COMPONENTS = ("inter_student", "intra_student", "total")
N_PROBLEMS, N_STANDARD_ERRORS = 40, 4.0


@st.composite
def problems(draw):
    """Linear students of every kind, every strategy and noise, and any sources but resampled rows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, p, k = draw(st.integers(9, 16)), draw(st.integers(1, 3)), draw(st.integers(2, 5))
    strategy = draw(st.sampled_from(["single", "averaging", "multi_response", "variance_weighting"]))
    q = 1 if strategy == "variance_weighting" else draw(st.integers(1, 2))
    X = rng.standard_normal((n, p))
    root = rng.standard_normal((n, n)) / np.sqrt(n)
    covariance = root @ root.T + 0.2 * np.eye(n)
    noise = draw(st.sampled_from(["scalar", "per input", "full"]))
    variance = {"scalar": 0.7, "per input": rng.uniform(0.1, 2.0, n), "full": covariance}[noise]
    teacher = kd.GaussianTeacher(
        X,
        X @ rng.standard_normal((p, q)) + rng.standard_normal((n, q)) if q > 1 else X[:, 0] + rng.standard_normal(n),
        noise_variance=variance,
        input_correlation=draw(st.sampled_from([0.0, 0.3])) if noise != "full" else 0.0,
        response_correlation=draw(st.sampled_from([0.0, 0.4, -0.2])),
        fitting_covariance=draw(st.sampled_from([None, 0.1 * np.outer(X[:, 0], X[:, 0])])),
    )
    steps = kd.GradientDescent(n_steps=draw(st.integers(1, 60)), learning_rate=0.01, initialization_sd=0.8)
    kind = draw(st.sampled_from(["exact", "ridge", "weighted", "generalised", "steps", "steps and penalty"]))
    student = {
        "exact": kd.LinearStudent(fit_intercept=draw(st.booleans())),
        "ridge": kd.LinearStudent(penalty=1.3, fit_intercept=draw(st.booleans())),
        "weighted": kd.LinearStudent(weights=rng.uniform(0.3, 2.0, n)),
        "generalised": kd.LinearStudent(covariance=draw(st.sampled_from(["teacher", covariance]))),
        "steps": kd.LinearStudent(training=steps),
        "steps and penalty": kd.LinearStudent(training=steps, penalty=0.9, residual_variance="mle"),
    }[kind]
    sources = ["teacher_output", "student_initialization", "student_output"]
    weighting = None
    if strategy == "variance_weighting":
        weighting = draw(
            st.sampled_from(
                [
                    kd.VarianceWeighting(),
                    kd.VarianceWeighting(student_estimate=X[:, 0], student_variance=0.4),
                    kd.VarianceWeighting(student_estimate="teacher_mean", weight=0.6),
                ]
            )
        )
    design = kd.Design(
        rng.standard_normal((draw(st.integers(1, 4)), p)),
        n_responses=1 if strategy == "single" else k,
        strategy=strategy,
        weighting=weighting,
        sources=draw(st.sampled_from([sources, sources[:1], sources[:2], sources[1:], sources[::2]])),
        n_generations=1 if weighting is not None else draw(st.sampled_from([1, 1, 3])),
    )
    return kd.DistillationProblem(teacher=teacher, student=student, design=design)


def gaps(simulated, theory, *, factor=1.0):
    """Distance of every component at every point, in standard errors; equality is asked for where nothing varies."""
    found = []
    for name in COMPONENTS:
        truth, error = factor * theory.estimate[name].values, simulated.standard_error[name].values
        gap = np.abs(simulated.estimate[name].values - truth)
        known = error <= 1e-9 * np.abs(truth)
        np.testing.assert_allclose(gap[known], 0.0, atol=1e-9 * (1.0 + np.abs(truth).max()))
        found.append((gap[~known] / error[~known]).max(initial=0.0))
    return max(found)


@settings(max_examples=N_PROBLEMS, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(problem=problems())
def test_monte_carlo_is_within_four_standard_errors(problem):
    theory = kd.predict(problem, engine="closed_form")
    simulated = kd.predict(problem, engine="monte_carlo", n_students=8000, rng=11)
    assert theory.exactness == "exact"
    assert gaps(simulated, theory) < N_STANDARD_ERRORS


def test_a_closed_form_that_is_off_by_ten_percent_is_found():
    problem = kd.catalog.two_groups()
    simulated = kd.predict(problem, engine="monte_carlo", n_students=8000, rng=11)
    theory = kd.predict(problem)
    assert gaps(simulated, theory) < N_STANDARD_ERRORS < gaps(simulated, theory, factor=1.1)


@pytest.mark.parametrize(("size", "penalty"), [(400, 0.0), (200, 0.0), (300, 5.0)])
@pytest.mark.parametrize("sources", [("data_resampling", "student_output"), None])
def test_resampled_rows_where_the_first_order_is_closer_than_the_simulation(size, penalty, sources):
    rng = np.random.default_rng(2)
    X = rng.standard_normal((400, 2))
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X[:, 0] + 0.5 * X[:, 1] ** 2, noise_variance=0.5),
        student=kd.LinearStudent(penalty=penalty, residual_variance="mle"),
        design=kd.Design(rng.standard_normal((3, 2)), resample_size=size, sources=sources),
    )
    theory = kd.predict(problem).inter_student.values
    simulated = kd.predict(problem, engine="monte_carlo", n_students=600, rng=4, control_variate=False)
    error = simulated.standard_error["inter_student"].values
    assert (np.abs(simulated.inter_student.values - theory) / error).max() < N_STANDARD_ERRORS
    assert (np.abs(simulated.inter_student.values - 1.4 * theory) / error).max() > N_STANDARD_ERRORS


def test_estimated_weights_approach_the_asymptotic_inflation():
    rng = np.random.default_rng(2)
    X = rng.standard_normal((300, 1))
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X[:, 0], noise_variance=rng.uniform(0.2, 3.0, 300)),
        student=kd.LinearStudent(weights="estimated"),
        design=kd.Design(rng.standard_normal((3, 1)), n_responses=12),
    )
    theory = kd.predict(problem).inter_student.values
    simulated = kd.predict(problem, engine="monte_carlo", n_students=2000, rng=4)
    error = simulated.standard_error["inter_student"].values
    assert (np.abs(simulated.inter_student.values - theory) / error).max() < N_STANDARD_ERRORS
    without_inflation = theory * 7 / 9
    assert (np.abs(simulated.inter_student.values - without_inflation) / error).max() > N_STANDARD_ERRORS
