import numpy as np
import pytest
from scipy import stats

from kdstats.errors import ComparisonError, ProblemError
from kdstats.hypotest import mse_test


class Law:
    mean, variance = 1.0, 2.0
    cdf = staticmethod(stats.chi2(1).cdf)


class Constant(Law):
    variance = 0.0


def test_methods_are_those_of_their_laws():
    mse = np.random.default_rng(0).normal(size=80) ** 2
    assert mse_test(mse, Law(), method="mean").pvalue == pytest.approx(2 * stats.chi2.cdf(mse.sum(), 80))
    assert mse_test(mse, Law()).pvalue == pytest.approx(stats.kstest(mse, "chi2", (1,)).pvalue)
    result = mse_test(mse, Law())
    assert result.variance_ratio == pytest.approx(mse.var(ddof=1) / 2)
    low, high = result.confidence_interval()
    assert low < mse.mean() < high


def test_mse_of_students_is_over_points(make_observed):
    values = np.array([[1.0, 3.0], [2.0, 2.0], [0.0, 0.0]])
    result = mse_test(make_observed(values), Law(), target=[1.0, 1.0], method="mean")
    assert result.observed == pytest.approx(np.mean([2.0, 1.0, 1.0]))


def test_bad_input_is_named(make_observed):
    observed = make_observed(np.eye(3))
    with pytest.raises(ComparisonError, match="`target` must give the true values"):
        mse_test(observed, Law())
    with pytest.raises(ComparisonError, match=r"`target` must have shape \(3, 1\)"):
        mse_test(observed, Law(), target=[1.0, 2.0])
    with pytest.raises(ComparisonError, match="student_predictions"):
        mse_test(make_observed(np.eye(3), keep=False), Law(), target=[1.0] * 3)
    with pytest.raises(ComparisonError, match="at least 2 students"):
        mse_test([1.0], Law())
    with pytest.raises(ProblemError, match="`observed` must be finite"):
        mse_test([1.0, np.nan], Law())
    with pytest.raises(ComparisonError, match="`observed` must have mean squared errors of at least 0; got -2"):
        mse_test([1.0, -2.0], Law())
    for method in ("mean", "kolmogorov"):
        with pytest.raises(ComparisonError, match="`law` must have mean and variance above 0; got 1, 0"):
            mse_test([1.0, 2.0], Constant(), method=method)
    with pytest.raises(ProblemError, match="`method` must be one of"):
        mse_test([1.0, 2.0], Law(), method="z")
