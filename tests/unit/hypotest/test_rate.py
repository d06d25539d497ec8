import numpy as np
import pytest
import scipy.stats

import kdstats as kd
from kdstats.components.estimation import estimate_components
from kdstats.errors import ComparisonError, DependentStudentsWarning, ProblemError
from kdstats.hypotest import rate_test
from kdstats.hypotest.rate import floor_of, slope_of


def test_exact_power_law_is_recovered():
    k, df = np.array([1, 2, 4, 8]), np.full(4, 1e6)
    result = slope_of(k, 3.0 / k, df)
    assert result.slope == pytest.approx(-1.0, abs=1e-9)
    assert result.pvalue == pytest.approx(1.0, abs=1e-6)
    assert result.floor.floor == pytest.approx(0.0, abs=1e-6)
    assert result.floor.slope == pytest.approx(3.0, abs=1e-5)


def test_exact_floor_is_recovered():
    k, df = np.array([1, 2, 4, 8, 100]), np.full(5, 500.0)
    result = floor_of(k, 2.0 * (0.3 + 0.7 / k), df)
    assert result.correlation == pytest.approx(0.3, abs=1e-6)
    assert (result.floor, result.slope) == (pytest.approx(0.6, abs=1e-5), pytest.approx(1.4, abs=1e-5))
    low, high = result.confidence_interval()
    assert low < 0.3 < high
    assert result.pvalue < 1e-6


def test_negative_correlation_keeps_its_sign():
    k = np.array([1, 2, 4])
    result = floor_of(k, -0.2 + 1.2 / k, np.full(3, 400.0))
    assert result.correlation == pytest.approx(-0.2, abs=1e-6)
    assert result.pvalue > 0.99


def test_interval_ends_solve_the_likelihood_equation():
    k, df = np.array([1, 3, 9]), np.array([80.0, 90.0, 100.0])
    variance = np.array([1.1, 0.5, 0.33])
    result = floor_of(k, variance, df)

    def deviance(rho):
        shape = rho + (1 - rho) / k
        scale = (df * variance / shape).sum() / df.sum()
        return (df * (np.log(shape * scale) + variance / (shape * scale))).sum()

    bartlett = 1 + ((1 / df).sum() - 1 / df.sum()) / 6
    for end in result.confidence_interval(0.95):
        assert deviance(end) - deviance(result.correlation) == pytest.approx(3.841459 * bartlett, abs=1e-5)


def test_scale_of_the_variance_is_irrelevant():
    k, df, v = np.array([1, 2, 5]), np.array([20.0, 30.0, 25.0]), np.array([1.0, 0.7, 0.3])
    one, other = slope_of(k, v, df), slope_of(k, 1e-8 * v, df)
    assert one.pvalue == pytest.approx(other.pvalue)
    assert one.floor.pvalue == pytest.approx(other.floor.pvalue, abs=1e-10)


def test_sampled_outputs_are_removed(make_observed, with_variance):
    """Student means have inter + intra/r; without removing intra/r the slope is that of a floor."""
    results = {
        k: make_observed(with_variance([1 / k + 0.5], 400, seed=k), within=1.0, within_se=0.01, n_replicates=2)
        for k in (1, 2, 4)
    }
    result = rate_test(results, effective_rank=1.0)
    np.testing.assert_allclose(result.variance, [1.0, 0.5, 0.25])
    np.testing.assert_allclose(result.df[0], 2.0 / (2.0 * 1.5**2 / 399 + 0.005**2))
    assert result.slope == pytest.approx(-1.0, abs=2 / result.df.min())


def test_summary_shows_slope_and_floor(make_observed, with_variance):
    result = rate_test({k: make_observed(with_variance([1 / k], 50, seed=k)) for k in (1, 4)})
    text = result.summary()
    assert "slope" in text
    assert "floor" in text
    assert np.isnan(result.lack_of_fit_pvalue)
    low, high = result.confidence_interval()
    assert low < result.slope < high


def test_bad_input_is_named(make_observed, make_predicted, with_variance):
    one = make_observed(with_variance([1.0]))
    with pytest.raises(ComparisonError, match="at least 2 numbers of responses"):
        rate_test({1: one})
    with pytest.raises(ComparisonError, match="got list"):
        rate_test([one, one])
    with pytest.raises(ComparisonError, match="the same students twice"):
        rate_test({1: one, 2: one})
    with pytest.raises(ComparisonError, match="same points"):
        rate_test({1: one, 2: make_observed(with_variance([1.0], seed=5), labels=["other"])})
    with pytest.raises(ComparisonError, match="must hold observations"):
        rate_test({1: one, 2: make_predicted([1.0])})
    with pytest.raises(ProblemError, match="`n_responses` must be at least 1"):
        rate_test({0: one, 2: one})
    with pytest.raises(ComparisonError, match=r"positive inter-student variance at every k; got -0\.5 at k=2"):
        rate_test({1: one, 2: make_observed(with_variance([0.5], seed=1), within=2.0, within_se=0.1, n_replicates=2)})


def test_a_seed_shared_between_numbers_of_responses_is_told():
    problem = kd.catalog.shared_noise()
    shared = {k: kd.observe(problem.with_design(n_responses=k), n_students=20, rng=1) for k in (1, 2)}
    with pytest.warns(DependentStudentsWarning, match="share a seed: give each k its own `rng`"):
        rate_test(shared)
    rate_test({k: kd.observe(problem.with_design(n_responses=k), n_students=20, rng=k) for k in (1, 2)})


def test_the_slope_keeps_its_level_with_few_students():
    """Degrees of freedom from a rank estimated with three students must not be taken at face value."""
    rng = np.random.default_rng(11)
    root = rng.standard_normal((8, 3))
    n_runs, rejected = 400, 0
    for _ in range(n_runs):
        runs = {}
        for k in (1, 2, 4, 8):
            means = rng.standard_normal((3, 3)) @ root.T / np.sqrt(k)
            runs[k] = estimate_components(means[:, None, :, None], variances=0.0)
        rejected += rate_test(runs).pvalue < 0.05
    assert scipy.stats.binomtest(rejected, n_runs, 0.05, alternative="greater").pvalue > 0.005
