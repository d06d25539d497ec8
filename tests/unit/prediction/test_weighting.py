"""Weighting of two estimates against simulation and against minima found by search."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from kdstats.errors import ProblemError
from kdstats.prediction.closed_form import (
    estimated_gls_inflation,
    graybill_deal_variance,
    optimal_weight,
    published_oracle_gain,
)

Z = 4.0


@pytest.mark.parametrize(("v1", "v2", "n1", "n2"), [(1, 1, 4, 4), (1, 5, 3, 12), (0.2, 3, 11, 11), (2, 1, 2, 2)])
def test_graybill_deal_against_simulation(v1, v2, n1, n2):
    rng, size = np.random.default_rng(n1 + n2), 1_000_000
    first = 1 / (v1 * rng.chisquare(n1 - 1, size) / (n1 - 1))
    second = 1 / (v2 * rng.chisquare(n2 - 1, size) / (n2 - 1))
    drawn = np.sqrt([[v1], [v2]]) * rng.standard_normal((2, size))
    square = ((first * drawn[0] + second * drawn[1]) / (first + second)) ** 2
    truth = graybill_deal_variance(v1, v2, n1=n1, n2=n2)
    assert abs(square.mean() - truth) < Z * square.std() / np.sqrt(size)
    assert abs(square.mean() - truth) < 0.005 * truth
    assert abs(square.mean() - v1 * v2 / (v1 + v2)) > Z * square.std() / np.sqrt(size)


def test_graybill_deal_limits():
    assert graybill_deal_variance(1.0, 3.0, n1=10**6, n2=10**6) == pytest.approx(0.75, rel=1e-5)
    assert graybill_deal_variance(1.0, 3.0, n1=5, n2=9) == pytest.approx(
        graybill_deal_variance(3.0, 1.0, n1=9, n2=5), rel=1e-12
    )


@pytest.mark.parametrize(("n1", "n2", "better"), [(10, 10, False), (11, 11, True), (10, 18, False), (10, 19, True)])
def test_threshold_of_norwood_and_hinkelmann(n1, n2, better):
    ratios = np.geomspace(1e-4, 1e4, 161)
    worst = max(graybill_deal_variance(r, 1.0, n1=n1, n2=n2) / min(r, 1.0) for r in ratios)
    assert bool(worst <= 1.0 + 1e-12) is better


@pytest.mark.parametrize(("v_t", "v_s", "b", "c"), [(1, 0.5, 0.5, 0.3), (0.2, 2, 0, -0.5), (1, 1, 1, 0.9)])
def test_optimal_weight_is_the_minimum(v_t, v_s, b, c):
    noise = np.random.default_rng(6).multivariate_normal([0, b], [[v_t, c], [c, v_s]], 400_000)
    answer = optimal_weight(v_t, v_s, bias=b, covariance=c)
    found = minimize_scalar(lambda a: ((a * noise[:, 0] + (1 - a) * noise[:, 1]) ** 2).mean())
    square = (answer.weight * noise[:, 0] + (1 - answer.weight) * noise[:, 1]) ** 2
    assert abs(square.mean() - answer.mse) < Z * square.std() / np.sqrt(len(square))
    assert abs(found.x - answer.weight) < 0.01
    assert abs(found.x - v_s / (v_t + v_s)) > 0.01  # bias and covariance forgotten


@pytest.mark.parametrize("k", [2, 3, 10, 50])
def test_published_gain_against_simulation(k):
    squares = (1 + np.random.default_rng(k).chisquare(k - 1, 400_000) / k) ** -2
    assert abs(squares.mean() - published_oracle_gain(k)) < Z * squares.std() / np.sqrt(squares.size)
    assert abs(squares.mean() - published_oracle_gain(2 * k)) > Z * squares.std() / np.sqrt(squares.size)


@pytest.mark.parametrize("k", [12, 20])
def test_estimated_weights_inflate_least_squares(k):
    rng, n, size = np.random.default_rng(k), 1000, 4000
    weights = (k - 1) / rng.chisquare(k - 1, (size, n))
    square = n * ((weights * rng.standard_normal((size, n))).sum(axis=1) / weights.sum(axis=1)) ** 2
    assert abs(square.mean() - estimated_gls_inflation(k)) < Z * square.std() / np.sqrt(size)


def test_refusals():
    for call, message in (
        (lambda: graybill_deal_variance(1.0, 1.0, n1=1, n2=5), "`n1` must be at least 2"),
        (lambda: graybill_deal_variance(0.0, 1.0, n1=5, n2=5), "`v1` must be greater than 0"),
        (lambda: published_oracle_gain(1), "`n_responses` must be at least 2"),
        (lambda: estimated_gls_inflation(5), "infinite variance"),
        (lambda: optimal_weight(1.0, 1.0, covariance=1.5), "`covariance` must be at most 1 in size"),
        (lambda: optimal_weight(1.0, 1.0, covariance=1.0), "any weight gives the same"),
    ):
        with pytest.raises(ProblemError, match=message):
            call()
