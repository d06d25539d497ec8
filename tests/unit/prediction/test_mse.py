"""The law of one student's test error against its moments, simulation and special cases (T3)."""

import numpy as np
import pytest
import scipy.stats

import kdstats as kd

RNG = np.random.default_rng(8)
N, M = 15, 6
X, X_QUERY = RNG.normal(size=(N, 2)), RNG.normal(size=(M, 2))
MEAN, TARGET = np.sin(X).sum(axis=1), RNG.normal(size=M)


def make(mean=MEAN, design=None, student=None, **teacher):
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, mean, **{"noise_variance": 0.6} | teacher),
        student=kd.LinearStudent(**student or {}),
        design=kd.Design(X_QUERY, **design or {}),
    )


def ridge_map(penalty):
    D, Q = (np.column_stack([np.ones(len(points)), points]) for points in (X, X_QUERY))
    return Q @ np.linalg.inv(D.T @ D + penalty * np.diag([0.0, 1.0, 1.0])) @ D.T


@pytest.mark.parametrize("penalty", [0.0, 1.3])
@pytest.mark.parametrize("k", [1, 4])
def test_moments_against_formula(penalty, k):
    problem = make(student={"penalty": penalty}, design={"n_responses": k}, input_correlation=0.3)
    L = ridge_map(penalty)
    C = L @ problem.teacher.covariance @ L.T / k
    b = TARGET - L @ MEAN
    law = kd.mse_distribution(problem, TARGET)
    assert law.mean == pytest.approx((b @ b + np.trace(C)) / M, rel=1e-11)
    assert law.variance == pytest.approx((4 * b @ C @ b + 2 * np.trace(C @ C)) / M**2, rel=1e-11)
    assert law.bias == pytest.approx(b @ b / M, rel=1e-11)
    assert law.noise == pytest.approx(np.trace(C) / M, rel=1e-11)
    assert law.sd == pytest.approx(np.sqrt(law.variance))


def test_moments_of_several_outputs():
    means, targets = np.column_stack([MEAN, X[:, 0]]), np.column_stack([TARGET, TARGET**2])
    both = kd.mse_distribution(make(means), targets)
    one, two = (kd.mse_distribution(make(means[:, j]), targets[:, j]) for j in range(2))
    assert both.mean == pytest.approx((one.mean + two.mean) / 2, rel=1e-12)
    assert both.variance == pytest.approx((one.variance + two.variance) / 4, rel=1e-12)


@pytest.mark.parametrize("student", [{}, {"penalty": 2.0}])
def test_distribution_against_simulated_students(student):
    size = 20_000
    rng = np.random.default_rng(9)
    problem = make(student=student)
    labels = MEAN + np.sqrt(0.6) * rng.normal(size=(size, N))
    errors = ((TARGET - labels @ ridge_map(student.get("penalty", 0.0)).T) ** 2).mean(axis=1)
    law = kd.mse_distribution(problem, TARGET)
    assert scipy.stats.kstest(errors[:1500], law.cdf).pvalue > 1e-3
    for level in (0.01, 0.5, 0.95, 0.999):
        below = int((errors <= law.quantile(level)).sum())
        assert scipy.stats.binomtest(below, size, level).pvalue > 1e-3
    assert abs(errors.mean() - law.mean) < 4 * law.sd / np.sqrt(size)
    # negative control: a teacher with twice the noise has another law
    wrong = kd.mse_distribution(problem.with_teacher(noise_variance=1.2), TARGET)
    assert scipy.stats.kstest(errors[:1500], wrong.cdf).pvalue < 1e-6


def test_unbiased_student_at_one_point_is_chi_squared():
    problem = make().with_design(X_query=X_QUERY[:1])
    inter = kd.predict(problem).inter_student.item()
    law = kd.mse_distribution(problem, ridge_map(0.0)[:1] @ MEAN)
    x = np.array([0.01, 0.1, 1.0, 10.0]) * inter
    np.testing.assert_allclose(law.cdf(x), scipy.stats.chi2(1).cdf(x / inter), atol=1e-9)
    np.testing.assert_allclose(law.sf(30 * inter), scipy.stats.chi2(1).sf(30), rtol=1e-8)


def test_students_that_do_not_vary_have_one_error():
    law = kd.mse_distribution(make(noise_variance=0.0), TARGET)
    error = ((TARGET - ridge_map(0.0) @ MEAN) ** 2).mean()
    assert law.mean == pytest.approx(error)
    assert law.variance == 0.0
    np.testing.assert_array_equal(law.cdf([error * 0.999, error * 1.001]), [0, 1])


@pytest.mark.filterwarnings("ignore::kdstats.errors.ApproximationWarning")
@pytest.mark.parametrize(
    "problem",
    [
        make(design={"resample_size": 40}),
        make(design={"n_responses": 8}, student={"weights": "estimated"}),
        make(
            design={
                "n_responses": 8,
                "strategy": "variance_weighting",
                "weighting": kd.VarianceWeighting(student_estimate="teacher_mean", weight="estimated"),
            }
        ),
    ],
    ids=["resampled", "estimated_weights", "estimated_mixture"],
)
def test_predictions_that_are_not_gaussian_are_refused(problem):
    with pytest.raises(kd.errors.UnsupportedProblemError, match="known for Gaussian predictions"):
        kd.mse_distribution(problem, TARGET)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (TARGET[:3], r"`target` must have one value per query point and output, shape \(6, 1\); got shape \(3, 1\)"),
        (TARGET[None], r"`target` must have one value.*got shape \(1, 6\)"),
        (TARGET * np.nan, "`target` must be finite everywhere"),
        (1.0, "`target` must have 1 or 2 dimensions"),
        ("truth", "`target` must hold real numbers"),
    ],
)
def test_bad_targets(target, message):
    with pytest.raises(kd.errors.ProblemError, match=message):
        kd.mse_distribution(make(), target)
