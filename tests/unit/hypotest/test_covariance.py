import numpy as np
import pytest
from scipy import stats

from kdstats.errors import ComparisonError, ProblemError
from kdstats.hypotest import covariance_test


@pytest.fixture
def low_rank():
    factor = np.random.default_rng(0).normal(size=(8, 3))
    return factor, (factor @ factor.T)[None]


def students(factor, n, seed=1):
    return np.random.default_rng(seed).normal(size=(n, factor.shape[1])) @ factor.T


def test_directions_are_the_range(low_rank, make_predicted, make_observed):
    factor, covariance = low_rank
    predicted = make_predicted(np.diag(covariance[0]), covariance=covariance)
    result = covariance_test(predicted, make_observed(students(factor, 500)))
    assert (result.n_directions, result.df, result.share_tested) == (3, 6, pytest.approx(1.0))
    assert result.outside_range < 1e-20
    assert result.pvalue > 0.01
    assert result.pvalue == pytest.approx(stats.chi2.sf(result.statistic, 6), abs=0.01)


def test_variance_outside_the_range_refutes(low_rank, make_predicted, make_observed):
    factor, covariance = low_rank
    values = students(factor, 500) + 0.05 * np.random.default_rng(2).normal(size=(500, 8))
    result = covariance_test(make_predicted(np.diag(covariance[0]), covariance=covariance), make_observed(values))
    assert result.outside_range > 1e-6
    assert result.pvalue == 0.0


def test_few_students_test_the_leading_directions(low_rank, make_predicted, make_observed):
    factor, covariance = low_rank
    predicted = make_predicted(np.diag(covariance[0]), covariance=covariance)
    result = covariance_test(predicted, make_observed(students(factor, 4)))
    assert result.n_directions == 1
    assert result.share_tested < 1
    with pytest.raises(ComparisonError, match="`n_directions` must be at most 3"):
        covariance_test(predicted, make_observed(students(factor, 9)), n_directions=4)
    with pytest.raises(ProblemError, match="n_directions"):
        covariance_test(predicted, make_observed(students(factor, 9)), n_directions=0)


def test_wrong_correlation_is_seen(make_predicted, make_observed):
    covariance = np.array([[[1.0, 0.8], [0.8, 1.0]]])
    values = np.random.default_rng(3).normal(size=(100, 2))
    result = covariance_test(make_predicted([1.0, 1.0], covariance=covariance), make_observed(values))
    assert result.pvalue < 1e-6
    assert result.eigenvalues[0] > result.eigenvalues[1]


def test_two_outputs_are_combined(make_predicted, make_observed):
    covariance = np.stack([np.eye(2), np.eye(2)])
    values = np.random.default_rng(4).normal(size=(100, 2, 2))
    values[..., 1] *= 2
    predicted = make_predicted(np.ones((2, 2)), covariance=covariance)
    assert covariance_test(predicted, make_observed(values)).pvalue < 1e-6
    values[..., 1] /= 2
    assert covariance_test(predicted, make_observed(values)).pvalue > 0.01


def test_what_is_missing_is_named(low_rank, make_predicted, make_observed):
    factor, covariance = low_rank
    diagonal = np.diag(covariance[0])
    with pytest.raises(ComparisonError, match="covariance=True"):
        covariance_test(make_predicted(diagonal), make_observed(students(factor, 9)))
    with pytest.raises(ComparisonError, match="student_predictions"):
        covariance_test(make_predicted(diagonal, covariance=covariance), make_observed(students(factor, 9), keep=False))
    with pytest.raises(ComparisonError, match="exact covariance"):
        covariance_test(make_predicted(diagonal, covariance=covariance, se=0.1), make_observed(students(factor, 9)))
