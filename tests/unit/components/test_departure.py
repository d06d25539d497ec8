"""Levels of Gaussian tests for students of another law: formula against simulation, and where they come out."""

import numpy as np
import pytest
from scipy import stats

import kdstats as kd
from kdstats.components.departure import inflation, level_of_variance, slope_level
from kdstats.hypotest.covariance import covariance_level

N = 4000


def test_gaussian_students_have_the_nominal_level():
    for df in (4.0, 29.0):
        assert level_of_variance(df, inflation(excess=0.0)) == pytest.approx(0.05)
        assert level_of_variance(df, 1.0, df_other=7.0, alpha=0.1) == pytest.approx(0.1)
        assert level_of_variance(df, 1.0, one_sided=True) == pytest.approx(0.05)
    assert slope_level(1.0) == pytest.approx(0.05)
    assert covariance_level(6, 1.0) == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize(("n", "excess"), [(10, 3.0), (50, 3.0), (50, 6.0)])
def test_inflation_is_that_of_a_variance(n, excess):
    rng = np.random.default_rng([41, n])
    values = rng.laplace(size=(N, n)) / np.sqrt(2) if excess == 3.0 else rng.exponential(size=(N, n))
    spread = (values.var(axis=1, ddof=1) - 1.0) ** 2 / (2 / (n - 1))
    assert abs(spread.mean() - inflation(n, excess=excess)) < 4 * spread.std() / np.sqrt(N)
    assert abs(spread.mean() - 1.0) > 4 * spread.std() / np.sqrt(N)  # the Gaussian variance is refuted


def test_levels_are_those_of_many_laplace_students():
    """Asymptotic: 200 students reject as often as the formula says to a tenth."""
    rng, n = np.random.default_rng(42), 200
    a, b = rng.laplace(size=(2, N, n)) / np.sqrt(2)
    c = 0.6 * a + 0.8 * b
    first, second, paired = (x.var(axis=1, ddof=1) for x in (a, b, c))
    limits = stats.chi2.ppf([0.025, 0.975], n - 1) / (n - 1)
    one = np.mean((first < limits[0]) | (first > limits[1]))
    limits = stats.f.ppf([0.025, 0.975], n - 1, n - 1)
    two = np.mean((first / second < limits[0]) | (first / second > limits[1]))
    correlation = ((a - a.mean(1, keepdims=True)) * (c - c.mean(1, keepdims=True))).sum(1) / (n - 1)
    u, v = first + paired + 2 * correlation, first + paired - 2 * correlation
    r = (first - paired) / np.sqrt(u * v)
    t = r * np.sqrt((n - 2) / (1 - r**2))
    three = np.mean(np.abs(t) > stats.t.ppf(0.975, n - 2))
    for seen, level in (
        (one, level_of_variance(n - 1, inflation(n))),
        (two, level_of_variance(n - 1, inflation(n), df_other=n - 1)),
        (three, level_of_variance(n - 1, inflation(n, correlation=0.6), df_other=n - 1)),
    ):
        assert abs(seen - level) < 0.1 * level + 3 * np.sqrt(level / N)
        assert seen > 0.1


def test_the_covariance_of_laplace_directions_is_rejected_as_often_as_said():
    rng, n, r = np.random.default_rng(43), 400, 3
    students = rng.laplace(size=(1500, n, r)) / np.sqrt(2)
    students -= students.mean(axis=1, keepdims=True)
    values = np.linalg.eigvalsh(np.einsum("nsi,nsj->nij", students, students) / (n - 1))
    seen = np.mean((n - 1) * (values - np.log(values) - 1).sum(axis=1) > stats.chi2.ppf(0.95, r * (r + 1) / 2))
    level = covariance_level(r, inflation(n))
    assert abs(seen - level) < 0.1 * level + 3 * np.sqrt(level / 1500)
    assert level > 0.2


def test_results_say_what_laplace_students_would_make_of_them():
    rng = np.random.default_rng(44)
    one, other = (kd.estimate_components(rng.normal(size=(30, 1, 1)), variances=0) for _ in range(2))
    level = level_of_variance(29, inflation(30), df_other=29)
    assert f"were they Laplace (excess kurtosis 3, in independent directions), up to about {level:.0%}" in " ".join(
        kd.ratio_test(one, other).summary().split()
    )
    assert "Were students Laplace (excess kurtosis 3, in independent directions), down to 79%" in " ".join(
        one.summary().split()
    )
    problem = kd.catalog.shared_noise()
    predicted = kd.predict(problem, covariance=True)
    seen = kd.observe(problem, n_students=50, rng=1)
    text = " ".join(kd.compare(predicted, seen).summary().split())
    assert "were students Laplace" in text.replace("Were", "were")
    assert "the covariance in up to" in text
    found = kd.homogeneity_test(seen, predicted, n_resamples=999, rng=2)
    assert 0.05 < found.level_if_laplace < 0.5
    assert "were they Laplace" in found.summary()
    resampled = kd.homogeneity_test(seen, method="bootstrap", n_resamples=99, rng=2)
    assert np.isnan(resampled.level_if_laplace)
    assert "any law" in resampled.summary()
