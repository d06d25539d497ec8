import numpy as np
import pytest
from scipy import stats

from kdstats.hypotest.inversion import likelihood_ratio_cdf, weighted_chi_square_cdf
from kdstats.hypotest.ratio_law import LocationLaw, ScaleLaw, WeightedLaw


@pytest.mark.parametrize("x", [0.5, 5.0, 30.0])
def test_equal_weights_against_scipy(x):
    assert weighted_chi_square_cdf(x, np.ones(3), np.array([2.0, 3.0, 1.5])) == pytest.approx(
        stats.chi2.cdf(x, 6.5), abs=1e-11
    )


def test_two_exponentials_against_exact():
    """Chi-square with 2 df are exponentials: the law of their weighted sum is elementary."""
    a, b, x = 2.0 * 1.0, 2.0 * 0.25, 3.0
    exact = 1 - (a * np.exp(-x / a) - b * np.exp(-x / b)) / (a - b)
    assert weighted_chi_square_cdf(x, np.array([1.0, 0.25]), np.array([2.0, 2.0])) == pytest.approx(exact, abs=1e-7)


def test_difference_of_chi_squares_against_f():
    """P(X/m - c Y/n <= 0) is an F distribution function; weights of both signs, real degrees of freedom."""
    m, n, c = 7.5, 11.0, 1.7
    found = weighted_chi_square_cdf(0.0, np.array([1 / m, -c / n]), np.array([m, n]))
    assert found == pytest.approx(stats.f.cdf(c, m, n), abs=1e-10)


def test_one_degree_of_freedom_is_the_hard_case():
    assert weighted_chi_square_cdf(1.0, np.ones(1), np.ones(1)) == pytest.approx(stats.chi2.cdf(1, 1), abs=1e-6)


@pytest.mark.parametrize("n", [3, 40])
def test_likelihood_ratio_of_one_dimension_against_exact(n):
    """In one dimension the statistic is n (w - log w - 1), w = chi-square(n)/n, which is monotone on each side of 1."""
    from scipy.optimize import brentq

    x = 2.5

    def excess(w):
        return n * (w - np.log(w) - 1) - x

    low, high = brentq(excess, 1e-12, 1), brentq(excess, 1, 1e3)
    exact = stats.chi2.cdf(n * high, n) - stats.chi2.cdf(n * low, n)
    assert likelihood_ratio_cdf(x, n, 1) == pytest.approx(exact, abs=1e-6)


def test_likelihood_ratio_against_simulated_bartlett_factors():
    n, r, size = 12, 8, 100_000
    rng = np.random.default_rng(1)
    diagonal = rng.chisquare(n - np.arange(r), (size, r))
    trace = diagonal.sum(axis=1) + rng.chisquare(r * (r - 1) / 2, size)
    statistics = trace - n * np.log(diagonal / n).sum(axis=1) - n * r
    for q in (0.05, 0.5, 0.95):
        share = (statistics <= np.quantile(statistics, q)).mean()
        found = likelihood_ratio_cdf(float(np.quantile(statistics, q)), n, r)
        assert abs(found - share) < 4 * np.sqrt(q * (1 - q) / size)


def test_weighted_law_with_equal_weights_is_chi_square():
    weighted, plain = WeightedLaw(weights=np.full(4, 0.25), df_each=9), ScaleLaw(df=36)
    assert weighted.df == pytest.approx(36)
    assert weighted.interval(1.2, 0.95) == pytest.approx(plain.interval(1.2, 0.95))


def test_interval_and_tests_are_dual():
    laws = (
        ScaleLaw(df=12.5),
        ScaleLaw(df=12.5, df_denominator=40.0),
        WeightedLaw(weights=np.array([0.7, 0.2, 0.1]), df_each=8),
        LocationLaw(standard_error=0.2, df=9),
    )
    for law in laws:
        low, high = law.interval(1.3, 0.9)
        assert law.upper(1.3, low) == pytest.approx(0.05, abs=1e-8)
        assert law.lower(1.3, high) == pytest.approx(0.05, abs=1e-8)


def test_weighted_quantile_inverts_distribution_function():
    law = WeightedLaw(weights=np.array([0.8, 0.15, 0.05]), df_each=5)
    for q in (0.001, 0.025, 0.5, 0.975):
        assert law.lower(law.quantile(q), 1.0) == pytest.approx(q, abs=1e-9)
    assert law.lower(0.0, 1.0) == 0.0
