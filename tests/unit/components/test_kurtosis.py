import numpy as np
import pytest
import xarray as xr
from scipy.stats import binomtest, kurtosis, kurtosistest, skew, skewtest

from kdstats.components.estimation import estimate_components
from kdstats.components.kurtosis import excess_kurtosis, excess_kurtosis_within, skewness

N_TABLES = 1000


def as_students(values):
    return xr.DataArray(values[..., None], dims=("student", "point", "output"))


def test_one_point_agrees_with_scipy():
    values = np.random.default_rng(0).exponential(size=(40, 1))
    ours, theirs = excess_kurtosis(as_students(values)), kurtosistest(values[:, 0], alternative="greater")
    assert ours.pvalue == pytest.approx(theirs.pvalue, rel=1e-9)
    assert ours.excess == pytest.approx(kurtosis(values[:, 0], bias=False), rel=1e-9)


def test_missing_students_are_left_out_and_constant_points_say_nothing():
    values = np.random.default_rng(1).normal(size=(40, 1))
    padded = np.concatenate([values, np.full((5, 1), np.nan)])
    assert excess_kurtosis(as_students(padded)).pvalue == pytest.approx(
        excess_kurtosis(as_students(values)).pvalue, rel=1e-9
    )
    assert excess_kurtosis(as_students(np.ones((40, 2)))) is None
    assert excess_kurtosis(as_students(values[:19])) is None


@pytest.mark.parametrize("n_students", [20, 100])
def test_means_hold_their_level_at_correlated_points(n_students):
    rng = np.random.default_rng([2, n_students])
    tables = rng.normal(size=(N_TABLES, n_students, 1)) + 0.1 * rng.normal(size=(N_TABLES, n_students, 5))
    rejected = sum(excess_kurtosis(as_students(table)).pvalue < 0.01 for table in tables)
    assert binomtest(rejected, N_TABLES, 0.01, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize("n_replicates", [2, 5])
def test_errors_hold_their_level_and_skewed_ones_are_found(n_replicates):
    rng = np.random.default_rng([3, n_replicates])

    def rejections(values):
        squares = estimate_components(values, variances=None).mean_squares
        points = (squares.isel(point=[index]) for index in range(N_TABLES))
        return sum(excess_kurtosis_within(point, 100).pvalue < 0.01 for point in points)

    shape = (100, n_replicates, N_TABLES)
    level = rejections(10 * rng.normal(size=(100, 1, N_TABLES)) + rng.normal(size=shape))
    assert binomtest(level, N_TABLES, 0.01, alternative="greater").pvalue > 0.01
    assert rejections(10 * rng.normal(size=(100, 1, N_TABLES)) + rng.exponential(size=shape)) > N_TABLES / 2


@pytest.mark.parametrize(("n_students", "n_replicates"), [(5, 2), (5, 10), (10, 3)])
def test_spread_of_own_variances_of_few_students_holds_its_level(n_students, n_replicates):
    rng = np.random.default_rng([5, n_students, n_replicates])
    means = 9 * rng.normal(size=(n_students, 1, 300))
    squares = estimate_components(rng.normal(size=(n_students, n_replicates, 300)) + means).mean_squares
    points = (squares.isel(point=[index]) for index in range(300))
    rejected = sum(excess_kurtosis_within(point, n_students).pvalue < 0.01 for point in points)
    assert binomtest(rejected, 300, 0.01, alternative="greater").pvalue > 0.01


def test_summary_points_to_intervals_for_any_law():
    rng = np.random.default_rng(4)
    gaussian = 5 * rng.normal(size=(100, 1, 3)) + rng.normal(size=(100, 4, 3))
    skewed = 5 * rng.exponential(size=(100, 1, 3)) + rng.exponential(size=(100, 4, 3))
    assert "have an excess kurtosis" not in estimate_components(gaussian).summary()
    text = " ".join(estimate_components(skewed).summary().split())
    assert "Student means have an excess kurtosis" in text
    assert "Own variances of students spread more" in text
    assert 'interval(students="any")' in text


FACTORS = {
    "one point": np.ones((1, 1)),
    "40 points of rank 6": np.random.default_rng(7).normal(size=(40, 6)),
    "10 independent": np.eye(10),
    "5 near copies": np.c_[np.ones(5), 0.1 * np.eye(5)],
}


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("test", [excess_kurtosis, skewness])
def test_level_and_power_at_correlated_points(test, name):
    """At 2.5% with 30 students; a mean of scores taken for one standard normal score finds next to nothing."""
    rng, factor, n = np.random.default_rng(8), FACTORS[name], 300
    shape = (n, 30, factor.shape[1])
    found = {}
    for law, draws in (("gaussian", rng.normal(size=shape)), ("exponential", rng.exponential(size=shape))):
        found[law] = sum(test(as_students(own @ factor.T)).pvalue < 0.025 for own in draws)
    assert binomtest(found["gaussian"], n, 0.025, alternative="greater").pvalue > 0.01
    assert found["exponential"] > n * (0.35 if test is excess_kurtosis else 0.7)


def test_skewness_at_one_point_agrees_with_scipy():
    values = np.random.default_rng(9).exponential(size=(40, 1))
    ours, theirs = skewness(as_students(values)), skewtest(values[:, 0])
    assert ours.pvalue == pytest.approx(theirs.pvalue, rel=1e-9)
    assert ours.size == pytest.approx(abs(skew(values[:, 0])), rel=1e-9)


def test_many_points_are_sampled_evenly():
    rng = np.random.default_rng(10)
    values = rng.normal(size=(25, 6)) @ rng.normal(size=(6, 4000))
    some = excess_kurtosis(as_students(values[:, ::4]))
    assert excess_kurtosis(as_students(values)).pvalue == pytest.approx(some.pvalue, abs=0.05)
