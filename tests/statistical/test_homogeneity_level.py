"""Level and power of the test of homogeneity over 20 correlated points of rank 4."""

import numpy as np
import pytest
from scipy import stats

from kdstats.hypotest.homogeneity import bootstrap_reference, covariance_root, gaussian_reference, log_ratios

N_NULL, ALPHA = 2_000, 0.05
#: Two groups of ten points; within a group students differ almost by a common amount.
FACTOR = np.c_[np.repeat(np.eye(2), 10, axis=0), 0.3 * np.random.default_rng(7).normal(size=(20, 2))]
EXPECTED = (FACTOR**2).sum(axis=1)


def inside(n_rejected, n=N_NULL):
    low, high = stats.binom.interval(0.99, n, ALPHA)
    return low <= n_rejected <= high


def statistics(rng, n_students, n, stretch=1.0):
    students = rng.normal(size=(n, n_students, 4)) @ FACTOR.T
    students[..., 0] *= stretch
    return (log_ratios(students.var(axis=1, ddof=1), EXPECTED) ** 2).mean(axis=-1)


@pytest.mark.parametrize("n_students", [5, 30, 200])
def test_the_predicted_covariance_gives_an_exact_reference(n_students):
    rng = np.random.default_rng(1)
    found = statistics(rng, n_students, N_NULL)
    limit = np.quantile(gaussian_reference(FACTOR, EXPECTED, n_students, 8_000, rng), 1 - ALPHA)
    rejected = int((found > limit).sum())
    spread = np.sqrt(N_NULL * ALPHA * (1 - ALPHA) * (1 + N_NULL / 8_000))  # of the simulated limit as well
    assert abs(rejected - N_NULL * ALPHA) < stats.norm.ppf(0.995) * spread
    one = statistics(rng, n_students, 200, stretch=3.0)
    assert n_students == 5 or (one > limit).mean() > 0.9


def test_a_reference_of_independent_points_is_off():
    """Negative control: 20 points counted as independent."""
    rng = np.random.default_rng(2)
    limit = np.quantile(gaussian_reference(np.diag(np.sqrt(EXPECTED)), EXPECTED, 30, 8_000, rng), 1 - ALPHA)
    assert not inside((statistics(rng, 30, N_NULL) > limit).sum())


@pytest.mark.parametrize("kind", ["normal", "bootstrap"])
def test_estimated_correlation_holds_the_level(kind):
    rng, n, rejected = np.random.default_rng(3), 300, 0
    for _ in range(n):
        students = rng.normal(size=(60, 4)) @ FACTOR.T
        centered = students - students.mean(axis=0)
        variance = centered.var(axis=0, ddof=1)
        null = centered * np.sqrt(EXPECTED / variance)
        if kind == "normal":
            reference = gaussian_reference(covariance_root(null.T @ null / 59), EXPECTED, 60, 199, rng)
        else:
            reference = bootstrap_reference(null, EXPECTED, 199, rng)
        found = (log_ratios(variance, EXPECTED) ** 2).mean()
        rejected += (1 + (reference >= found).sum()) / 200 <= ALPHA
    assert inside(rejected, n)
