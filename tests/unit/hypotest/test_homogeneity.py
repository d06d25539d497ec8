import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import ComparisonError, ProblemError


@pytest.fixture(scope="module")
def problem():
    X = np.random.default_rng(0).normal(size=(30, 3))
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X[:, 0], noise_variance=0.5),
        student=kd.LinearStudent(),
        design=kd.Design(2 * X[:8], point_labels=list("abcdefgh")),
    )


@pytest.fixture(scope="module")
def observed(problem):
    return kd.observe(problem, n_students=80, rng=1)


def test_predicted_proportions_hold_at_any_scale_and_equal_ones_do_not(problem, observed):
    predicted = kd.predict(problem, covariance=True)
    result = kd.homogeneity_test(observed, predicted, rng=2)
    assert result.pvalue > 0.01
    assert result.exact
    other = kd.homogeneity_test(observed, kd.predict(problem.with_teacher(noise_variance=5.0), covariance=True), rng=2)
    assert other.statistic == pytest.approx(result.statistic)
    assert other.pvalue == result.pvalue
    for method in ("normal", "bootstrap"):
        equal = kd.homogeneity_test(observed, method=method, rng=2)
        assert equal.pvalue < 0.01
        assert not equal.exact
    assert "homogeneity over 8" in str(result)


def test_statistic_and_farthest_point(make_observed, with_variance):
    result = kd.homogeneity_test(make_observed(with_variance([1.0, 1.0, 4.0], 40)), rng=1)
    logs = np.log([1.0, 1.0, 4.0])
    assert result.statistic == pytest.approx(logs.var())
    assert result.most_different == (2, 0)
    assert result.pvalue == 1 / 2000


def test_points_may_be_in_another_order(problem, observed):
    predicted = kd.predict(problem, covariance=True)
    order = [3, 0, 7, 1, 6, 2, 5, 4]
    moved = kd.VarianceComponents(
        estimate=predicted.estimate.isel(point=order),
        standard_error=predicted.standard_error.isel(point=order),
        attrs=predicted.attrs,
        covariance=predicted.covariance.isel(point=order, point_other=order),
    )
    assert kd.homogeneity_test(observed, moved, rng=3).statistic == pytest.approx(
        kd.homogeneity_test(observed, predicted, rng=3).statistic
    )


def test_refusals(problem, observed, make_observed, make_predicted):
    predicted = kd.predict(problem)
    cases = [
        (lambda: kd.homogeneity_test(predicted), ComparisonError, "`observed` must be an observation"),
        (lambda: kd.homogeneity_test(observed, observed), ComparisonError, "`predicted` must be a prediction"),
        (lambda: kd.homogeneity_test(observed, make_predicted([1.0])), ComparisonError, "points and outputs"),
        (lambda: kd.homogeneity_test(make_observed(np.eye(5)[:, :1])), ComparisonError, "2 points or more"),
        (
            lambda: kd.homogeneity_test(make_observed(np.eye(5)), make_predicted([1, 1, 1, 1, 0.0])),
            ComparisonError,
            "is 0",
        ),
        (
            lambda: kd.homogeneity_test(make_observed(np.eye(2)), make_predicted([0, 0.0])),
            ComparisonError,
            "some variance",
        ),
        (lambda: kd.homogeneity_test(observed, method="levene"), ProblemError, "`method` must be one of"),
        (lambda: kd.homogeneity_test(observed, n_resamples=3), ProblemError, "`n_resamples` must be"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()


def test_means_of_sampled_replicates_are_refused(make_observed):
    """Their variance is inter + intra/r, so that where intra differs between points equal inter looks unequal."""
    rng = np.random.default_rng(4)
    noise = np.sqrt([0.0, 2.0]) * rng.standard_normal((300, 2))
    sampled = make_observed(rng.standard_normal((300, 2)) + noise, within=2.0, n_replicates=1)
    with pytest.raises(ComparisonError, match=r"`observed` must know each student's own mean.*replicates"):
        kd.homogeneity_test(sampled)
    exact = make_observed(rng.standard_normal((300, 2)))
    assert kd.homogeneity_test(exact, rng=1).pvalue > 0.001
